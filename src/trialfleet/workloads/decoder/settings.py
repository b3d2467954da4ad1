"""What stands beside published weights: config.json, as the library transformers reads it and writes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trialfleet.config.decoder import Decoder
from trialfleet.config.location import expanded
from trialfleet.errors import UserError
from trialfleet.workloads.decoder import PAD

FILE = "config.json"
Settings = dict[str, Any]


def of(config: Decoder, dtype: str, ends: tuple[int, ...]) -> Settings:
    """The file's content. Rotary positions are said in the older words, which all versions of the library read.

    Args:
        ends: tokens that end a text.

    Raises:
        UserError: the family's published models have no such config.
    """
    factor = config.global_rope_factor
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "attention_bias": False,
        "rope_theta": config.global_rope_base,
        "rope_scaling": None if factor == 1 else {"rope_type": "linear", "factor": factor},
        "torch_dtype": dtype,
        "pad_token_id": PAD,
        "eos_token_id": list(ends),
        **_OF_FAMILY[config.name](config),
    }


def _gemma3(config: Decoder) -> Settings:
    if config.global_every > 1 and config.window is None:
        raise _no_place("model.window: null", config, "set a window")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": config.query_scale or config.head_dim,
        **({} if config.window is None else {"sliding_window": config.window}),
        "sliding_window_pattern": config.global_every,
        "layer_types": _layer_types(config),
        "rope_local_base_freq": config.local_rope_base,
    }


def _layer_types(config: Decoder) -> list[str]:
    kinds = ("sliding_attention", "full_attention")
    return [kinds[(layer + 1) % config.global_every == 0] for layer in range(config.layers)]


def _llama(config: Decoder) -> Settings:
    if config.global_every != 1:
        raise _no_place(f"model.global_every: {config.global_every}", config, "set it to 1")
    if config.query_scale not in (None, config.head_dim):
        raise _no_place(f"model.query_scale: {config.query_scale}", config, "set it to null")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "mlp_bias": False,
    }


_OF_FAMILY: dict[str, Callable[[Decoder], Settings]] = {"gemma3": _gemma3, "llama": _llama}


def _no_place(said: str, config: Decoder, fix: str) -> UserError:
    return UserError(f"{said} has no place in the config.json of a published {config.name}", fix)


def read(folder: Path) -> Settings:
    """What a folder's file says of the text model; nothing where there is no file.

    Raises:
        UserError: it cannot be read.
    """
    path = expanded(folder) / FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {**found, **found.get("text_config", {})}  # the text part's, where there is a vision part
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {error}", "put the published file back, or remove it") from error


# What no shape of an array tells, in the file's words and in ours.
_SAID = {
    "rms_norm_eps": "norm_epsilon",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "query_pre_attn_scalar": "query_scale",
    "sliding_window": "window",
    "sliding_window_pattern": "global_every",
    "rope_theta": "global_rope_base",
    "rope_local_base_freq": "local_rope_base",
}


def contradictions(config: Decoder, said: Settings, at: str) -> list[str]:
    """Keys of ours that a file contradicts, each with what it says. What a file does not say it leaves to us.

    Args:
        at: where the model stands in the config.
    """
    found = {key: said[name] for name, key in _SAID.items() if said.get(name) is not None} | _rotary(said)
    own = {key: getattr(config, key) for key in found}
    if "query_scale" in own:
        own["query_scale"] = config.query_scale or config.head_dim
    lines = [f"{at}.{key} is {own[key]}, and there {value}" for key, value in found.items() if own[key] != value]
    if said.get("layer_types") not in (None, _layer_types(config)):
        lines.append(f"{at}.global_every is {config.global_every}, and there other layers are global")
    return lines


def _rotary(said: Settings) -> Settings:
    """Rotary positions by our keys, from the newer words of the file, or the older ones."""
    newer: Settings = said.get("rope_parameters") or {}
    everywhere: Settings = newer.get("full_attention", newer)
    local: Settings = newer.get("sliding_attention", {})
    found: Settings = {}
    if "rope_theta" in everywhere:
        found["global_rope_base"] = everywhere["rope_theta"]
    if "rope_theta" in local:
        found["local_rope_base"] = local["rope_theta"]
    if "rope_scaling" in said or everywhere:
        scaling: Settings = said.get("rope_scaling") or everywhere
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        scaled = scaling.get("factor") if kind == "linear" else f"of the kind {kind}, which no key of ours means"
        found["global_rope_factor"] = 1.0 if kind == "default" else scaled
    return found

"""What stands beside published weights: config.json, as the library transformers reads it."""

from collections.abc import Callable
from typing import Any

from trialfleet.config.decoder import Decoder
from trialfleet.errors import UserError
from trialfleet.workloads.decoder import PAD

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
    kinds = ("sliding_attention", "full_attention")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": config.query_scale or config.head_dim,
        "sliding_window": config.window or 1,
        "sliding_window_pattern": config.global_every,
        "layer_types": [kinds[(layer + 1) % config.global_every == 0] for layer in range(config.layers)],
        "rope_local_base_freq": config.local_rope_base,
    }


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

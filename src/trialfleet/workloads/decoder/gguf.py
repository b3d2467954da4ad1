"""A Gemma 3 in the words of llama.cpp's format GGUF, written as others publish it: weights, config.json, tokenizer.

No more is needed of the file than its metadata and its arrays; the library gguf reads both. The names are those of
gguf's `MODEL_TENSORS[GEMMA3]`, the rest is what llama.cpp's converter of Gemma's models does, backwards.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sentencepiece import sentencepiece_model_pb2

from trialfleet.config.decoder import Decoder
from trialfleet.errors import UserError
from trialfleet.training import publishing
from trialfleet.workloads.decoder import settings, tokenizer
from trialfleet.workloads.decoder.published import PREFIX, shapes

FAMILY = "gemma3"
# Of a layer's published names, the part behind its number.
_OF_LAYERS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_SINGLE = {f"{PREFIX}embed_tokens.weight": "token_embd.weight", f"{PREFIX}norm.weight": "output_norm.weight"}
# Metadata behind the family's name that says what a key of ours does.
_SIZES = {
    "embedding_length": "width",
    "block_count": "layers",
    "feed_forward_length": "hidden",
    "attention.head_count": "heads",
    "attention.head_count_kv": "kv_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "window",
    "attention.layer_norm_rms_epsilon": "norm_epsilon",
    "rope.freq_base": "global_rope_base",
}
_VOCABULARY = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # kinds of pieces, in both formats


class Content(NamedTuple):
    """What a GGUF file has.

    Attributes:
        metadata: by key.
        shapes: of its arrays by name, as NumPy says them: outputs first.
        array: the array of a name, float32.
    """

    metadata: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    array: Callable[[str], np.ndarray]


def write(folder: Path, config: Decoder, content: Content, dtype: str) -> None:
    """Write a folder with published weights, config.json and tokenizer.model; whole, or not at all.

    Args:
        config: the model that the file is to have.

    Raises:
        UserError: it has another one, or what it says is damaged.
    """
    check(config, content)
    special = {name: _said(content, f"{_VOCABULARY}{name}_token_id") for name in ("bos", "eos", "padding", "unknown")}
    tokens, scores, kinds = (_said(content, f"{_VOCABULARY}{name}") for name in ("tokens", "scores", "token_type"))
    model = sentencepiece_model(tokens, scores, kinds, special)
    with publishing.made(folder) as growing:
        (growing / "tokenizer.model").write_bytes(model)
        end = tokenizer.read(str(growing)).end_of_turn
        beside = {
            **settings.of(config, dtype, (special["eos"], end)),
            "bos_token_id": special["bos"],
            "max_position_embeddings": _said(content, f"{FAMILY}.context_length"),
        }
        publishing.write_json(growing / settings.FILE, beside)
        publishing.write(growing, shapes(config), arrays(config, content), dtype, float("inf"))


def check(config: Decoder, content: Content) -> None:
    """Raises:
    UserError: the file's model is not the config's.
    """
    if (family := _said(content, "general.architecture")) != FAMILY:
        raise UserError(f"the file has a model of the family {family!r}", f"give one of {FAMILY}")
    if (kind := _said(content, f"{_VOCABULARY}model")) != "llama":
        raise UserError(f"the file's tokenizer is of the kind {kind!r}", "give a file with a SentencePiece vocabulary")
    there = {key: _said(content, f"{FAMILY}.{name}") for name, key in _SIZES.items()}
    there["vocab_size"] = len(_said(content, f"{_VOCABULARY}tokens"))
    own = {key: getattr(config, key) for key in there}
    # Fractions are float32 there.
    if wrong := [key for key in there if own[key] is None or not np.isclose(own[key], there[key], rtol=1e-6, atol=0)]:
        lines = "; ".join(f"model.{key} is {own[key]}, and there {there[key]}" for key in wrong)
        raise UserError(f"the file has another model: {lines}", "give the file of the model that is to be made")
    wanted = {names(name): shape for name, shape in shapes(config).items()}
    for name, shape in wanted.items():
        if content.shapes.get(name) != shape:
            found = f"has {name} as {content.shapes[name]}" if name in content.shapes else f"has no {name}"
            raise UserError(f"the file {found}, and the model wants {shape}", "give a whole file of this model")
    if others := sorted(content.shapes.keys() - wanted.keys()):
        raise UserError(f"the model has no {', '.join(others[:5])}", "give the file of the model that is to be made")


def names(published: str) -> str:
    """The name there of an array with this published name."""
    if published in _SINGLE:
        return _SINGLE[published]
    number, _, rest = published.removeprefix(f"{PREFIX}layers.").partition(".")
    return f"blk.{number}.{_OF_LAYERS[rest.removesuffix('.weight')]}.weight"


def arrays(config: Decoder, content: Content) -> Iterator[tuple[str, np.ndarray]]:
    """The published arrays with their names, in the order of `published.shapes`."""
    for name, shape in shapes(config).items():
        array = content.array(names(name))
        # There a norm multiplies by its scale, as published by 1 plus its scale.
        yield name, array - 1 if len(shape) == 1 else array


def sentencepiece_model(tokens: list[str], scores: list[float], kinds: list[int], special: Mapping[str, int]) -> bytes:
    """A SentencePiece model with this vocabulary, as Gemma's is one: byte-pair encoding, no space before a text.

    Args:
        kinds: of each piece.
        special: numbers of bos, eos, padding and unknown.

    Raises:
        UserError: the three lists do not belong together, or it has not all it must have.
    """
    if not len(tokens) == len(scores) == len(kinds):
        raise UserError(
            f"the file has {len(tokens)} tokens, {len(scores)} scores and {len(kinds)} kinds of them",
            "give a whole file",
        )
    if outside := [name for name, number in special.items() if not 0 <= number < len(tokens)]:
        raise UserError(f"the file's token {outside[0]} is not among its {len(tokens)} tokens", "give a whole file")
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    for number, (token, score, kind) in enumerate(zip(tokens, scores, kinds, strict=True)):
        kind = _kind(number, kind, special)
        # llama.cpp's converter has put spaces where such pieces have SentencePiece's sign of one.
        model.pieces.add(piece=token.replace(" ", "▁") if kind == _USER_DEFINED else token, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = trainer.BPE, len(tokens), kinds.count(_BYTE) > 0
    for name, key in {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}.items():
        setattr(trainer, f"{key}_id", special[name])
        setattr(trainer, f"{key}_piece", tokens[special[name]])
    normalizer.name, normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = "identity", False, False
    return bytes(model.SerializeToString())


def _kind(number: int, kind: int, special: Mapping[str, int]) -> int:
    """What a piece was before the converter called all special ones control pieces, which no text can have."""
    if number == special["unknown"]:
        return _UNKNOWN
    if number in special.values():
        return _CONTROL
    return _USER_DEFINED if kind in (_CONTROL, _UNKNOWN) else kind


def _said(content: Content, key: str) -> Any:
    if key not in content.metadata:
        raise UserError(f"the file does not say {key}", "give a whole file of a Gemma 3 with its vocabulary")
    return content.metadata[key]

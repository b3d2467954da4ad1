"""A Whisper in the format of the library CTranslate2, written as others publish it: weights, config.json, tokenizer.

The format, version 6: numbers are little-endian, a text is its length with the closing zero (two bytes), and its bytes.
The version, the name and the revision of a kind of model, the number of arrays; of each array its name, the number of
its axes (one byte), their sizes, its type (one byte), its bytes; then other names for some of them.
"""

import json
import mmap
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trialfleet.errors import UserError
from trialfleet.training import publishing
from trialfleet.workloads.asr.encoder import positions

VERSION, MODEL = 6, "WhisperSpec"
TOKENIZER = "tokenizer.json"  # beside the file
_TYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16", 5: "bfloat16"}
_READ = ("float32", "float16")
_INTEGERS = ("int8", "int16", "int32")
_START, _END = "<|startoftranscript|>", "<|endoftext|>"
# The modules of a layer: the published name, and the name there.
_NORMS = {
    "self_attn_layer_norm": "self_attention/layer_norm",
    "encoder_attn_layer_norm": "attention/layer_norm",
    "final_layer_norm": "ffn/layer_norm",
}
_LINEAR = {
    "self_attn.out_proj": "self_attention/linear_1",
    "encoder_attn.q_proj": "attention/linear_0",
    "encoder_attn.out_proj": "attention/linear_2",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
}
# Queries, keys and values are one array there.
_FUSED = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
}


class Array(NamedTuple):
    """Where an array is in a file."""

    shape: tuple[int, ...]
    type: str
    first: int
    size: int  # in bytes


class Content:
    """The arrays of a file by their names; each is read when it is asked for.

    Raises:
        UserError: it is no such file, or not a whole one, or of another version or kind of model.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise self._wrong("it is empty")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        try:
            self.arrays = self._read()
        except (struct.error, UnicodeDecodeError) as error:
            raise self._wrong(f"is no whole file of CTranslate2 ({error})") from error

    def _read(self) -> dict[str, Array]:
        if (version := self._number("I")) != VERSION:
            raise self._wrong(f"is no file of CTranslate2 of version {VERSION}: it begins with {version}")
        if (kind := self._text()) != MODEL:
            raise self._wrong(f"has a model of the kind {kind!r}, not {MODEL}")
        self._number("I")  # the revision of the kind
        found = {}
        for _ in range(self._number("I")):
            name, axes = self._text(), self._number("B")
            shape = tuple(self._number("I") for _ in range(axes))
            kind, size = _TYPES.get(self._number("B"), "unknown"), self._number("I")
            found[name] = Array(shape, kind, self._at, size)
            self._at += size
            if self._at > len(self._bytes):
                raise self._wrong(f"ends in the middle of {name}")
        return found

    def _number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f"<{kind}", self._bytes, self._at)
        self._at += struct.calcsize(kind)
        return int(value)

    def _text(self) -> str:
        size = self._number("H")
        self._at += size
        return self._bytes[self._at - size : self._at - 1].decode()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an array.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self.arrays:
            raise self._wrong(f"has no {name}")
        return self.arrays[name].shape

    def array(self, name: str) -> np.ndarray:
        """An array, float32.

        Raises:
            UserError: there is none of this name, or it is quantised.
        """
        shape, kind, first, size = (self.shape(name), *self.arrays[name][1:])
        if kind not in _READ:
            raise self._wrong(f"has {name} as {kind}; {' and '.join(_READ)} can be read")
        found = np.frombuffer(self._bytes[first : first + size], kind)
        if found.size != np.prod(shape):
            raise self._wrong(f"has {found.size} numbers for the shape {shape} of {name}")
        return found.reshape(shape).astype(np.float32)

    def integer(self, name: str) -> int:
        """A single whole number.

        Raises:
            UserError: there is none of this name.
        """
        shape, kind, first, size = (self.shape(name), *self.arrays[name][1:])
        if shape or kind not in _INTEGERS:
            raise self._wrong(f"has {name} as {kind} of the shape {shape}, not as a whole number")
        return int(np.frombuffer(self._bytes[first : first + size], kind)[0])

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self._path}: {what}", "give a whole, unquantised model.bin of a Whisper")


def write(folder: Path, file: Path, dtype: str) -> dict[str, int]:
    """Write a folder with published weights, config.json and tokenizer.json; whole, or not at all.

    Args:
        file: model.bin, with a tokenizer.json beside it.

    Returns:
        What the keys of `model.encoder` must be to begin from it.

    Raises:
        UserError: the file or the tokenizer beside it cannot be read.
    """
    content, special = Content(file), _special(file.with_name(TOKENIZER))
    layers = {part: _layers(content, part) for part in ("encoder", "decoder")}
    arrays = {name: array for part, count in layers.items() for name, array in published(content, part, count)}
    shapes = {name: array.shape for name, array in arrays.items()}
    said = _settings(content, layers, dtype) | special
    with publishing.made(folder) as growing:
        shutil.copyfile(file.with_name(TOKENIZER), growing / TOKENIZER)
        publishing.write_json(growing / "config.json", said)
        publishing.write(growing, shapes, iter(arrays.items()), dtype, float("inf"))
    return {
        "bands": said["num_mel_bins"],
        "width": said["d_model"],
        "layers": said["encoder_layers"],
        "heads": said["encoder_attention_heads"],
        "hidden": said["encoder_ffn_dim"],
    }


def _layers(content: Content, part: str) -> int:
    found = {name.split("/")[1] for name in content.arrays if name.startswith(f"{part}/layer_")}
    return len(found - {"layer_norm"})


def published(content: Content, part: str, layers: int) -> Iterator[tuple[str, np.ndarray]]:
    """The published arrays of the encoder or of the decoder, with their names."""
    prefix = f"model.{part}."
    if part == "encoder":
        for name in ("conv1", "conv2"):
            yield from _linear(content, f"encoder/{name}", f"{prefix}{name}")
    else:
        yield f"{prefix}embed_tokens.weight", content.array("decoder/embeddings/weight")
    yield f"{prefix}embed_positions.weight", content.array(f"{part}/position_encodings/encodings")
    for layer in range(layers):
        own, there = f"{prefix}layers.{layer}.", f"{part}/layer_{layer}/"
        for name, other in _NORMS.items():
            if f"{there}{other}/gamma" in content.arrays:
                yield from _norm(content, f"{there}{other}", f"{own}{name}")
        for name, other in _LINEAR.items():
            if f"{there}{other}/weight" in content.arrays:
                yield from _linear(content, f"{there}{other}", f"{own}{name}")
        for other, names in _FUSED.items():
            if f"{there}{other}/weight" in content.arrays:
                yield from _split(content, f"{there}{other}", [f"{own}{name}" for name in names])
    yield from _norm(content, f"{part}/layer_norm", f"{prefix}layer_norm")


def _norm(content: Content, there: str, name: str) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", content.array(f"{there}/gamma")
    yield f"{name}.bias", content.array(f"{there}/beta")


def _linear(content: Content, there: str, name: str) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", content.array(f"{there}/weight")
    yield f"{name}.bias", content.array(f"{there}/bias")


def _split(content: Content, there: str, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Several matrices with their biases; keys have none, as published."""
    weights = np.split(content.array(f"{there}/weight"), len(names))
    biases = np.split(content.array(f"{there}/bias"), len(names))
    for name, weight, bias in zip(names, weights, biases, strict=True):
        yield f"{name}.weight", weight
        if not name.endswith("k_proj"):
            yield f"{name}.bias", bias


def _settings(content: Content, layers: Mapping[str, int], dtype: str) -> dict[str, Any]:
    """config.json, as the library transformers reads it."""
    width, bands, _ = content.shape("encoder/conv1/weight")
    vocabulary, _ = content.shape("decoder/embeddings/weight")
    places = {part: content.shape(f"{part}/position_encodings/encodings")[0] for part in layers}
    table = content.array("encoder/position_encodings/encodings")
    if not np.allclose(table, positions(*table.shape), atol=2e-3):  # float16 has no more digits
        raise UserError(
            "the file's positions of the encoder are not those of a Whisper", "give an unchanged model.bin of one"
        )
    hidden = {part: content.shape(f"{part}/layer_0/ffn/linear_0/weight")[0] for part in layers}
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "torch_dtype": dtype,
        "vocab_size": vocabulary,
        "num_mel_bins": bands,
        "d_model": width,
        **{f"{part}_layers": count for part, count in layers.items()},
        **{f"{part}_attention_heads": content.integer(f"{part}/num_heads") for part in layers},
        **{f"{part}_ffn_dim": size for part, size in hidden.items()},
        "max_source_positions": places["encoder"],
        "max_target_positions": places["decoder"],
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
    }


def _special(path: Path) -> dict[str, int]:
    """The tokens that begin and end a text."""
    try:
        added = json.loads(path.read_text(encoding="utf-8"))["added_tokens"]
        known = {str(token["content"]): int(token["id"]) for token in added}
        end, start = known[_END], known[_START]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no tokenizer of a Whisper ({error!r})", "put its tokenizer.json there") from error
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}

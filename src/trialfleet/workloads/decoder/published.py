"""A decoder's weights under their published names: those of the causal language models in the library transformers.

There a layer's matrix is (outputs, inputs), heads are part of an axis, and each layer has arrays of its own; here
matrices are (inputs, outputs), heads are an axis, and layers are stacked.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from trialfleet.config.decoder import Decoder
from trialfleet.errors import UserError
from trialfleet.training.published import PublishedWeights
from trialfleet.workloads.decoder import families, settings
from trialfleet.workloads.decoder.transformer import norms

PREFIX = "model."
# What stands before the names of all but the scores' matrix, and the name of that. Where there is a vision part, too,
# the text part's names are longer: in two ways, by the library's version.
HEADS = {
    PREFIX: "lm_head.weight",
    "language_model.model.": "language_model.lm_head.weight",
    "model.language_model.": "lm_head.weight",
}
_BUFFER = ".rotary_emb.inv_freq"  # no weight: old files have it
# Our leaves that are one array, with their names behind the prefix; the last has none behind it.
_SINGLE = {"embedder/input_embedding": "embed_tokens.weight", "final_norm": "norm.weight", "unembedder": ""}


class Matrix(NamedTuple):
    """The published matrix of a layer's weight, and the axes of ours that it is made of."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def matrices(config: Decoder) -> dict[str, list[Matrix]]:
    """Those of each weight of a layer; keys and values are one weight here, with an axis for the two."""
    width, queries, keys = (config.width,), (config.heads, config.head_dim), (config.kv_heads, config.head_dim)
    return {
        "attn/q_einsum": [Matrix("self_attn.q_proj", width, queries)],
        "attn/kv_einsum": [Matrix("self_attn.k_proj", width, keys), Matrix("self_attn.v_proj", width, keys)],
        "attn/attn_vec_einsum": [Matrix("self_attn.o_proj", queries, width)],
        "mlp/gate_proj": [Matrix("mlp.gate_proj", width, (config.hidden,))],
        "mlp/up_proj": [Matrix("mlp.up_proj", width, (config.hidden,))],
        "mlp/down_proj": [Matrix("mlp.down_proj", (config.hidden,), width)],
    }


def shapes(config: Decoder, prefix: str = PREFIX) -> dict[str, tuple[int, ...]]:
    """The published arrays by name, in the order of a forward pass."""
    found: dict[str, tuple[int, ...]] = {f"{prefix}embed_tokens.weight": (config.vocab_size, config.width)}
    published = families.of(config).norms
    for layer in range(config.layers):
        for name, size in norms(config).items():
            found[f"{prefix}layers.{layer}.{published[name]}.weight"] = (size,)
        for each in matrices(config).values():
            for matrix in each:
                shape = (prod(matrix.outputs), prod(matrix.inputs))
                found[f"{prefix}layers.{layer}.{matrix.name}.weight"] = shape
    found[f"{prefix}norm.weight"] = (config.width,)
    if not config.tied:
        found[HEADS[prefix]] = (config.vocab_size, config.width)
    return found


class DecoderWeights:
    """Reads published weights in slices of our leaves.

    Args:
        weights: the folder's.
        at: where the model stands in the config, for messages.

    Attributes:
        prefix: what stands before the names of its layers.

    Raises:
        UserError: the arrays are not those of the model, or have other shapes, or the config beside them is another.
    """

    def __init__(self, config: Decoder, weights: PublishedWeights, at: str = "model") -> None:
        self._key, self._at = f"{at}.weights", at
        self._config, self._weights, self._matrices = config, weights, matrices(config)
        self._norms = families.of(config).norms
        found = [prefix for prefix in HEADS if f"{prefix}embed_tokens.weight" in weights.names]
        if not found:
            raise UserError(
                f"{self._key}: there is no array {PREFIX}embed_tokens.weight", "give the folder of a published decoder"
            )
        self.prefix = found[0]
        self._check_arrays()
        if wrong := settings.contradictions(config, settings.read(weights.folder), at):
            raise UserError(
                f"{self._key}: {weights.folder / settings.FILE} is of another model: {'; '.join(wrong)}",
                "set these keys as they are there; to do otherwise, take that file away",
            )

    def _check_arrays(self) -> None:
        """Another model is refused: one that has other arrays, more of them, or others of the same names."""
        wanted = shapes(self._config, self.prefix)
        for name, shape in wanted.items():
            there = self._weights.shape(name)
            # Rows of the vocabulary may follow that the text model has no use for.
            of_vocabulary = name in (f"{self.prefix}embed_tokens.weight", HEADS[self.prefix])
            longer = of_vocabulary and there[1:] == shape[1:] and there[0] >= shape[0]
            if there != shape and not longer:
                raise UserError(
                    f"{self._key}: {name} has the shape {there}, and the config's model wants {shape}", _CHOOSE
                )
        if HEADS[self.prefix] in self._weights.names - wanted.keys():
            raise UserError(
                f"{self._key}: scores of tokens have a matrix of their own there, {HEADS[self.prefix]}",
                f"say {self._at}.tied=false",
            )
        others = sorted(name for name in self._weights.names - wanted.keys() if name.startswith(self.prefix))
        if unknown := [name for name in others if not name.endswith(_BUFFER)]:
            raise UserError(f"{self._key}: the config's model has no {', '.join(unknown[:5])}", _CHOOSE)

    def read(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        """One slice of a leaf; None for what is not published: adapters.

        Args:
            index: a slice for each axis of the leaf.
        """
        if path in _SINGLE:
            name = self.prefix + _SINGLE[path] if _SINGLE[path] else HEADS[self.prefix]
            rows, *rest = index
            size = self._config.width if path == "final_norm" else self._config.vocab_size
            return self._weights.read(name, (slice(*rows.indices(size)), *rest))
        name = path.removeprefix("layers/")
        if name not in self._norms and name not in self._matrices:
            return None
        layers = range(self._config.layers)[index[0]]
        return np.stack([self._of_layer(f"{self.prefix}layers.{layer}.", name, index[1:]) for layer in layers])

    def _of_layer(self, prefix: str, name: str, index: tuple[slice, ...]) -> np.ndarray:
        if name in self._norms:
            return self._weights.read(f"{prefix}{self._norms[name]}.weight", index)
        if name != "attn/kv_einsum":
            return self._of_matrix(prefix, self._matrices[name][0], index)
        width, which, *heads = index
        chosen = self._matrices[name][which]
        return np.stack([self._of_matrix(prefix, one, (width, *heads)) for one in chosen], 1)

    def _of_matrix(self, prefix: str, matrix: Matrix, index: tuple[slice, ...]) -> np.ndarray:
        count = len(matrix.inputs)
        columns, rows = _merged(matrix.inputs, index[:count]), _merged(matrix.outputs, index[count:])
        part = self._weights.read(f"{prefix}{matrix.name}.weight", (rows, columns)).T
        first = (rows.stop - rows.start) // prod(matrix.outputs[1:])
        part = part.reshape(-1, *matrix.inputs[1:], first, *matrix.outputs[1:])
        # Of a merged axis the inner ones were read whole.
        return part[(slice(None), *index[1:count], slice(None), *index[count + 1 :])]


_CHOOSE = "choose the model of these weights, such as gemma3_270m or smollm2_360m"


def _merged(sizes: Sequence[int], index: Sequence[slice]) -> slice:
    """The slice of axes that are merged into one: of the first of them."""
    start, stop, _ = index[0].indices(sizes[0])
    inner = prod(sizes[1:])
    return slice(start * inner, stop * inner)


def published(
    config: Decoder, single: Callable[[str], np.ndarray], layer: Callable[[int], Mapping[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """The published arrays of a model with their names, in the order of `shapes`; made one after the other.

    Args:
        single: a leaf of ours by its path, of those that no layer has.
        layer: a layer's leaves by their path in it, without adapters.
    """
    yield f"{PREFIX}embed_tokens.weight", single("embedder/input_embedding")
    for number in range(config.layers):
        own, prefix = layer(number), f"{PREFIX}layers.{number}."
        for name, other in families.of(config).norms.items():
            yield f"{prefix}{other}.weight", own[name]
        for name, each in matrices(config).items():
            for matrix, part in zip(each, parts(name, own[name]), strict=True):
                flat = part.reshape(prod(matrix.inputs), prod(matrix.outputs))
                yield f"{prefix}{matrix.name}.weight", np.ascontiguousarray(flat.T)
    yield f"{PREFIX}norm.weight", single("final_norm")
    if not config.tied:
        yield HEADS[PREFIX], single("unembedder")


def parts(name: str, weight: np.ndarray) -> list[np.ndarray]:
    """A layer's weight (inputs ..., outputs ...), or the second matrix of its adapter, for each published matrix."""
    return [weight[:, 0], weight[:, 1]] if name == "attn/kv_einsum" else [weight]

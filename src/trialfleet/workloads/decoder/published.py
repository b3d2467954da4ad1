"""A Gemma 3's weights under their published names: those of `Gemma3ForCausalLM` in the library transformers.

There a layer's matrix is (outputs, inputs), heads are part of an axis, and each layer has arrays of its own; here
matrices are (inputs, outputs), heads are an axis, and layers are stacked.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from trialfleet.config.decoder import Decoder
from trialfleet.errors import UserError
from trialfleet.training.published import PublishedWeights

KEY = "model.weights"
_PREFIXES = ("model.", "language_model.model.", "model.language_model.")  # the latter two where there is a vision part
_NORMS = {
    "pre_attention_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "pre_ffw_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "attn/query_norm": "self_attn.q_norm",
    "attn/key_norm": "self_attn.k_norm",
}


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


class DecoderWeights:
    """Reads published weights in slices of our leaves.

    Args:
        weights: the folder's.

    Raises:
        UserError: the arrays are not those of the model, or have other shapes.
    """

    def __init__(self, config: Decoder, weights: PublishedWeights) -> None:
        self._config, self._weights, self._matrices = config, weights, matrices(config)
        found = [prefix for prefix in _PREFIXES if f"{prefix}embed_tokens.weight" in weights.names]
        if not found:
            raise UserError(
                f"{KEY}: there is no array model.embed_tokens.weight", "give the folder of a published Gemma 3"
            )
        self._prefix = found[0]
        self._check_shapes()

    def _check_shapes(self) -> None:
        for name, shape in shapes(self._config).items():
            there = self._weights.shape(self._prefix + name)
            # Rows of the vocabulary may follow that the text model has no use for.
            longer = name == "embed_tokens.weight" and there[1:] == shape[1:] and there[0] >= shape[0]
            if there != shape and not longer:
                raise UserError(
                    f"{KEY}: {self._prefix}{name} has the shape {there}, and the config's model wants {shape}",
                    "choose the model of these weights: model=gemma3_270m|gemma3_1b|…",
                )

    def read(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        """One slice of a leaf; None for what is not published: adapters.

        Args:
            index: a slice for each axis of the leaf.
        """
        if path == "embedder/input_embedding":
            rows, columns = index
            rows = slice(*rows.indices(self._config.vocab_size))
            return self._weights.read(f"{self._prefix}embed_tokens.weight", (rows, columns))
        if path == "final_norm":
            return self._weights.read(f"{self._prefix}norm.weight", index)
        name = path.removeprefix("layers/")
        if name not in _NORMS and name not in self._matrices:
            return None
        layers = range(self._config.layers)[index[0]]
        return np.stack([self._of_layer(f"{self._prefix}layers.{layer}.", name, index[1:]) for layer in layers])

    def _of_layer(self, prefix: str, name: str, index: tuple[slice, ...]) -> np.ndarray:
        if name in _NORMS:
            return self._weights.read(f"{prefix}{_NORMS[name]}.weight", index)
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


def _merged(sizes: Sequence[int], index: Sequence[slice]) -> slice:
    """The slice of axes that are merged into one: of the first of them."""
    start, stop, _ = index[0].indices(sizes[0])
    inner = prod(sizes[1:])
    return slice(start * inner, stop * inner)


def shapes(config: Decoder) -> dict[str, tuple[int, ...]]:
    """The published arrays, by their names behind the model's prefix."""
    found: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (config.vocab_size, config.width),
        "norm.weight": (config.width,),
    }
    for layer in range(config.layers):
        for name, published in _NORMS.items():
            size = config.head_dim if name.startswith("attn/") else config.width
            found[f"layers.{layer}.{published}.weight"] = (size,)
        for each in matrices(config).values():
            for matrix in each:
                shape = (prod(matrix.outputs), prod(matrix.inputs))
                found[f"layers.{layer}.{matrix.name}.weight"] = shape
    return found


def published(config: Decoder, params: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The published arrays of a model, with their names.

    Args:
        params: our leaves by path, without adapters.
    """
    yield "model.embed_tokens.weight", params["embedder/input_embedding"]
    yield "model.norm.weight", params["final_norm"]
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        for name, other in _NORMS.items():
            yield f"{prefix}{other}.weight", params[f"layers/{name}"][layer]
        for name, each in matrices(config).items():
            weight = params[f"layers/{name}"][layer]
            parts = [weight[:, 0], weight[:, 1]] if name == "attn/kv_einsum" else [weight]
            for matrix, part in zip(each, parts, strict=True):
                flat = part.reshape(prod(matrix.inputs), prod(matrix.outputs))
                yield f"{prefix}{matrix.name}.weight", np.ascontiguousarray(flat.T)

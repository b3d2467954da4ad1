"""The weights of a Whisper's encoder under their published names: those in the library transformers.

There a layer's matrix is (outputs, inputs), heads are part of an axis, and each layer has arrays of its own; here
matrices are (inputs, outputs), heads are an axis, and layers are stacked.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from trialfleet.config.asr_decoder import AudioEncoder
from trialfleet.errors import UserError
from trialfleet.training import trees
from trialfleet.training.published import PublishedWeights
from trialfleet.training.workload import Params
from trialfleet.workloads.asr.encoder import outputs, positions, shapes, stack
from trialfleet.workloads.decoder import settings

PREFIX = "model.encoder."
PREFIXES = (PREFIX, "encoder.", "")  # before the published names, by what was saved
PLACES = 1500  # frames of 30 s: so long is the published table of positions
_POSITIONS = "embed_positions.weight"
# Ours, and the published name of each module of a layer.
_MODULES = {
    "attn_norm": "self_attn_layer_norm",
    "mlp_norm": "final_layer_norm",
    "attn/query": "self_attn.q_proj",
    "attn/key": "self_attn.k_proj",
    "attn/value": "self_attn.v_proj",
    "attn/out": "self_attn.out_proj",
    "mlp/up": "fc1",
    "mlp/down": "fc2",
}
_HEADS = "encoder_attention_heads"  # in config.json
_KINDS = {"w": "weight", "b": "bias", "scale": "weight"}


class EncoderWeights:
    """Reads published weights in slices of our leaves.

    Args:
        weights: the folder's.
        key: of the config, for messages.

    Raises:
        UserError: the arrays are not those of the model, or have other shapes, or the config beside them is another.
    """

    def __init__(self, config: AudioEncoder, weights: PublishedWeights, key: str) -> None:
        self._weights, self._config = weights, config
        found = [prefix for prefix in PREFIXES if f"{prefix}conv1.weight" in weights.names]
        if not found:
            raise UserError(f"{key}: there is no array encoder.conv1.weight", "give the folder of a published Whisper")
        self._prefix = found[0]
        for path, shape in shapes(config).items():
            wanted = _published_shape(path, shape)
            for name in _names(config, path, self._prefix):
                there = weights.shape(name)
                if there != wanted:
                    raise UserError(
                        f"{key}: {name} has the shape {there}, and the config's model wants {wanted}",
                        "choose the encoder of these weights",
                    )
        if f"{self._prefix}layers.{config.layers}.fc1.weight" in weights.names:
            raise UserError(f"{key}: there are more than {config.layers} layers", "choose the encoder of these weights")
        heads = settings.read(weights.folder).get(_HEADS, config.heads)  # which no shape tells
        if heads != config.heads:
            raise UserError(
                f"{key}: {weights.folder / settings.FILE} is of another model: model.encoder.heads is {config.heads}, "
                f"and there {heads}",
                "set it as it is there; to do otherwise, take that file away",
            )

    def read(self, path: str, index: tuple[slice, ...]) -> np.ndarray:
        """One slice of a leaf.

        Args:
            index: a slice for each axis of the leaf.
        """
        shape, stacked = shapes(self._config)[path], stack(path)
        names = _names(self._config, path, self._prefix)
        chosen = names[index[0]] if stacked else names
        whole = [_ours(path, self._weights.read(name), shape[stacked:])[index[stacked:]] for name in chosen]
        return np.stack(whole) if stacked else whole[0]


def _names(config: AudioEncoder, path: str, prefix: str) -> list[str]:
    """The published arrays that a leaf is stacked of."""
    module, _, kind = path.removeprefix("layers/").rpartition("/")
    if stack(path):
        return [f"{prefix}layers.{layer}.{_MODULES[module]}.{_KINDS[kind]}" for layer in range(config.layers)]
    return [f"{prefix}{'layer_norm' if module == 'final_norm' else module}.{_KINDS[kind]}"]


def _published_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    own = shape[stack(path) :]
    if not path.endswith("/w"):
        return (prod(own),)
    if path.startswith("conv"):
        return own[::-1]
    count = outputs(path)
    return prod(own[-count:]), prod(own[:-count])


def _ours(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A published array in the shape of a leaf: there outputs come first, and heads are part of an axis."""
    return array.T.reshape(shape) if path.endswith("/w") else array.reshape(shape)


def published_shapes(config: AudioEncoder) -> dict[str, tuple[int, ...]]:
    """The published arrays by name, in the order of `published`."""
    found: dict[str, tuple[int, ...]] = {f"{PREFIX}{_POSITIONS}": (PLACES, config.width)}
    for path, shape in shapes(config).items():
        found |= dict.fromkeys(_names(config, path, PREFIX), _published_shape(path, shape))
    return found


def published(config: AudioEncoder, params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """The published arrays with their names, the table of positions first; made one after the other.

    Args:
        params: those of the encoder.
    """
    yield f"{PREFIX}{_POSITIONS}", positions(PLACES, config.width)
    flat = trees.flatten(params)
    for path, shape in shapes(config).items():
        leaf, wanted = flat[path], _published_shape(path, shape)
        for number, name in enumerate(_names(config, path, PREFIX)):
            own = np.asarray(leaf[number] if stack(path) else leaf, np.float32)
            yield name, _theirs(path, own, wanted)


def _theirs(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `_ours`."""
    if not path.endswith("/w"):
        return array.reshape(shape)
    if path.startswith("conv"):
        return np.ascontiguousarray(array.T)
    return np.ascontiguousarray(array.reshape(*shape[::-1]).T)

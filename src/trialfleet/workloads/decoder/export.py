"""Writes a decoder as others read it: a model of the library transformers, or an adapter of peft's."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trialfleet.config.decoder import Decoder
from trialfleet.config.location import expanded
from trialfleet.errors import UserError
from trialfleet.training import lora, publishing, trees
from trialfleet.training.published import PublishedWeights
from trialfleet.training.publishing import Order
from trialfleet.training.workload import Params
from trialfleet.workloads.decoder import adapter, settings, tokenizer
from trialfleet.workloads.decoder.published import PREFIX, DecoderWeights, published, shapes

_KEPT = ("max_position_embeddings", "bos_token_id", "pad_token_id")  # of the base's config.json
_GENERATION = "generation_config.json"
_ENDS = "eos_token_id"  # in both of these files
_OF_TOKENIZER = (  # files, as the usual library reads them together
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


class DecoderPublisher:
    """See `trialfleet.training.publishing.Publisher`.

    Args:
        at: where the model stands in the config, for messages.
        ends: tokens that end a text.
    """

    def __init__(self, model: Decoder, at: str, ends: tuple[int, ...]) -> None:
        self._model, self._at, self._ends = model, at, ends

    def check(self, order: Order) -> None:
        """
        Raises:
            UserError: there are no adapters, or no published model of the family has such a config.
        """
        if order.form == "adapter" and self._model.lora_rank is None:
            raise UserError(
                f"form=adapter: the model has no adapters ({self._at}.lora_rank is null)", "say form=merged"
            )
        if order.form == "merged":
            self._settings(order.dtype)

    def write(self, folder: Path, params: Params, order: Order) -> int:
        """
        Args:
            params: the decoder's.
        """
        model = self._model
        if order.form == "adapter":
            return self._write_adapter(folder, params, order)
        files = _write_merged(folder, model, params, order)
        publishing.write_json(folder / settings.FILE, self._settings(order.dtype))
        _copy_beside(model, folder)
        self._end_alike(folder / _GENERATION)
        return files

    def _settings(self, dtype: str) -> dict[str, Any]:
        """config.json: what our config says, and what the base's alone says."""
        own = settings.of(self._model, dtype, self._ends)
        base = {} if self._model.weights is None else settings.read(Path(self._model.weights))
        return {**own, **{key: base[key] for key in _KEPT if key in base}, _ENDS: self._all_ends(base.get(_ENDS))}

    def _all_ends(self, of_base: Any) -> Any:
        """Tokens that end a text: those with which it was trained, and then the base's."""
        known = of_base if isinstance(of_base, list) else [] if of_base is None else [of_base]
        return of_base if set(self._ends) <= set(known) else list(dict.fromkeys([*self._ends, *known]))

    def _end_alike(self, path: Path) -> None:
        """Give the copied settings of generation, if there are some, the ends of `config.json`."""
        if path.is_file():
            found = json.loads(path.read_text())
            ends = self._all_ends(found.get(_ENDS))
            if ends != found.get(_ENDS):
                publishing.write_json(path, {**found, _ENDS: ends})

    def _write_adapter(self, folder: Path, params: Params, order: Order) -> int:
        model, prefix = self._model, self._base_prefix()

        def layer(number: int) -> Mapping[str, np.ndarray]:
            return _layer(params, number, lora.is_adapter)

        publishing.write_file(
            folder / "adapter_model.safetensors",
            adapter.shapes(model, prefix),
            adapter.arrays(model, layer, prefix),
            order.dtype,
        )
        base = order.base or (None if model.weights is None else str(expanded(model.weights).absolute()))
        publishing.write_json(folder / "adapter_config.json", adapter.settings(model, base, prefix))
        return 1

    def _base_prefix(self) -> str:
        """What stands before the names of the layers in the model that the library makes of the base."""
        model = self._model
        if model.weights is None:
            return PREFIX
        weights = PublishedWeights(Path(model.weights), f"{self._at}.weights")
        return PREFIX if DecoderWeights(model, weights, self._at).prefix == PREFIX else "model.language_model."


def _write_merged(folder: Path, model: Decoder, params: Params, order: Order) -> int:
    flat = trees.flatten(params)

    def single(path: str) -> np.ndarray:
        return np.asarray(flat[path])

    def layer(number: int) -> Mapping[str, np.ndarray]:
        own = _layer(params, number)
        if model.lora_rank is None:
            return own
        with jax.default_matmul_precision("highest"):
            return _leaves(lora.merged(trees.unflatten(own), model.lora_alpha / model.lora_rank))

    return publishing.write(folder, shapes(model), published(model, single, layer), order.dtype, order.most)


def _layer(params: Params, number: int, chosen: Callable[[str], bool] = lambda path: True) -> dict[str, np.ndarray]:
    """A layer's leaves, float32, by their path in it."""
    stacked = trees.flatten(params["layers"])
    return {path: np.asarray(leaf[number], np.float32) for path, leaf in stacked.items() if chosen(path)}


def _leaves(tree: Params) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(tree).items()}


def _copy_beside(model: Decoder, folder: Path) -> None:
    """The base's settings of generation, and the files of the model's own tokenizer, or of the base's."""
    base = None if model.weights is None else expanded(model.weights)
    if base is not None:
        _copy((_GENERATION,), base, folder)
    if model.tokenizer is None:
        if base is not None:
            _copy(_OF_TOKENIZER, base, folder)
        return
    own = tokenizer.file_of(model.tokenizer)
    if own.name in tokenizer.FILES:
        _copy(_OF_TOKENIZER, own.parent, folder)
    shutil.copyfile(own, folder / f"tokenizer{own.suffix}")


def _copy(names: Sequence[str], source: Path, folder: Path) -> None:
    """Those of the files that are there."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)

"""Writes a checkpoint's decoder as others read it: a model of the library transformers, or an adapter of peft's."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from trialfleet.config import Config
from trialfleet.config.decoder import Decoder
from trialfleet.errors import UserError
from trialfleet.training import distributed, lora, publishing, trained, trees
from trialfleet.training.published import PublishedWeights
from trialfleet.training.setup import Setup
from trialfleet.training.workload import Params
from trialfleet.workloads.decoder import adapter, settings, tokenizer
from trialfleet.workloads.decoder.published import PREFIX, DecoderWeights, published, shapes

_KEPT = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")  # of the base's config.json
# What the weights' folder has besides, and the model needs, too.
_BESIDE = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


class Order(NamedTuple):
    """What is to be written.

    Attributes:
        folder: where; it must not be there yet.
        form: merged, with adapters added into the weights; or adapter, the adapters alone.
        dtype: of the arrays, float32 or bfloat16.
        most: bytes of a file, at most.
        base: what the adapter names as its base; None: the folder of the published weights.
    """

    folder: Path
    form: str
    dtype: str
    most: float
    base: str | None


def export(config: Config, checkpoint: str, order: Order) -> int:
    """Write a checkpoint's model; whole, or not at all.

    The model is on the devices once, as it is for an evaluation, and leaves them one layer at a time; for an adapter
    only what was trained is.

    Returns:
        How many files of weights there are.

    Raises:
        UserError: the model is no decoder or has no adapters, the target is there, or the checkpoint is not.
    """
    model = _decoder(config, order)
    beside = _model_settings(config, model, order.dtype) if order.form == "merged" else {}
    distributed.join()
    if jax.process_count() > 1:
        raise UserError(f"an export is by one process, and there are {jax.process_count()}", "start one")
    setup = Setup(config)
    if order.form == "adapter":
        params = trained.read_trained(setup, checkpoint)
        with publishing.made(order.folder) as folder:
            return _write_adapter(folder, model, params, order)
    state, frozen = trained.read(setup, checkpoint)
    with publishing.made(order.folder) as folder:
        files = _write_merged(folder, model, trees.merge(state.params, frozen), order)
        publishing.write_json(folder / settings.FILE, beside)
        _copy_beside(model, folder)
    return files


def _decoder(config: Config, order: Order) -> Decoder:
    """The config's model, if the order can be carried out."""
    model = getattr(config, "model", None)
    if not isinstance(model, Decoder):
        raise UserError(
            f"workload={config.workload.name}: its model is no decoder, and has no published form",
            "export one of workload=grpo or grpo_base",
        )
    if order.form == "adapter" and model.lora_rank is None:
        raise UserError("form=adapter: the model has no adapters (model.lora_rank is null)", "say form=merged")
    if order.folder.exists():
        raise UserError(f"to: {order.folder} is there already", "name another folder, or remove it")
    return model


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


def _write_adapter(folder: Path, model: Decoder, params: Params, order: Order) -> int:
    prefix = _base_prefix(model)

    def layer(number: int) -> Mapping[str, np.ndarray]:
        return _layer(params, number, lora.is_adapter)

    publishing.write_file(
        folder / "adapter_model.safetensors",
        adapter.shapes(model, prefix),
        adapter.arrays(model, layer, prefix),
        order.dtype,
    )
    base = order.base or (None if model.weights is None else str(Path(model.weights).expanduser().absolute()))
    publishing.write_json(folder / "adapter_config.json", adapter.settings(model, base, prefix))
    return 1


def _layer(params: Params, number: int, chosen: Callable[[str], bool] = lambda path: True) -> dict[str, np.ndarray]:
    """A layer's leaves, float32, by their path in it."""
    stacked = trees.flatten(params["layers"])
    return {path: np.asarray(leaf[number], np.float32) for path, leaf in stacked.items() if chosen(path)}


def _leaves(tree: Params) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(tree).items()}


def _base_prefix(model: Decoder) -> str:
    """What stands before the names of the layers in the model that the library makes of the base."""
    if model.weights is None:
        return PREFIX
    there = DecoderWeights(model, PublishedWeights(Path(model.weights), "model.weights")).prefix
    return PREFIX if there == PREFIX else "model.language_model."


def _model_settings(config: Config, model: Decoder, dtype: str) -> dict[str, Any]:
    """config.json: what our config says, and what the base's alone says."""
    generation = getattr(config, "generation", None)
    own = settings.of(model, dtype, () if generation is None else generation.eos_tokens)
    base = {} if model.weights is None else settings.read(Path(model.weights))
    return {**own, **{key: base[key] for key in _KEPT if key in base}}


def _copy_beside(model: Decoder, folder: Path) -> None:
    """The tokenizer's files, of the base's folder or of its own."""
    for name in _BESIDE if model.weights is not None else ():
        source = Path(str(model.weights)).expanduser() / name
        if source.is_file():
            shutil.copyfile(source, folder / name)
    if model.tokenizer is not None:
        own = tokenizer.file_of(model.tokenizer)
        shutil.copyfile(own, folder / f"tokenizer{own.suffix}")

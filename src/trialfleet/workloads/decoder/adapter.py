"""A decoder's adapters as the library peft has them.

There each published matrix has an adapter of its own, A (rank, inputs) and B (outputs, rank). Ours of keys and values
is one for the two: W x + scale · B (A x) in whose outputs keys come first. So each of the two published ones has the
same A and its own rows of B: what the model calculates is the same, and so is scale, which is alpha / rank.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from trialfleet.config.decoder import Decoder
from trialfleet.training import lora
from trialfleet.workloads.decoder.published import PREFIX, Matrix, matrices, parts
from trialfleet.workloads.decoder.transformer import adapted

_BEFORE = "base_model.model."  # stands before the model's own names


def _matrices(config: Decoder) -> dict[str, list[Matrix]]:
    """Those that are adapted, by our weight."""
    return {name: each for name, each in matrices(config).items() if adapted(config, name)}


def shapes(config: Decoder, prefix: str = PREFIX) -> dict[str, tuple[int, ...]]:
    """The arrays by name.

    Args:
        prefix: what stands before the names of the base's layers.
    """
    rank = config.lora_rank or 0
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(config.layers):
        for each in _matrices(config).values():
            for matrix in each:
                name = f"{_BEFORE}{prefix}layers.{layer}.{matrix.name}"
                found[f"{name}.lora_A.weight"] = (rank, prod(matrix.inputs))
                found[f"{name}.lora_B.weight"] = (prod(matrix.outputs), rank)
    return found


def arrays(config: Decoder, layer: Callable[[int], Mapping[str, np.ndarray]], prefix: str = PREFIX) -> Iterator[Any]:
    """The arrays with their names, in the order of `shapes`.

    Args:
        layer: a layer's leaves by their path in it.
    """
    rank = config.lora_rank or 0
    for number in range(config.layers):
        own = layer(number)
        for name, each in _matrices(config).items():
            a, b = own[name + lora.A], own[name + lora.B]
            for matrix, part in zip(each, parts(name, b), strict=True):
                published = f"{_BEFORE}{prefix}layers.{number}.{matrix.name}"
                yield f"{published}.lora_A.weight", np.ascontiguousarray(a.reshape(-1, rank).T)
                yield f"{published}.lora_B.weight", np.ascontiguousarray(part.reshape(rank, -1).T)


def settings(config: Decoder, base: str | None, prefix: str = PREFIX) -> dict[str, Any]:
    """The content of adapter_config.json.

    Args:
        base: the folder or the name of the model that is adapted.
    """
    names = sorted(matrix.name for each in _matrices(config).values() for matrix in each)
    ends = [name.rpartition(".")[2] for name in names]
    # Beside a vision part, which has modules of the same names, those of the text part alone are meant.
    within = rf"{re.escape(prefix)}layers\.\d+\.({'|'.join(map(re.escape, names))})"
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "target_modules": ends if prefix == PREFIX else within,
        "lora_dropout": config.lora_dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
    }

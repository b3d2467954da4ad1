"""The memory that a Slurm job asks for: read from a script's parameters, and scaled; and its GPUs."""

import math
import re
from collections.abc import Mapping
from typing import Any

_KEYS = ("mem", "mem_per_cpu", "mem_per_gpu")
_MEGABYTES = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0**2}  # Slurm's default unit is a megabyte
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)


def scaled(parameters: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The parameters of a script with `factor` times the memory, rounded up to a megabyte.

    Whichever of `mem`, `mem_per_cpu` and `mem_per_gpu` are set, also among `additional_parameters`. Unchanged if none
    is, or if it is no size: 0 is all that a node has.
    """
    if factor == 1.0:
        return dict(parameters)
    grown = {key: _grown(value, factor) if _name(key) in _KEYS else value for key, value in parameters.items()}
    more = parameters.get("additional_parameters")
    return {**grown, "additional_parameters": scaled(more, factor)} if more else grown


def gigabytes(parameters: Mapping[str, Any], factor: float = 1.0) -> float | None:
    """GB of each node that a script with these parameters asks for if they are scaled; None if it sets no memory."""
    asked = flat(scaled(parameters, factor))
    tasks = _count(asked.get("ntasks_per_node"))
    gpus = _gpus(asked, tasks) or 1
    cpus = _count(asked.get("cpus_per_task")) * tasks
    if asked.get("cpus_per_gpu") is not None:
        cpus = _count(asked["cpus_per_gpu"]) * gpus
    for key, times in zip(_KEYS, (1, cpus, gpus), strict=True):
        if size := _megabytes(asked.get(key)):
            return size * times / 1024
    return None


def flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a script says in the end: `additional_parameters` go before the others."""
    more = parameters.get("additional_parameters") or {}
    return {**parameters, **{_name(key): value for key, value in more.items()}}


def _name(key: str) -> str:
    """sbatch's options have hyphens where submitit's parameters have underscores."""
    return str(key).replace("-", "_")


def _megabytes(size: Any) -> float | None:
    """A size in Slurm's grammar; None if it is none, or 0."""
    found = _SIZE.fullmatch(str(size).strip())
    return float(found[1]) * _MEGABYTES[found[2].upper()] or None if found else None


def _grown(size: Any, factor: float) -> Any:
    megabytes = _megabytes(size)
    if megabytes is None:
        return size
    grown = math.ceil(round(megabytes * factor, 6))  # 1.1 times 1000 is 1100, not 1101
    return f"{grown // 1024}G" if grown % 1024 == 0 else f"{grown}M"


def gpus(parameters: Mapping[str, Any]) -> int:
    """GPUs of each node that a script with these parameters asks for."""
    asked = flat(parameters)
    return _gpus(asked, _count(asked.get("ntasks_per_node")))


def _gpus(asked: Mapping[str, Any], tasks: int) -> int:
    """GPUs of a node, by whichever key asks for them; 0 if none does."""
    if asked.get("gpus_per_node"):
        return _count(asked["gpus_per_node"])
    if asked.get("gpus_per_task"):
        return _count(asked["gpus_per_task"]) * tasks
    wanted = [item for item in str(asked.get("gres") or "").split(",") if item.partition(":")[0] == "gpu"]
    return sum(_count(item) for item in wanted)


def _count(value: Any) -> int:
    """The number in `2`, `"2"`, `"a100:2"` or `"gpu:a100:2"`; 1 where there is none."""
    last = str(value).rpartition(":")[2]
    return int(last) if last.isdecimal() and int(last) else 1

"""Which keys of the config are read while the tests run: a key that nothing reads is a mistake.

Each worker of the test run notes what its tests read; the run as a whole judges (tests/conftest.py).
"""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import trialfleet.config
from trialfleet.config import derive, traced

ROOT = Path(__file__).parents[2]
# These look at every key alike: that they do so says nothing.
GENERAL = {derive.__name__, traced.__name__, dataclasses.__name__, "trialfleet.config.load", "copy", "pickle"}
ALIKE = {"__eq__", "__hash__", "__repr__", "__lt__"}  # so do these methods of a dataclass
seen: set[str] = set()  # "module.Class.field", or "key:optimizer.beta1" of a hyperparameter


def schemas() -> set[type]:
    """All dataclasses of the config."""
    found: set[type] = set()
    for module in pkgutil.iter_modules(trialfleet.config.__path__, "trialfleet.config."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module.name:
                found.add(value)
    return found - {traced.Field}


def defining(kind: type, field: str) -> str:
    """The class that brings a field, and the field."""
    owner = next(base for base in kind.__mro__ if field in inspect.get_annotations(base))
    return f"{owner.__module__.rpartition('.')[2]}.{owner.__name__}.{field}"


def record_attributes() -> None:
    """From now on each read of a field is noted."""
    for kind in schemas():
        names = {field.name: defining(kind, field.name) for field in dataclasses.fields(kind)}
        setattr(kind, "__getattribute__", _recording(kind.__getattribute__, names))  # noqa: B010


def _recording(plain: Any, names: dict[str, str]) -> Any:
    def read(self: object, name: str) -> Any:
        if name in names and names[name] not in seen:
            frame = sys._getframe(1)
            reader = str(frame.f_globals.get("__name__"))
            if frame.f_code.co_name not in ALIKE and reader not in GENERAL and not reader.startswith("tests."):
                seen.add(names[name])
        return plain(self, name)

    return read


def record_hyperparameters() -> None:
    """From now on each hyperparameter that a program asks for is noted. Imports jax."""
    import jax

    from trialfleet.training import program

    class Recording(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            seen.add(f"key:{key}")
            return super().__getitem__(key)

        def get(self, key: str, default: Any = None) -> Any:
            seen.add(f"key:{key}")
            return super().get(key, default)

    def unflattened(keys: Iterable[str], values: Iterable[Any]) -> Recording:
        return Recording(zip(keys, values, strict=True))

    jax.tree_util.register_pytree_node(
        Recording, lambda hp: (tuple(dict.values(hp)), tuple(dict.keys(hp))), unflattened
    )
    program.named_hyperparameters = lambda names, values: Recording(zip(names, values, strict=True))


def unread(noted: Iterable[str]) -> set[str]:
    """The fields that nothing reads.

    A hyperparameter is read by its key; what tells the members of a union apart is read by pydantic; what another key
    of conf/ takes its value from is read there; and `workload.schema` is read before there is a class to be read.
    """
    noted = set(noted)
    keys = {key.removeprefix("key:").rpartition(".")[2] for key in noted if key.startswith("key:")}
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "conf").rglob("*.yaml")]
    interpolated = {match for text in texts for match in re.findall(r"\$\{([a-z_.]+)\}", text)}
    of_study = {f"schema.Study.{key.removeprefix('study.')}" for key in interpolated if key.startswith("study.")}
    if of_study:
        of_study.add("schema.Config.study")
    found = set()
    for kind in schemas():
        for field in traced.schema_fields(kind):
            name = defining(kind, field.name)
            by_key = field.mark in (traced.Mark.TRACED, traced.Mark.GATED) and field.name in keys
            if field.name != "name" and name not in noted | of_study | {"schema.Workload.schema"} and not by_key:
                found.add(name)
    return found

"""What follows from the marks on the schema: a trial's signature, its hyperparameters, its static part."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from trialfleet.config.schema import Config
from trialfleet.config.traced import Mark, schema_fields

Plain = Any  # what JSON can say
FLOAT32_MAX, FLOAT32_MIN = 3.4028234663852886e38, 1.1754943508222875e-38  # smaller ones may be flushed to 0


class Withheld:
    """Stands in a static config where the value is not part of the program: using it there is a mistake.

    It is equal to every other of its kind, so static configs of trials that differ in numbers only are equal.
    """

    def __init__(self, mark: Mark) -> None:
        self.mark = mark

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Withheld) and other.mark is self.mark

    def __hash__(self) -> int:
        return hash((Withheld, self.mark))

    def __repr__(self) -> str:
        return f"<{self.mark.value}>"

    def __bool__(self) -> bool:
        raise TypeError(f"a {self.mark.value} value is no part of the program; read it from hp, or on the host")


class FrozenMap(dict[str, Any]):
    """A mapping that is part of a static config: hashable, and never changed once made."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self.items(), key=lambda item: item[0])))


def hyperparameters(config: Config) -> dict[str, float]:
    """The traced values by dotted key, in a fixed order: the inputs of the compiled step.

    A null has no entry, nor has a gated value of zero; that they are absent is part of the signature.
    """
    return {key: float(value) for key, value, mark in _leaves(config) if _is_input(value, mark)}


def beyond_float32(config: Config) -> list[str]:
    """The inputs of the compiled step that would reach it as infinite, or as 0 though they are not; a line for each."""
    return [
        f"{key}: {value!r} is {'more' if abs(value) > 1 else 'closer to 0'} than a float32 can be, which the step reads"
        for key, value in hyperparameters(config).items()
        if abs(value) > FLOAT32_MAX or 0 < abs(value) < FLOAT32_MIN
    ]


def signature(config: Config) -> dict[str, Plain]:
    """What decides which program is compiled: static values, and '<traced>' where an input goes in.

    Trials with equal signatures share one compilation.
    """
    return {key: _shown(value, mark) for key, value, mark in _leaves(config) if mark is not Mark.HOST}


def static_part(config: Config) -> Config:
    """The config as the compiled program may see it: hashable, and without what is not part of it.

    Traced and host values are replaced by a `Withheld` that cannot be calculated with; a null stays null, and
    a gated zero stays zero.
    """
    static: Config = _static(config, Mark.STATIC)
    return static


def _leaves(node: Any, prefix: str = "", mark: Mark = Mark.STATIC) -> Iterator[tuple[str, Any, Mark]]:
    """Every value below a node by dotted key; a mark on a field holds for all that is below it."""
    for name, child, child_mark in _children(node, mark):
        key = f"{prefix}.{name}" if prefix else name
        if _is_branch(child):
            yield from _leaves(child, key, child_mark)
        else:
            yield key, child, child_mark


def _children(node: Any, mark: Mark) -> Iterator[tuple[str, Any, Mark]]:
    if dataclasses.is_dataclass(node):
        kind: Any = type(node)
        for field in schema_fields(kind):
            yield field.name, getattr(node, field.name), mark if mark is Mark.HOST else field.mark
    elif isinstance(node, Mapping):
        for name in sorted(node):
            yield name, node[name], mark
    else:
        for index, item in enumerate(node):
            yield str(index), item, mark


def _is_branch(value: Any) -> bool:
    return dataclasses.is_dataclass(value) or isinstance(value, Mapping | tuple)


def _is_input(value: Any, mark: Mark) -> bool:
    return value is not None and (mark is Mark.TRACED or (mark is Mark.GATED and value != 0))


def _shown(value: Any, mark: Mark) -> Plain:
    return "<traced>" if _is_input(value, mark) else value


def _static(node: Any, mark: Mark) -> Any:
    if not _is_branch(node):
        return Withheld(mark) if mark is Mark.HOST or _is_input(node, mark) else node
    if mark is Mark.HOST:
        return Withheld(mark)
    parts = {name: _static(child, child_mark) for name, child, child_mark in _children(node, mark)}
    if isinstance(node, Mapping):
        return FrozenMap(parts)
    if isinstance(node, tuple):
        return tuple(parts.values())
    bare = object.__new__(type(node))  # around the validation: a Withheld is none of the field's types
    for name, value in parts.items():
        object.__setattr__(bare, name, value)
    return bare

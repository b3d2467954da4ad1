"""Marks on schema fields: whether a value is part of the compiled program, an input to it, or neither.

A field without a mark is *static*: two configs that differ in it compile different programs.
"""

from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict

T = TypeVar("T")


class Mark(Enum):
    """How the compiled step sees a field."""

    TRACED = "traced"  # an input: trials that differ in it share one program; null or not is static
    GATED = "gated"  # an input too, but zero leaves its whole term out of the program
    HOST = "host"  # never reaches the program: read by the loop, the data or the driver only
    STATIC = "static"  # part of the program


Traced = Annotated[T, Mark.TRACED]
Gated = Annotated[T, Mark.GATED]
Host = Annotated[T, Mark.HOST]

# Every dataclass of the schema: unknown keys are refused, 1 may stand for 1.0 but not '1' for 1, nothing is infinite
# (what it weighs would be no number), and a loaded config never changes. No field has a default: conf/ holds them all.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Field:
    """A field of a schema dataclass and how the compiled step sees it."""

    name: str
    mark: Mark


@cache
def schema_fields(schema: type) -> tuple[Field, ...]:
    """The fields of a schema dataclass with their marks, in the order of definition."""
    hints = get_type_hints(schema, include_extras=True)
    return tuple(Field(field.name, _mark(hints[field.name])) for field in fields(schema))


def _mark(annotation: Any) -> Mark:
    """The mark on an annotation or on what it is built of, as in `Traced[float] | None`."""
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Mark):
            return extra
    marks = (_mark(part) for part in get_args(annotation))
    return next((mark for mark in marks if mark is not Mark.STATIC), Mark.STATIC)

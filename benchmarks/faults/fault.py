"""What a fault is: a name, the class it belongs to, and what it does to a study."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.faults.study import Study

Strike = Callable[[Study], bool]


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        kind: its class.
        strike: does it, at a moment and to a target that the study's chance chooses; False if it cannot be done now.
        between: whether it falls between two drivers, and not while one runs.
        needs: what the study must have: "journal", "sqlite", "postgres" (its storage), "slurm", "tmpfs".
    """

    name: str
    kind: str
    strike: Strike
    between: bool
    needs: frozenset[str]


ALL: list[Fault] = []


def fault(kind: str, *needs: str, between: bool = False) -> Callable[[Strike], Strike]:
    """Makes a function the strike of a fault, which has its name."""

    def register(strike: Strike) -> Strike:
        name = strike.__name__.replace("_", " ").strip()
        ALL.append(Fault(name, kind, strike, between, frozenset(needs)))
        return strike

    return register


def of_class(kind: str, has: frozenset[str]) -> list[Fault]:
    """The faults of a class that a study with these properties can meet."""
    return [one for one in ALL if one.kind == kind and one.needs <= has]

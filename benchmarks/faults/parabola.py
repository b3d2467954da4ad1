"""What the task computes, and which trial does what besides: plain arithmetic, for the task and the checker."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# What a trial does besides its work, and the states in which it may end for that; the type of its error if it fails.
MISDEEDS = {
    "thread": ("COMPLETE", ""),  # a thread that never ends
    "atexit": ("COMPLETE", ""),  # an exit handler that hangs
    "child": ("COMPLETE", ""),  # a child in a session of its own that lives on
    "note": ("COMPLETE", ""),  # a note that is no JSON
    "host memory": ("COMPLETE", ""),  # MemoryError, in its first run
    "big log": ("COMPLETE", ""),  # a log of 4 GB, then it is killed, in its first run
    "killed": ("COMPLETE", ""),  # killed after its first checkpoint, in its first run
    "full disk": ("COMPLETE", ""),  # ENOSPC at a checkpoint, in its first run
    "surrogate": ("FAIL", "ValueError"),  # an exception whose text is no UTF-8
    "device memory": ("FAIL", "OutOfMemory"),  # XLA's RESOURCE_EXHAUSTED
    "exit": ("FAIL", "SystemExit"),  # sys.exit in the middle
    "not a number": ("FAIL", "WrongReturn"),  # returns NaN
}


@dataclass
class State:
    """All that a checkpoint holds: a ball that rolls towards y."""

    step: int = 0
    position: float = 10.0
    velocity: float = 0.0

    def advance(self, x: float, y: float) -> None:
        self.step += 1
        noise = math.sin(self.step * 12.9898) * 0.01
        self.velocity = 0.5 * self.velocity - 0.1 * x * (2 * (self.position - y) + noise)
        self.position += self.velocity

    def loss(self, y: float) -> float:
        return (self.position - y) ** 2 + y


def undisturbed(x: float, y: float, steps: int) -> list[tuple[float, float]]:
    """(loss, position) after each step of a trial with these parameters; the last loss is its objective."""
    state, found = State(), []
    for _ in range(steps):
        state.advance(x, y)
        found.append((state.loss(y), state.position))
    return found


def misdeed(x: float, chosen: Sequence[str]) -> str:
    """What the trial with this x does besides its work: one of `chosen`, or nothing if none is."""
    return chosen[int(x * 1e9) % len(chosen)] if chosen else ""

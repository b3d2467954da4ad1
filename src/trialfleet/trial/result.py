"""How a trial ended: what result.json says."""

import contextlib
import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trialfleet.trial import causes, records
from trialfleet.trial.identity import Identity

OUT_OF_MEMORY = "OutOfMemory"  # type of the error of a trial that needs more memory than it can have


class TrialState(StrEnum):
    """How a trial ended, in Optuna's words."""

    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Result:
    """What result.json says.

    Attributes:
        objectives: the task's return value, one number for each direction; None unless COMPLETE.
        error: {"type", "message", "traceback"} of a failure, or why a trial was given up.
        seconds: where the time went, by part.
        run: label of the run that committed ("2.0"), or None when the driver did.
        notes: what else the run had to say of itself.
        identity: the trial that it is the result of; `TrialDir.commit` sets it.
    """

    state: TrialState
    objectives: Sequence[float] | None
    error: dict[str, str] | None
    seconds: dict[str, float]
    run: str | None
    notes: dict[str, Any]
    identity: Identity = field(default=Identity(None, None), compare=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "study": self.identity.study,
            "params": self.identity.params,
            "state": self.state.value,
            "objectives": self.objectives,
            "error": self.error,
            "seconds": self.seconds,
            "run": self.run,
            "notes": self.notes,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Result":
        """Raises:
        KeyError, TypeError, ValueError: the record is no result.
        """
        values, error, seconds, notes = record["objectives"], record["error"], record["seconds"], record["notes"]
        state = TrialState(record["state"])
        objectives = None if values is None else [records.number(value) for value in values]
        if (state is TrialState.COMPLETE) != (objectives is not None):
            raise ValueError(f"{state} with objectives {objectives}")
        if error is not None and not all(isinstance(error[key], str) for key in ("type", "message", "traceback")):
            raise TypeError("error holds something else than texts")
        return cls(
            state,
            objectives,
            error,
            {str(part): records.number(value) for part, value in dict(seconds).items()},
            None if record["run"] is None else str(record["run"]),
            dict(notes),
            Identity(record.get("study"), record.get("params")),
        )


def judged(value: Any, n_objectives: int) -> tuple[TrialState, Sequence[float] | None, dict[str, str] | None]:
    """A task's return value as (state, objectives, error): a wrong one is a failure that says what it should be.

    Whatever the value's own code does when it is converted or shown: the work is done, and its end must not be lost.
    """
    why = ""
    try:
        objectives = [float(value)] if n_objectives == 1 else [float(item) for item in value]
    except BaseException as failure:  # noqa: BLE001  # raised by the value's own code
        objectives = []
        cause = f"{type(failure).__name__}: {causes.text(failure)[:500]}"
        why = f": {cause}" if value is not None else ", as a function without `return` does"
    if len(objectives) == n_objectives and not any(math.isnan(item) for item in objectives):
        return TrialState.COMPLETE, objectives, None
    wanted = "a number" if n_objectives == 1 else f"{n_objectives} numbers"
    message = f"the task must return {wanted} (not NaN), it returned {shown(value)[:1000]}{why}"
    return TrialState.FAIL, None, {"type": "WrongReturn", "message": message, "traceback": ""}


def spent(noted: Any, total: float) -> dict[str, float]:
    """Where a run's time went (seconds): all of it, and whatever parts the task noted that are numbers.

    Args:
        noted: what the task noted as `seconds`; anything.
        total: that the run took.
    """
    known = {}
    for name, value in noted.items() if isinstance(noted, dict) else ():
        if isinstance(value, int | float):
            with contextlib.suppress(OverflowError):  # no float holds an int of hundreds of digits
                known[name] = float(value)
    return {**known, "total": total}


def shown(value: Any) -> str:
    """A value as Python writes it; its type, and why there is no more, if its own code fails."""
    try:
        return repr(value)
    except BaseException as failure:  # noqa: BLE001  # raised by the value's own code
        return f"a {type(value).__name__} (it cannot be shown: {type(failure).__name__})"


def described(failure: BaseException) -> dict[str, str]:
    """An exception as result.json records it, whatever its author's __str__ does."""
    try:
        trace = "".join(traceback.format_exception(failure))
    except BaseException:  # noqa: BLE001  # raised by the exception's own code
        trace = ""
    return {"type": type(failure).__name__, "message": causes.text(failure)[:2000], "traceback": trace[-20000:]}

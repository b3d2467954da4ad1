"""For how long a job takes one trial after another: told to it by the driver that submits it."""

import json
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass

VARIABLE = "TRIALFLEET_WORKER"  # in a job's environment; one without it runs one trial


@dataclass(frozen=True)
class Terms:
    """When a worker leaves, besides at the end of the study.

    Attributes:
        trials: that it runs at most; None for any number.
        minutes: after which it takes no more; None for any time.
        idle: seconds that it waits for another one.
        failures: in a row after which its process may be at fault.
        growth_gb: by which its memory may have grown since its first trial ended.
    """

    trials: int | None
    minutes: float | None
    idle: float
    failures: int
    growth_gb: float

    def environment(self) -> dict[str, str]:
        """What tells a job."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def taken_from(cls, environment: MutableMapping[str, str]) -> "Terms | None":
        """A job's terms; None if it is to run one trial. They are not left for a study that the task may start."""
        text = environment.pop(VARIABLE, "")
        return None if not text else cls(**json.loads(text))

"""What the deaths of several jobs say together: somebody cancelled them all, or a node is bad."""

from collections import Counter
from collections.abc import Collection, Mapping

from trialfleet.sweep.fleet import Fleet
from trialfleet.sweep.tracked import Tracked

MASS_CANCEL = 3  # jobs cancelled from outside at about the same time: somebody meant it
BAD_NODE_DEATHS = 3  # trials in a row that died on a node and survived elsewhere: it gets no more


def mass_cancelled(trials: Collection[Tracked], fleets: Mapping[str, Fleet]) -> int:
    """The number of jobs that were cancelled from outside, if they are many and half of all; else 0."""
    cancelled = sum(_cancelled_outside(trial, fleets) for trial in trials)
    return cancelled if cancelled >= MASS_CANCEL and 2 * cancelled >= len(trials) else 0


def _cancelled_outside(trial: Tracked, fleets: Mapping[str, Fleet]) -> bool:
    job = trial.record.job
    fleet = None if job is None else fleets.get(job.launcher)
    return job is not None and fleet is not None and fleet.cancelled(job) and not trial.dir.result_json.exists()


class Nodes:
    """Where trials died and where they ended well."""

    def __init__(self) -> None:
        self._deaths: dict[int, str] = {}  # trial → the node where its last run died
        self._blame: Counter[str] = Counter()

    def died(self, trial: Tracked) -> None:
        self._deaths[trial.number] = trial.node()

    def ended(self, trial: Tracked) -> str | None:
        """A trial that died on a node and then ended well on another one speaks against the first.

        Returns:
            the node against which enough trials have now spoken, or None.
        """
        died_on, ended_on = self._deaths.pop(trial.number, ""), trial.node()
        self._blame.pop(ended_on, None)  # it is not the node, if others end well there
        if not died_on or not ended_on or died_on == ended_on:
            return None
        self._blame[died_on] += 1
        return died_on if self._blame[died_on] == BAD_NODE_DEATHS else None

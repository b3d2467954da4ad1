"""What the deaths of several jobs say together: somebody cancelled them all, or a node is bad."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.fleets.base import Fleet

MASS_CANCEL = 3  # jobs cancelled from outside at about the same time: somebody meant it
BAD_NODE_DEATHS = 3  # deaths in a row that count against a node: it gets no more
FORGIVEN = 10  # deaths before the claim that a trial's nodes may take the blame for, three nodes' worth


def mass_cancelled(trials: Collection[ActiveTrial], fleets: Mapping[str, Fleet]) -> int:
    """The number of jobs that were cancelled from outside, if they are many and half of all; else 0."""
    cancelled = sum(_cancelled_outside(trial, fleets) for trial in trials)
    return cancelled if cancelled >= MASS_CANCEL and 2 * cancelled >= len(trials) else 0


def _cancelled_outside(trial: ActiveTrial, fleets: Mapping[str, Fleet]) -> bool:
    job = trial.record.job
    fleet = None if job is None else fleets.get(job.launcher)
    return job is not None and fleet is not None and fleet.cancelled(job) and not trial.dir.result_json.exists()


def _none_known(than: Collection[str]) -> bool:
    return False


class Nodes:
    """Where jobs died, before and after their claim, and where they claimed and ended well.

    Args:
        has_other_nodes: whether jobs could go to a node that is none of these (`Fleet.has_other_nodes`).
    """

    def __init__(self, has_other_nodes: Callable[[Collection[str]], bool] = _none_known) -> None:
        self._has_other_nodes = has_other_nodes
        self._deaths: dict[int, str] = {}  # trial → the node where its last run died
        self._blame: Counter[str] = Counter()  # by trials that died there and ended well elsewhere
        self._claimed: set[str] = set()
        self._blamed: set[str] = set()  # nodes with deaths before a claim since the last claim there
        self._in_a_row: Counter[str] = Counter()  # such deaths that count against the node
        self._forgiven: Counter[int] = Counter()  # such deaths of a trial
        self._excluded: set[str] = set()

    def died(self, trial: int, node: str) -> None:
        """A run of the trial was lost on the node."""
        self._deaths[trial] = node

    def ended(self, trial: int, node: str) -> str | None:
        """A trial that died on a node and then ended well on another one speaks against the first.

        Args:
            node: where it ended.

        Returns:
            the node against which enough trials have now spoken, or None.
        """
        died_on, ended_on = self._deaths.pop(trial, ""), node
        self._blame.pop(ended_on, None)  # it is not the node, if others end well there
        if not died_on or not ended_on or died_on == ended_on:
            return None
        self._blame[died_on] += 1
        if self._blame[died_on] < BAD_NODE_DEATHS or died_on in self._excluded:
            return None
        self._excluded.add(died_on)
        return died_on

    def claimed(self, node: str) -> None:
        """A job began on the node: until then it may have been at fault, now it is not."""
        if node:
            self._claimed.add(node)
            self._blamed.discard(node)
            del self._in_a_row[node]

    def died_unclaimed(self, node: str, trial: int | None = None) -> bool:
        """A job died before it could claim its trial. A set-up that is broken kills on every node.

        Args:
            node: where; empty if nobody knows.
            trial: whose job it was. What kills one trial's jobs wherever they go is no node's fault: it is forgiven
                a number of deaths and no more.

        Returns:
            whether the death counts against the trial; else it counts against the node.
        """
        counts = self.counts(node, trial)
        if not node:
            return counts
        suspected = self._suspected(node)
        self._blamed.add(node)
        if suspected:
            self._in_a_row[node] += 1
            self._forgiven.update([] if trial is None else [trial])
        return counts

    def counts(self, node: str, trial: int | None = None) -> bool:
        """What `died_unclaimed` would return, without taking note of a death."""
        if not node or not self._suspected(node):
            return True
        return trial is not None and self._forgiven[trial] >= FORGIVEN

    def _suspected(self, node: str) -> bool:
        """Whether a death on the node tells of the node: jobs begin elsewhere, or could, and die nowhere else."""
        begun_elsewhere = bool(self._claimed - self._excluded - {node})
        alone = self._blamed <= {node} and self._has_other_nodes(self._excluded | {node})
        return begun_elsewhere or alone

    def to_exclude(self) -> list[str]:
        """Nodes that have killed enough jobs before their claim, in a row. Each is named once, and one node is left."""
        new: list[str] = []
        for node, deaths in self._in_a_row.items():
            if deaths >= BAD_NODE_DEATHS and node not in self._excluded and self._suspected(node):
                self._excluded.add(node)
                new.append(node)
        return new

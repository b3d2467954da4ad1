"""More memory for the next run of a trial whose last one ran out of the host's."""

from dataclasses import dataclass

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.reconcile import Memory


@dataclass(frozen=True)
class MemoryGrowth:
    """What a run may have.

    Attributes:
        fleet: whose jobs ask for memory. A trial's record has the factor on what the launcher's settings ask for.
        growth: factor from one run to the next (`hydra.sweeper.memory_growth`).
        most_gb: GB that no run gets more than (`hydra.sweeper.max_memory_gb`); None for what the launcher grants.
    """

    fleet: Fleet
    growth: float
    most_gb: float | None

    def next_factor(self, factor: float) -> float | None:
        """The factor for the run after one with `factor`.

        Returns:
            None if there is no more to be had; `factor` itself if the launcher does not say how much there is.
        """
        asked = self.fleet.memory_gb(factor)
        if asked is None:
            return factor
        grown = factor * self.growth
        if self.most_gb is not None:
            grown = min(grown, factor * self.most_gb / asked)
        return grown if grown > 1.001 * factor else None

    def judged(self, trial: ActiveTrial) -> Memory:
        """Whether the memory of the run that ended sufficed."""
        if not trial.ran_out_of_memory:
            return Memory.ENOUGH
        return Memory.SPENT if self.next_factor(trial.record.memory) is None else Memory.SHORT

    def next_run(self, trial: ActiveTrial) -> tuple[str, float]:
        """Why a trial that ran out of memory is started again, in words, and the factor that it gets."""
        factor = trial.record.memory
        reason, grown = self.described(trial), self.next_factor(factor) or factor
        if grown > factor:
            reason += f"; again with {self.fleet.memory_gb(grown):.3g} GB"
        return reason, grown

    def described(self, trial: ActiveTrial) -> str:
        """What is said of a run that ran out of memory: with the figure that it asked for, if it asked for one."""
        asked = self.fleet.memory_gb(trial.record.memory)
        return "out of memory" + ("" if asked is None else f": the job asked for {asked:.3g} GB")

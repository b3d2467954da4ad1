"""A study as its pruner reads it: which trials have ended is kept in memory."""

from collections.abc import Container, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from trialfleet.compat.optuna import storage_of

ENDED = frozenset(state for state in TrialState if state.is_finished())


class JudgedStudy(optuna.Study):
    """The same study in the same storage, whose trials that have ended are not looked up at each report.

    A median pruner reads them all each time; a storage of thousands takes milliseconds to find them. The driver alone
    ends trials, and says so by `forget`.
    """

    def __init__(self, study: optuna.Study) -> None:
        super().__init__(study.study_name, storage_of(study))
        self._ended: dict[frozenset[TrialState], list[FrozenTrial]] = {}

    def forget(self) -> None:
        """A trial has ended: they are looked up again when they are next asked for."""
        self._ended.clear()

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """As Optuna's; the list of trials that have ended is shared, and not to be changed."""
        wanted = frozenset(states) if isinstance(states, Sequence | set | frozenset) else None
        if deepcopy or not wanted or not wanted <= ENDED:
            return super().get_trials(deepcopy, states)
        if wanted not in self._ended:
            self._ended[wanted] = super().get_trials(deepcopy, states)
        return self._ended[wanted]

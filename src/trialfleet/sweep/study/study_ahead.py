"""A study as it would be with its next trials in it: samplers propose there, and nothing of it is in the study yet."""

from collections.abc import Container, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from trialfleet.compat.optuna import forget_trials, storage_of, study_id


class OnlyInTheStudy(Exception):
    """The sampler, or a search space of the user's own, does what only a trial in the study can take."""


@dataclass
class Ready:
    """A proposal for a trial that is not in the study yet.

    Attributes:
        trial: as it will be in the study, with what the sampler noted of it.
        study_attrs: what the sampler noted of the study.
        sampler: that made it.
        results: that the study had been told of until then.
    """

    trial: FrozenTrial
    sampler: BaseSampler
    results: int
    study_attrs: dict[str, Any] = field(default_factory=dict)


class StudyAhead:
    """A study with the next trials in it.

    Args:
        study: the real one, which is only read.
    """

    def __init__(self, study: Study) -> None:
        self._real = study
        self._storage = _Ahead(storage_of(study), study_id(study))
        self._study = Study(study.study_name, self._storage)

    def add(self, ready: Ready, before: Sequence[Ready]) -> Trial:
        """The live trial of a proposal that has no parameters yet: suggesting them gives them to it.

        Args:
            before: the proposals that will be trials before it.
        """
        self._storage.ready = [*before, ready]
        self._study.sampler, self._study.pruner = ready.sampler, self._real.pruner
        forget_trials(self._study)
        return Trial(self._study, _id_of(ready.trial.number))


def not_yet(number: int, user_attrs: dict[str, Any]) -> FrozenTrial:
    """A trial that is not in its study, and has no parameters."""
    begun = datetime.now()  # as Optuna has it: of this place
    return FrozenTrial(number, TrialState.RUNNING, None, begun, None, {}, {}, user_attrs, {}, {}, _id_of(number))


def _id_of(number: int) -> int:
    """No storage has negative ids: a trial that is not there is never taken for another."""
    return -1 - number


@dataclass
class _Ahead(BaseStorage):
    """A storage as it is, with trials behind those of one study; these alone can be written, and are not passed on."""

    real: BaseStorage
    study: int
    ready: list[Ready] = field(default_factory=list)

    # ---------------------------------------------------------------- what is ahead

    def _own(self, trial_id: int) -> FrozenTrial:
        """Raises:
        OnlyInTheStudy: the trial is a real one, which is not to be written.
        """
        found = next((one.trial for one in self.ready if _id_of(one.trial.number) == trial_id), None)
        if found is None:
            raise OnlyInTheStudy("another trial is written")
        return found

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self.real.get_trial(trial_id) if trial_id >= 0 else _copied(self._own(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        there = self.real.get_all_trials(study_id, deepcopy, states)
        if study_id != self.study or (states is not None and TrialState.RUNNING not in states):
            return there
        return [*there, *(_copied(one.trial) for one in self.ready)]

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        if any(one.trial.number == trial_number for one in self.ready):
            return _id_of(trial_number)
        return self.real.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        trial = self._own(trial_id)
        trial.distributions = {**trial.distributions, param_name: distribution}
        trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._own(trial_id).set_user_attr(key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._own(trial_id)
        trial.system_attrs = {**trial.system_attrs, key: value}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        there = self.real.get_study_system_attrs(study_id)
        for one in self.ready:
            there = {**there, **one.study_attrs}
        return there

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.ready[-1].study_attrs[key] = value

    # ---------------------------------------------------------------- what is there

    def get_study_id_from_name(self, study_name: str) -> int:
        return self.real.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.real.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self.real.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self.real.get_study_user_attrs(study_id)

    def get_all_studies(self) -> list[Any]:
        return self.real.get_all_studies()

    # ---------------------------------------------------------------- what only the study can take

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        raise OnlyInTheStudy("a study is made")

    def delete_study(self, study_id: int) -> None:
        raise OnlyInTheStudy("a study is deleted")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        raise OnlyInTheStudy("a user attribute of the study is set")

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        raise OnlyInTheStudy("a trial is made")

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        raise OnlyInTheStudy("the trial is told")

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        raise OnlyInTheStudy("the trial reports")


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """A trial that its reader may write into, as `Trial` does."""
    one = copy(trial)
    one.params, one.distributions = dict(trial.params), dict(trial.distributions)
    one.user_attrs, one.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
    return one

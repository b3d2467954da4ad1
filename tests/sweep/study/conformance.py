"""What every storage of a study must do. A test class inherits `StorageConformance` and gives it a `storage`."""

import math
from collections.abc import Callable

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState as State

from trialfleet.errors import UserError
from trialfleet.sweep.study.progress import FAILURE
from trialfleet.sweep.study.projection import told
from trialfleet.sweep.study.storage import OWNER, StudyStorage, Told, values_when_pruned
from trialfleet.sweep.study.study_ahead import Ready, StudyAhead, not_yet
from trialfleet.trial import metrics
from trialfleet.trial.result import Result, TrialState

NewStorage = Callable[[], BaseStorage]  # opens the same storage each time, as one driver after the other does


def held() -> None:
    """The lease check of a driver that holds it."""


def ended(state: TrialState, objectives: list[float] | None = None, error: dict[str, str] | None = None) -> Told:
    return told(Result(state, objectives, error, {}, "1.0", {}), takes_constraints=True, violations={})


def opened(storage: NewStorage, directions: tuple[str, ...] = ("minimize",)) -> StudyStorage:
    return StudyStorage(storage(), "study", directions, held)


class StorageConformance:
    """Trials in a study: created, reported, told, and found again by whoever opens the study next."""

    def test_a_trial_bears_our_mark_from_its_first_moment(self, storage: NewStorage) -> None:
        """No death can leave a trial that nobody owns."""
        store = opened(storage)
        trial_id = store.create("uid")
        (trial,) = optuna.load_study(study_name="study", storage=storage()).trials
        assert (trial.state, trial.user_attrs) == (State.RUNNING, {OWNER: "uid"})
        assert store.frozen(trial_id).number == 0

    def test_a_known_point_is_what_the_sampler_gives(self, storage: NewStorage) -> None:
        store = opened(storage)
        trial = store.trial(store.create("uid", {"x": 0.25}))
        assert trial.suggest_float("x", 0, 1) == 0.25
        assert 0 <= trial.suggest_float("y", 0, 1) <= 1

    def test_trials_that_somebody_enqueued_come_first(self, storage: NewStorage) -> None:
        opened(storage).study.enqueue_trial({"x": 0.5})
        store = opened(storage)
        trial_id = store.create("uid", {"x": 0.25})
        assert store.trial(trial_id).suggest_float("x", 0, 1) == 0.5
        assert store.frozen(trial_id).user_attrs[OWNER] == "uid"
        assert store.frozen(store.create("uid")).number == 1

    def test_the_first_report_of_a_step_stays(self, storage: NewStorage) -> None:
        """Lines that are trained again after a resume say the same or are wrong."""
        store = opened(storage)
        trial_id = store.create("uid")
        assert store.report(trial_id, 10, 0.5)
        assert not store.report(trial_id, 10, 0.7)
        assert store.report(trial_id, 20, math.nan)
        assert store.frozen(trial_id).intermediate_values[10] == 0.5

    @pytest.mark.parametrize("step", [2**31, metrics.MAX_STEP, -metrics.MAX_STEP])
    def test_no_report_is_too_much_for_it(self, storage: NewStorage, step: int) -> None:
        """A step that is beyond it is left out, whether it is reported or added, and nothing else fails for it."""
        store, values = opened(storage), [5e-324, -5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan]
        for value in values:
            trial_id = store.create("uid")
            reported = store.report(trial_id, step, value)
            assert store.report(trial_id, 1, 0.5)
            store.tell(trial_id, ended(TrialState.PRUNED))
            trial = store.frozen(trial_id)
            assert set(trial.intermediate_values) == {1, *([step] if reported else [])}
            assert reported or abs(step) >= 2**31
            reports = {1: 0.5, step: value}
            whole = optuna.trial.create_trial(
                state=State.PRUNED, values=values_when_pruned(reports), intermediate_values=reports
            )
            added = store.frozen(store.add(whole))
            assert repr(added.values) == repr(trial.values)
            reports_of = [sorted(one.intermediate_values.items()) for one in (added, trial)]
            assert repr(reports_of[0]) == repr(reports_of[1])

    @pytest.mark.parametrize("value", [0.5, math.inf, -math.inf])
    def test_complete(self, storage: NewStorage, value: float) -> None:
        store = opened(storage)
        store.tell(store.create("uid"), ended(TrialState.COMPLETE, [value]))
        (trial,) = opened(storage).trials()
        assert (trial.state, trial.values) == (State.COMPLETE, [value])

    def test_several_objectives(self, storage: NewStorage) -> None:
        store = opened(storage, directions=("minimize", "maximize"))
        store.tell(store.create("uid"), ended(TrialState.COMPLETE, [1.0, 2.0]))
        assert store.trials()[0].values == [1.0, 2.0]

    def test_a_pruned_trial_keeps_its_last_report(self, storage: NewStorage) -> None:
        store = opened(storage)
        trial_id = store.create("uid")
        store.report(trial_id, 2, 0.75)
        store.report(trial_id, 1, 0.5)
        store.tell(trial_id, ended(TrialState.PRUNED))
        assert (store.frozen(trial_id).state, store.frozen(trial_id).value) == (State.PRUNED, 0.75)

    @pytest.mark.parametrize("value", [None, math.nan])
    def test_a_pruned_trial_without_a_value(self, storage: NewStorage, value: float | None) -> None:
        store = opened(storage)
        trial_id = store.create("uid")
        if value is not None:
            store.report(trial_id, 1, value)
        store.tell(trial_id, ended(TrialState.PRUNED))
        assert store.frozen(trial_id).state is State.PRUNED

    def test_a_failed_trial_says_why(self, storage: NewStorage) -> None:
        store = opened(storage)
        trial_id = store.create("uid")
        error = {"type": "ValueError", "message": "x" * 9000, "traceback": ""}
        store.tell(trial_id, ended(TrialState.FAIL, None, error))
        trial = store.frozen(trial_id)
        assert (trial.state, trial.values) == (State.FAIL, None)
        assert trial.user_attrs[FAILURE].startswith("ValueError: xxx")
        assert len(trial.user_attrs[FAILURE]) <= 2000

    def test_telling_twice_is_harmless(self, storage: NewStorage) -> None:
        """A driver that died between telling and forgetting tells again; the first word stands."""
        store = opened(storage)
        trial_id = store.create("uid")
        store.tell(trial_id, ended(TrialState.COMPLETE, [1.0]))
        store.tell(trial_id, ended(TrialState.COMPLETE, [1.0]))
        opened(storage).tell(trial_id, ended(TrialState.FAIL))
        assert store.frozen(trial_id).value == 1.0

    def test_a_failure_of_which_only_the_reason_was_stored_is_told_again(self, storage: NewStorage) -> None:
        store = opened(storage)
        trial_id = store.create("uid")
        store.storage.set_trial_user_attr(trial_id, FAILURE, "ValueError: no")
        opened(storage).tell(trial_id, ended(TrialState.FAIL, None, {"type": "ValueError", "message": "no"}))
        assert opened(storage).frozen(trial_id).state is State.FAIL

    def test_the_last_point_of_a_grid_is_told_like_any_other(self, storage: NewStorage) -> None:
        """Optuna's grid sampler asks at this moment to stop an `optimize` that nobody called."""
        store = opened(storage)
        store.study.sampler = optuna.samplers.GridSampler({"x": [1, 2]}, seed=0)
        ids = [store.create("uid") for _ in range(2)]
        for trial_id in ids:
            store.trial(trial_id).suggest_categorical("x", [1, 2])
        for trial_id in ids:
            store.tell(trial_id, ended(TrialState.COMPLETE, [1.0]))
        assert [trial.state for trial in store.trials()] == [State.COMPLETE] * 2

    def test_a_trial_is_added_as_it_is(self, storage: NewStorage) -> None:
        trial = optuna.trial.create_trial(
            value=1.5,
            params={"x": 0.5},
            distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
            user_attrs={"note": "mine"},
            system_attrs={"of the sampler": [1, 2]},
            intermediate_values={1: 0.5},
            constraints={"memory": 2.0},
        )
        opened(storage).add(trial)
        (found,) = opened(storage).trials()
        for name in ("state", "values", "params", "user_attrs", "system_attrs", "intermediate_values", "constraints"):
            assert getattr(found, name) == getattr(trial, name)
        assert found.distributions == trial.distributions

    def test_a_proposal_that_was_ready_comes_into_the_study_whole(self, storage: NewStorage) -> None:
        """As trials do that the sampler is asked for then; and what the sampler noted of the study with it."""
        store = opened(storage)
        store.create("uid")
        ready = Ready(not_yet(1, {OWNER: "uid"}), optuna.samplers.RandomSampler(), results=0)
        trial = StudyAhead(store.study).add(ready, [])
        chosen = {"x": trial.suggest_float("x", 0, 1), "kind": trial.suggest_categorical("kind", ["a", "b"])}
        trial.storage.set_trial_system_attr(trial._trial_id, "of the trial", [1, 2])
        trial.storage.set_study_system_attr(trial.study._study_id, "of the study", 5)
        assert len(store.trials()) == 1
        assert store.frozen(store.create_ready(ready)).number == 1
        found = opened(storage).trials()[1]
        assert (found.state, found.params, found.user_attrs) == (State.RUNNING, chosen, {OWNER: "uid"})
        assert found.system_attrs == {"of the trial": [1, 2]}
        assert set(found.distributions) == {"x", "kind"}
        assert opened(storage).storage.get_study_system_attrs(store.study._study_id)["of the study"] == 5

    def test_a_number_that_comes_next_is_told_before_it_is_taken(self, storage: NewStorage) -> None:
        store = opened(storage)
        for number in range(3):
            assert (store.next_number(), store.count()) == (number, number)
            assert store.frozen(store.create("uid")).number == number
        store.add(optuna.trial.create_trial(value=1.0))
        assert (store.next_number(), store.count()) == (4, 4)

    def test_a_trial_that_somebody_else_enqueued_comes_next(self, storage: NewStorage) -> None:
        store = opened(storage)
        store.add(optuna.trial.create_trial(value=1.0))
        assert (store.next_number(), store.count()) == (1, 1)
        store.study.enqueue_trial({})
        store.add(optuna.trial.create_trial(value=1.0))
        assert (store.next_number(), store.count()) == (1, 3)
        assert store.frozen(store.create("uid")).number == 1
        assert (store.next_number(), store.count()) == (3, 3)

    def test_a_study_with_another_direction_is_refused(self, storage: NewStorage) -> None:
        opened(storage)
        with pytest.raises(UserError, match="is there with direction minimize, not maximize"):
            opened(storage, directions=("maximize",))

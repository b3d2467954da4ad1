"""What a pruner says of a study whose ended trials are kept in memory is what it says of the study itself."""

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.trial import TrialState

from trialfleet.sweep.study.judged import JudgedStudy

PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "median": lambda: MedianPruner(n_startup_trials=2),
    "percentile": lambda: PercentilePruner(30.0, n_startup_trials=1, n_min_trials=2),
    "halving": SuccessiveHalvingPruner,
    "hyperband": lambda: HyperbandPruner(min_resource=1, max_resource=9),
    "patient": lambda: PatientPruner(MedianPruner(n_startup_trials=2), patience=1),
    "wilcoxon": lambda: WilcoxonPruner(p_threshold=0.3, n_startup_steps=1),
}
EXPERIMENTAL = ("patient", "wilcoxon")
TRIALS, STEPS = 24, 9


def verdicts(pruner: BasePruner, judged: bool) -> list[tuple[int, int]]:
    """Which trials are stopped at which step. Trials run two at a time; some of them fail."""
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), study_name="one", pruner=pruner)
    seen = JudgedStudy(study) if judged else study
    values, found = np.random.default_rng(0), []
    for _ in range(TRIALS // 2):
        open_trials = {(trial := study.ask()).number: trial for _ in range(2)}
        level = {number: values.normal() for number in open_trials}
        for step in range(1, STEPS + 1):
            for number, trial in list(open_trials.items()):
                trial.report(level[number] + 0.3 * values.normal(), step)
                if pruner.prune(seen, study._storage.get_trial(trial._trial_id)):
                    found.append((number, step))
                    study.tell(open_trials.pop(number), state=TrialState.PRUNED)
                    if judged:
                        seen.forget()
        for number, trial in open_trials.items():
            failed = values.random() < 0.2
            study.tell(trial, *([] if failed else [level[number]]), state=TrialState.FAIL if failed else None)
            if judged:
                seen.forget()
    return found


@pytest.mark.parametrize("name", PRUNERS)
def test_verdicts_are_those_of_optuna(name: str) -> None:
    plain = verdicts(made(name), judged=False)
    assert plain
    assert verdicts(made(name), judged=True) == plain


def made(name: str) -> BasePruner:
    """A new pruner; Optuna warns of those that it calls experimental when one is made."""
    if name not in EXPERIMENTAL:
        return PRUNERS[name]()
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        return PRUNERS[name]()


def test_trials_that_have_ended_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study()
    study.add_trials([optuna.trial.create_trial(value=1.0, intermediate_values={1: 1.0}) for _ in range(3)])
    judged, asked, read = JudgedStudy(study), [], optuna.Study.get_trials

    def counted(self, *given, **named):
        asked.append(given)
        return read(self, *given, **named)

    monkeypatch.setattr(optuna.Study, "get_trials", counted)
    for _ in range(5):
        assert len(judged.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) == 3
    assert len(asked) == 1
    study.add_trial(optuna.trial.create_trial(value=1.0))
    judged.forget()
    assert len(judged.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) == 4
    assert len(judged.get_trials(deepcopy=False, states=(TrialState.RUNNING,))) == 0
    assert judged.get_trials() is not judged.get_trials()

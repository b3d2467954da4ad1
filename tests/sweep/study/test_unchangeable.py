"""What a study can never have together with its trials is refused in words, before anything is written."""

from collections.abc import Callable

import yaml

from tests.sweep.test_storage_and_folder import IN_DATABASE, TWO
from tests.tasks.forked import QuickStudy
from trialfleet.trial import records

NewQuickStudy = Callable[..., QuickStudy]

WORDS = {"x": "choice(0.5,1.0)", "y": "range(1,3)", "above": "interval(0.5,1.0)"}
TWO_VALUES = "from tests.tasks import descent, dying\ndying.task = descent.two"
TWO_OBJECTIVES = ["objective.metric=[loss,x]", "objective.direction=[minimize,maximize]"]
# The check as an earlier version had it, which had none.
LETS_ALL_THROUGH = "from trialfleet.sweep.study import unchangeable\nunchangeable.check = lambda record, *rest: record"


def files(study: QuickStudy) -> dict[str, bytes]:
    """What lies in the study's folder, but for what each command writes: who drives, and what it was given."""
    names = ("driver.lock", ".hydra", ".submitit")
    found = [path for path in study.folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in found if not any(name in str(path) for name in names)}


def test_a_parameter_of_another_kind_is_refused(finished_study: NewQuickStudy) -> None:
    before = ("x=choice(0.5,1.0)", "y=range(1,3)", "above=interval(0.5,1.0)")
    after = ("x=choice(0.5,1.0,1.5)", "y=interval(1.0,3.0)", "above=tag(log,interval(0.5,1.0))")
    study = finished_study(TWO, *before)
    was = files(study)
    for other, keys in (
        (after, ("x", "y", "above")),
        ((*after, "study.allow_changes=[space]"), ("x", "y", "above")),
        (("x=choice(1.0,0.5)",), ("x",)),
    ):
        said = study.run(*other, code=1)
        assert all(f"    space.{key}: {WORDS[key]} → " in said for key in keys)
        assert "Distribution" not in said
        assert "Traceback" not in said
        assert "allow_changes=[" not in said.rpartition("fix:")[2]
        assert "study.fresh=true or another hydra.sweeper.study_name" in said
    assert files(study) == was
    study.run("hydra.sweeper.n_trials=3")
    assert study.states() == {"COMPLETE": 3}


def test_a_parameter_may_have_another_range_by_permission(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO, "x=interval(0.5,1.0)", "y=range(1,3)")
    other = ("x=interval(0.25,2.0)", "y=range(1,6,2)", "hydra.sweeper.n_trials=3")
    said = study.run(*other, code=1)
    assert "space.x: interval(0.5,1.0) → interval(0.25,2.0)\n" in said
    assert "space.y: range(1,3) → range(1,7,2)\n" in said
    assert "'hydra.sweeper.study.allow_changes=[space.x,space.y]'" in said
    study.run(*other, "study.allow_changes=[space.x,space.y]")
    study.run(*other, "hydra.sweeper.n_trials=4")
    assert study.states() == {"COMPLETE": 4}


def test_a_study_that_took_what_it_could_not_goes_on_with_the_command_that_fits_it(
    finished_study: NewQuickStudy,
) -> None:
    """An earlier version wrote the new space into study.yaml, and ended in the middle of the first trial with it."""
    study = finished_study("hydra.sweeper.n_trials=1", "x=choice(0.5,1.0)")
    other = ["x=choice(0.5,1.0,1.5)", "hydra.sweeper.n_trials=2"]
    study.order(*other, "study.allow_changes=[space.x]", first=LETS_ALL_THROUGH)
    assert study.states() == {"COMPLETE": 1, "RUNNING": 1}
    for command in (other, [*other, "study.allow_changes=[space.x]", "study.rebuild=true"]):
        said = study.run(*command, code=1)
        assert "space.x" in said
        assert "Traceback" not in said
    study.run("hydra.sweeper.n_trials=2")
    assert study.states() == {"COMPLETE": 2}


def refuse_other_objectives(study: QuickStudy) -> None:
    was = files(study)
    allowed = "study.allow_changes=[direction,objective]"
    for other, line in (
        ([*TWO_OBJECTIVES, "study.rebuild=true"], "direction: minimize → minimize,maximize"),
        (TWO_OBJECTIVES, "direction: minimize → minimize,maximize"),
        (["objective.direction=maximize"], "direction: minimize → maximize"),
    ):
        said = study.run(*other, allowed, code=1, first=TWO_VALUES)
        assert line in said
        assert "study.fresh=true or another hydra.sweeper.study_name" in said
    assert files(study) == was
    study.run("hydra.sweeper.n_trials=3")
    assert study.ended() == [0, 1, 2]


def test_other_objectives_are_refused(finished_study: NewQuickStudy) -> None:
    """Of a study in a database, too; the journal's is in benchmarks/proofs."""
    refuse_other_objectives(finished_study(TWO, IN_DATABASE))


def test_a_study_that_was_made_anew_with_other_objectives_is_made_anew_with_its_own(
    finished_study: NewQuickStudy,
) -> None:
    """As an earlier version did it: trials of one value were in a study of two objectives."""
    study = finished_study(TWO)
    study.order(
        *TWO_OBJECTIVES, "study.allow_changes=[direction,objective]", "study.rebuild=true", first=LETS_ALL_THROUGH
    )
    assert yaml.safe_load((study.folder / "study.yaml").read_text())["identity"]["direction"] == "minimize,maximize"
    said = study.run(*TWO_OBJECTIVES, code=1, first=TWO_VALUES)
    assert "direction: 1 in each trial's result → minimize,maximize" in said
    back = "study.allow_changes=[objective]"
    assert "study.rebuild=true" in study.run(back, code=1)
    study.run(back, "study.rebuild=true")
    study.run("hydra.sweeper.n_trials=3")
    study.check(3, steps=4)


def test_values_of_another_metric_are_refused_by_the_key_that_names_it(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO)
    was = files(study)
    for key, other in (("objective.metric", "position"), ("hydra.sweeper.metric", "elsewhere")):
        said = study.run(f"{key}={other}", "study.rebuild=true", code=1)
        assert f"{key}: the values that study 'descent' has are those of loss, and this command names {other}" in said
        assert f"allow_changes=[{key}]" in said
    assert files(study) == was
    study.run("hydra.sweeper.metric=value", "hydra.sweeper.study.allow_changes=[hydra.sweeper.metric]")
    study.run("hydra.sweeper.metric=value")


def test_a_metric_may_change_while_no_trial_has_a_value(quick_study: NewQuickStudy) -> None:
    study = quick_study("hydra.sweeper.n_trials=1", "mode=raise", "hydra.sweeper.max_failure_rate=1")
    study.run()
    study.run("hydra.sweeper.metric=value")


def test_a_record_that_says_nothing_of_distributions_is_no_reason_to_refuse(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO)
    path = study.trial(0).trial_json
    record = records.read(path)
    assert record is not None
    records.write(path, {**record, "distributions": {"x": "{}", "y": 3}})
    study.run("hydra.sweeper.n_trials=3")
    assert study.ended() == [0, 1, 2]

"""What a study can never have together with its trials is refused in words, before anything is written."""

from collections.abc import Callable

import pytest
import yaml

from tests.tasks.forked import QuickStudy
from trialfleet.trial import records

NewQuickStudy = Callable[..., QuickStudy]

TWO = "from tests.tasks import descent, dying\ndying.task = descent.two"
TWO_OBJECTIVES = ["objective.metric=[loss,x]", "objective.direction=[minimize,maximize]"]
# The check as an earlier version had it, which had none.
LETS_ALL_THROUGH = "from trialfleet.sweep.study import unchangeable\nunchangeable.check = lambda record, *rest: record"


def files(study: QuickStudy) -> dict[str, bytes]:
    """What lies in the study's folder, but for what each command writes: who drives, and what it was given."""
    names = ("driver.lock", ".hydra", ".submitit")
    found = [path for path in study.folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in found if not any(name in str(path) for name in names)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("choice(0.5,1.0)", "choice(0.5,1.0,1.5)"),
        pytest.param("choice(0.5,1.0)", "choice(1.0,0.5)", marks=pytest.mark.slow),
        ("range(1,3)", "interval(1.0,3.0)"),
        pytest.param("interval(0.5,1.0)", "tag(log,interval(0.5,1.0))", marks=pytest.mark.slow),
    ],
)
def test_a_parameter_of_another_kind_is_refused(quick_study: NewQuickStudy, before: str, after: str) -> None:
    study = quick_study("hydra.sweeper.n_trials=2")
    study.run(f"x={before}", "hydra.sweeper.n_trials=1")
    was = files(study)
    for more in ([], ["study.allow_changes=[space]"]):
        said = study.run(f"x={after}", *more, code=1)
        assert "    space.x: {" in said
        assert "Traceback" not in said
        assert "allow_changes=[" not in said.rpartition("fix:")[2]
        assert "study.fresh=true or another hydra.sweeper.study_name" in said
    assert files(study) == was
    study.run(f"x={before}")
    assert study.states() == {"COMPLETE": 2}


@pytest.mark.parametrize(
    ("before", "after"),
    [("interval(0.5,1.0)", "interval(0.25,2.0)"), pytest.param("range(1,3)", "range(1,6,2)", marks=pytest.mark.slow)],
)
def test_a_parameter_may_have_another_range_by_permission(quick_study: NewQuickStudy, before: str, after: str) -> None:
    study = quick_study("hydra.sweeper.n_trials=2")
    study.run(f"x={before}", "hydra.sweeper.n_trials=1")
    assert "'hydra.sweeper.study.allow_changes=[space.x]'" in study.run(f"x={after}", code=1)
    study.run(f"x={after}", "study.allow_changes=[space.x]")
    study.run(f"x={after}", "hydra.sweeper.n_trials=3")
    assert study.states() == {"COMPLETE": 3}


@pytest.mark.slow
def test_a_study_that_took_what_it_could_not_goes_on_with_the_command_that_fits_it(quick_study: NewQuickStudy) -> None:
    """An earlier version wrote the new space into study.yaml, and ended in the middle of the first trial with it."""
    study = quick_study("hydra.sweeper.n_trials=3")
    study.run("x=choice(0.5,1.0)", "hydra.sweeper.n_trials=1")
    other = ["x=choice(0.5,1.0,1.5)", "study.allow_changes=[space.x]"]
    study.order(*other, first=LETS_ALL_THROUGH)
    assert study.states() == {"COMPLETE": 1, "RUNNING": 1}
    for command in (other, other[:1], [*other, "study.rebuild=true"]):
        said = study.run(*command, code=1)
        assert "space.x" in said
        assert "Traceback" not in said
    study.run("x=choice(0.5,1.0)")
    assert study.states() == {"COMPLETE": 3}


@pytest.mark.parametrize("kind", ["journal", pytest.param("database", marks=pytest.mark.slow)])
def test_other_objectives_are_refused(quick_study: NewQuickStudy, kind: str) -> None:
    study = quick_study("hydra.sweeper.n_trials=2", "hydra/sweeper/sampler=random")
    own = [f"hydra.sweeper.storage=sqlite:///{study.place}/study.db"] if kind == "database" else []
    study.run(*own, "hydra.sweeper.n_trials=1")
    was = files(study)
    allowed = "study.allow_changes=[direction,objective]"
    for other, line in (
        ([*TWO_OBJECTIVES, "study.rebuild=true"], "direction: minimize → minimize,maximize"),
        (TWO_OBJECTIVES, "direction: minimize → minimize,maximize"),
        (["objective.direction=maximize"], "direction: minimize → maximize"),
    ):
        said = study.run(*own, *other, allowed, code=1, first=TWO)
        assert line in said
        assert "study.fresh=true or another hydra.sweeper.study_name" in said
    assert files(study) == was
    study.run(*own)
    assert study.ended() == [0, 1]


@pytest.mark.slow
def test_a_study_that_was_made_anew_with_other_objectives_is_made_anew_with_its_own(quick_study: NewQuickStudy) -> None:
    """As an earlier version did it: trials of one value were in a study of two objectives."""
    study = quick_study("hydra.sweeper.n_trials=2", "hydra/sweeper/sampler=random")
    study.run()
    study.order(
        *TWO_OBJECTIVES, "study.allow_changes=[direction,objective]", "study.rebuild=true", first=LETS_ALL_THROUGH
    )
    assert yaml.safe_load((study.folder / "study.yaml").read_text())["identity"]["direction"] == "minimize,maximize"
    said = study.run(*TWO_OBJECTIVES, code=1, first=TWO)
    assert "direction: 1 in each trial's result → minimize,maximize" in said
    back = "study.allow_changes=[objective]"
    assert "study.rebuild=true" in study.run(back, code=1)
    study.run(back, "study.rebuild=true", "hydra.sweeper.n_trials=3")
    study.run("hydra.sweeper.n_trials=4")
    study.check(4, steps=4)


def test_a_record_that_says_nothing_of_distributions_is_no_reason_to_refuse(quick_study: NewQuickStudy) -> None:
    study = quick_study("hydra.sweeper.n_trials=2")
    study.run("hydra.sweeper.n_trials=1")
    path = study.trial(0).trial_json
    record = records.read(path)
    assert record is not None
    records.write(path, {**record, "distributions": {"x": "{}", "y": 3}})
    study.run()
    assert study.ended() == [0, 1]

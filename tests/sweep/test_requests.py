"""What people ask of a driver, by files: it is done once, whichever driver dies in between, or refused in words."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sweep.test_driver import UID, Dies, Scene
from trialfleet.sweep.driver import Driver
from trialfleet.sweep.fleets.simulated import Fate
from trialfleet.sweep.study import index, requests
from trialfleet.sweep.study.index import rows
from trialfleet.sweep.study.requests import CANCEL, ENQUEUE, RETRY, STOP, Answer
from trialfleet.trial.directory import TrialDir


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., Scene]:
    return lambda **how: Scene(tmp_path / "study", **how)


def answer(study: Scene, name: str) -> Answer:
    said = requests.answer_to(study.folder, name)
    assert said is not None
    return said


def after(study: Scene, turns: int, do: Callable[[Driver], None]) -> Driver:
    """A driver that does something after so many turns, and then runs to its end."""
    driver, left = study.driver(), [turns]
    sleep = driver.clock.sleep

    def slept(seconds: float) -> None:
        left[0] -= 1
        if left[0] == 0:
            do(driver)
        sleep(seconds)

    driver.clock.sleep = slept
    driver.run()
    return driver


def test_a_trial_is_tried_again_besides_those_of_the_study(scene: Callable[..., Scene]) -> None:
    """What was committed stays; the new trial has the same parameters, and says of which it is a retry."""
    study = scene(fates=[Fate.FAILS], trials=2, sweeper={"max_failure_rate": 1.0})
    study.run()
    name = requests.ask(study.folder, RETRY, UID, trial=0).id
    driver = study.run()
    assert driver.n_trials == 3
    stored = study.stored()
    assert [trial.state.name for trial in stored] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert stored[2].params == stored[0].params
    assert answer(study, name) == Answer(True, "the parameters of trial 0 are tried again")
    assert rows(study.folder, [UID])[0][2].retry_of == 0
    assert len(study.run().progress.front) == 1  # a driver that comes later has nothing to do
    assert len(study.stored()) == 3


def test_a_request_is_carried_out_once_whatever_dies(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver dies after its answer, and the next one after it made the trial."""
    study = scene(trials=1)
    study.run()
    requests.ask(study.folder, RETRY, UID, trial=0)
    driver = study.driver()

    def dies(*_: object) -> None:
        raise Dies

    monkeypatch.setattr(driver.proposer, "ask", dies)
    with pytest.raises(Dies):
        driver.run()
    driver = study.driver()
    monkeypatch.setattr(driver.proposer, "complete", dies)
    with pytest.raises(Dies):
        driver.run()
    study.run()
    assert [trial.state.name for trial in study.stored()] == ["COMPLETE", "COMPLETE"]


def test_a_point_is_tried_next_while_trials_are_left(scene: Callable[..., Scene]) -> None:
    study = scene(trials=6)
    asked: list[str] = []
    after(study, 2, lambda driver: asked.append(requests.ask(study.folder, ENQUEUE, UID, point={"x": 0.125}).id))
    study.check()
    assert [trial.params["x"] for trial in study.stored()].count(0.125) == 1
    assert answer(study, asked[0]).accepted
    late = requests.ask(study.folder, ENQUEUE, UID, point={"x": 0.25}).id
    study.run()
    assert "raise hydra.sweeper.n_trials" in answer(study, late).said
    assert len(study.stored()) == 6


@pytest.mark.parametrize(
    ("kind", "how", "said"),
    [
        (ENQUEUE, {"point": {"y": 1.0}}, "y is not in the search space"),
        (ENQUEUE, {"point": {"x": 7.0}}, "x=7.0 is outside of x=interval"),
        (RETRY, {"trial": 9}, "there is no trial 9"),
        (CANCEL, {"trial": 0}, "trial 0 is not under way"),
        (STOP, {"jobs": "leave", "driver": "3:another"}, "the driver that was to stop is gone"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(
    scene: Callable[..., Scene], kind: str, how: dict[str, object], said: str
) -> None:
    study = scene(trials=1)
    study.run()
    name = requests.ask(study.folder, kind, UID, **how).id
    study.run()
    found = answer(study, name)
    assert not found.accepted
    assert said in found.said
    assert len(study.stored()) == 1


def test_a_request_of_another_study_and_a_damaged_one_are_passed_over(scene: Callable[..., Scene]) -> None:
    study = scene(trials=1)
    study.run()
    other = requests.ask(study.folder, RETRY, "another", trial=0).id
    damaged = requests.ask(study.folder, RETRY, UID, trial=0).id
    (study.folder / requests.FOLDER / f"{damaged}.json").write_text("{")
    study.run()
    assert not answer(study, other).accepted
    assert any("is no JSON" in notice for notice in study.heard.notices)
    assert len(study.stored()) == 1


def test_a_trial_is_cancelled_and_the_others_go_on(scene: Callable[..., Scene]) -> None:
    study = scene(trials=2, sweeper={"max_failure_rate": 0.0})
    study.fleet.length = lambda params: 50.0
    after(study, 5, lambda driver: requests.ask(study.folder, CANCEL, UID, trial=1) and None)
    study.check(failed=1)
    error = study.heard.results[1].error
    assert error is not None
    assert error["type"] == "Cancelled"
    assert error["message"].startswith("cancelled by ")


@pytest.mark.parametrize(("jobs", "ended"), [("finish", 2), ("leave", 0), ("cancel", 2)])
def test_a_stop_starts_no_more_trials(scene: Callable[..., Scene], jobs: str, ended: int) -> None:
    study = scene(trials=8, sweeper={"max_failure_rate": 1.0})
    study.fleet.length = lambda params: 20.0

    def stop(driver: Driver) -> None:
        driver._requests.token = "1:this"
        requests.ask(study.folder, STOP, UID, jobs=jobs, driver="1:this")

    driver = after(study, 5, stop)
    assert (driver.progress.finished, len(study.stored())) == (ended, 2)
    assert driver.stopping.reason.startswith("stopped by ")


# -------------------------------------------------------------------- the index


def told(study: Scene) -> list[tuple[str, object]]:
    return [(trial.state.name, trial.params["x"]) for trial in study.stored()]


def test_the_index_says_what_the_files_say(scene: Callable[..., Scene]) -> None:
    """With it or without, after its loss, and where a line is older than its trial's files."""
    study = scene(fates=[Fate.COMPLETES, Fate.FAILS], trials=4, sweeper={"max_failure_rate": 1.0})
    study.run()
    found, anew = rows(study.folder, [UID])
    assert anew == 4
    assert [(row.state, row.params["x"]) for row in found] == told(study)
    assert (found[0].metrics, found[0].step, found[0].attempt) == ({"loss": 0.5}, 2, 1)
    assert found[1].error == "Simulated: it raised"
    writer = index.IndexWriter(study.folder, [UID])
    writer.open()
    assert rows(study.folder, [UID]) == (found, 0)
    TrialDir(study.folder / "trials" / "00002").result_json.unlink()
    assert rows(study.folder, [UID])[0][2].state == "RUNNING"
    writer.ended(3)
    writer.close()
    with open(study.folder / index.NAME, "a") as file:
        file.write('{"number": 3, "sta')  # a driver that was killed
    again, anew = rows(study.folder, [UID])
    assert (again[3], anew) == (found[3], 0)
    assert rows(study.folder, ["another", UID])[1] == 3  # a copy of the folder, which is a study of its own

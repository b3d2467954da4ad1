"""Commands that hear of a study: they get its JSON, and whatever they do, the study is not harmed."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.test_driver import Scene
from trialfleet.sweep.fleets.simulated import Fate
from trialfleet.sweep.hooks import BEST, END, FAILURE, Hooks


class Heard:
    """What hooks wrote, and what was said of them."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "heard"
        self.notices: list[str] = []

    def hooks(self, seconds: float = 30.0, **commands: str) -> Hooks:
        return Hooks(
            self.file.parent, commands, seconds, self.notices.append, lambda: '{"name": "study", "state": "running"}'
        )

    @property
    def write(self) -> str:
        """A command that keeps what it is told."""
        return f"cat >> {self.file} && echo >> {self.file}"

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


@pytest.fixture
def heard(tmp_path: Path) -> Heard:
    return Heard(tmp_path)


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., Scene]:
    return lambda **how: Scene(tmp_path / "study", **how)


def run(study: Scene, hooks: Hooks) -> None:
    driver = study.driver()
    for trial in study.stored():
        hooks.recovered(trial.number, driver.study.trial_dir(trial.number))
    driver.observers.members.append(hooks)
    driver.run()
    hooks.end("finished", "")
    hooks.close()


def test_they_hear_of_the_best_of_failures_and_of_the_end(scene: Callable[..., Scene], heard: Heard) -> None:
    study = scene(fates=[Fate.FAILS], trials=4, sweeper={"max_failure_rate": 1.0})
    run(study, heard.hooks(**dict.fromkeys((BEST, FAILURE, END), heard.write)))
    found = heard.records()
    assert {record["name"] for record in found} == {"study"}
    assert [trial for record in found if record["event"] == FAILURE for trial in record["trials"]] == [0]
    best = [trial for record in found if record["event"] == BEST for trial in record["trials"]]
    values = {trial.number: trial.values[0] for trial in study.stored() if trial.values}
    assert best[-1] == min(values, key=lambda number: values[number])
    assert found[-1] == {"event": END, "trials": [], "name": "study", "state": "finished", "failure": None}
    assert heard.notices == []


def test_what_was_known_before_is_not_told_again(scene: Callable[..., Scene], heard: Heard) -> None:
    study = scene(trials=2)
    study.run()
    run(study, heard.hooks(**dict.fromkeys((BEST, FAILURE, END), heard.write)))
    assert heard.records() == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            r"printf '\033[2Jno\r\n\tsuch \033]0;title\007room\377\n'; exit 3",
            "hydra.sweeper.on_end: exit code 3: [2Jno such ]0;title room\ufffd",
        ),
        ("echo no such room; exit 3", "hydra.sweeper.on_end: exit code 3: no such room"),
        ("sleep 60", "hydra.sweeper.on_end: took longer than 0.3 s (hydra.sweeper.hook_seconds) and was killed"),
        ("yes", "hydra.sweeper.on_end: took longer than 0.3 s (hydra.sweeper.hook_seconds) and was killed"),
        ("no-such-command-here", "hydra.sweeper.on_end: exit code 127"),
        ("echo enough; kill -9 $$", "hydra.sweeper.on_end: ended by SIGKILL: enough"),
        ("kill -40 $$", "hydra.sweeper.on_end: ended by signal 40: it said nothing"),
    ],
)
def test_what_goes_wrong_with_one_is_said_and_harms_nothing(
    scene: Callable[..., Scene], heard: Heard, command: str, said: str
) -> None:
    study = scene(trials=1)
    run(study, heard.hooks(seconds=0.3 if "took" in said else 30.0, end=command))
    study.check()
    assert len(heard.notices) == 1
    assert heard.notices[0].startswith(said)


def test_who_has_waited_enough_for_the_last_one_ends_it(scene: Callable[..., Scene], heard: Heard) -> None:
    """It would take an hour."""
    study, asked = scene(trials=1), list[int]()
    driver, hooks = study.driver(), heard.hooks(seconds=3600.0, end=f"echo >> {heard.file}; sleep 3600")
    driver.observers.members.append(hooks)
    driver.run()

    def goes_on() -> bool:
        asked.append(1)
        return not heard.file.exists()

    hooks.end("finished", "", goes_on)
    hooks.close()
    study.check()
    assert asked


def test_what_one_has_started_goes_on_without_being_waited_for(scene: Callable[..., Scene], heard: Heard) -> None:
    began = time.monotonic()
    run(scene(trials=1), heard.hooks(end=f"(sleep 0.5; {heard.write}) < /dev/null & exit 0"))
    assert heard.notices == []
    while not heard.file.exists() and time.monotonic() < began + 60.0:
        time.sleep(0.05)
    assert heard.file.exists()


def test_a_study_that_cannot_be_shown_is_no_trouble_of_the_driver(scene: Callable[..., Scene], heard: Heard) -> None:
    hooks = Hooks(heard.file.parent, {END: heard.write}, 30.0, heard.notices.append, lambda: "no JSON")
    study = scene(trials=1)
    run(study, hooks)
    study.check()
    assert heard.notices[0].startswith("hydra.sweeper.on_end: JSONDecodeError")

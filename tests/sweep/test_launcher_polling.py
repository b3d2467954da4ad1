"""When a launcher is asked about its jobs: where trials' files are silent for longer than usual, and at the end."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from trialfleet.sweep.launcher_polling import LauncherPolling
from trialfleet.sweep.reconcile import JobState
from trialfleet.sweep.sweeper_settings import Watch
from trialfleet.trial.submission import JobRef, TrialRecord

SLURM = "slurm"
WATCH = Watch(files=0.25, max_files=2.0, jobs=1.0, max_jobs=60.0, verdict=0.5, settle_local=0.0, settle_network=60.0)


@dataclass
class Trial:
    """What the polling looks at in a trial."""

    number: int
    run: str = ""
    phase: JobState = JobState.RUNNING
    offsets: dict[str, int] = field(default_factory=dict)
    searches: int = 0
    job: JobRef | None = field(default_factory=lambda: JobRef(SLURM, "7"))

    @property
    def record(self) -> TrialRecord:
        return TrialRecord(self.number, [], {}, {}, "uid", submission=f"s{self.number}", launcher=SLURM, job=self.job)

    def report(self) -> None:
        self.offsets["1.0"] = self.offsets.get("1.0", 0) + 10


class Launcher:
    """Counts what it is asked."""

    def __init__(self, at_hand: bool = False) -> None:
        self.at_hand, self.answers, self.asked_at = at_hand, True, list[float]()
        self.ended = False

    def refresh(self) -> bool:
        self.ended = False
        return self.answers

    def phase(self, job: JobRef) -> JobState:
        return JobState.RUNNING

    def job_ended(self) -> bool:
        return self.ended


class Driver:
    """A clock, and a driver that looks at its trials four times a second."""

    def __init__(self, launcher: Launcher | None = None) -> None:
        self.launcher, self.now, self.trials = launcher or Launcher(), 0.0, dict[int, Trial]()
        self.others: dict[str, float] = {}
        self.nothing_else = False
        fleets: Any = {SLURM: self.launcher}
        self.polling = LauncherPolling(fleets, WATCH, lambda message, about="": None)

    def turn(self) -> bool:
        trials: Any = list(self.trials.values())
        asked = self.polling.ask(self.now, trials, self.others, self.nothing_else)
        if asked:
            self.launcher.asked_at.append(self.now)
        for trial in trials:
            self.polling.look(trial, self.now)
        self.now += 0.25
        return asked

    def live(self, seconds: float) -> int:
        """How often it asks meanwhile."""
        return sum(self.turn() for _ in range(round(4 * seconds)))

    def start(self, number: int, phase: JobState = JobState.RUNNING) -> Trial:
        trial = self.trials[number] = Trial(number, phase=phase)
        return trial

    def end(self, trial: Any) -> None:
        del self.trials[trial.number]
        self.polling.ended(trial, self.now)

    def run(self, number: int, silent: float, begins: float = 0.5) -> int:
        """A trial that begins after a while and ends after another, without a word between; how often it asks."""
        trial = self.start(number)
        asked = self.live(begins)
        trial.run = "1.0"
        asked += self.live(silent)
        self.end(trial)
        return asked


def test_trials_that_end_as_usual_are_asked_about_once() -> None:
    driver = Driver()
    driver.run(0, silent=3.0)
    assert sum(driver.run(number, silent=1.0 + number % 3) for number in range(1, 60)) == 0


def test_trials_that_report_are_not_asked_about() -> None:
    driver = Driver()
    trial = driver.start(0)
    driver.live(1.0)
    trial.run = "1.0"
    driver.live(1.0)
    asked = 0
    for _ in range(100):
        trial.report()
        asked += driver.live(0.75)
    assert asked <= 1


def test_a_trial_that_falls_silent_is_asked_about_soon_and_then_ever_less_often() -> None:
    driver = Driver()
    trial = driver.start(0)
    trial.run = "1.0"
    for _ in range(20):
        trial.report()
        driver.live(0.5)
    fell_silent, before = driver.now, len(driver.launcher.asked_at)
    driver.live(1000.0)
    asked = driver.launcher.asked_at[before:]
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert asked[0] - fell_silent <= 1.0
    assert pauses == sorted(pauses)
    assert pauses[0] == 1.0
    assert pauses[-1] == 60.0
    assert len(asked) <= 10 + 1000 / 60


@pytest.mark.parametrize("phase", [JobState.ENDING, JobState.UNKNOWN])
def test_what_the_launcher_leaves_open_is_asked_again_at_once(phase: JobState) -> None:
    """However long silences are in this study."""
    driver = Driver()
    for number in range(3):
        driver.run(number, silent=100.0)
    trial = driver.start(3)
    trial.run = "1.0"
    driver.live(300.0)
    trial.phase = phase
    assert 2 <= driver.live(4.0) <= 4


def test_a_job_that_should_have_begun_is_asked_about() -> None:
    driver = Driver()
    for number in range(5):
        driver.run(number, silent=1.0, begins=5.0)
    driver.start(5)
    assert driver.live(9.0) == 0
    assert driver.live(2.0) == 1


def test_a_job_whose_submission_was_not_answered_is_looked_for_at_once() -> None:
    driver = Driver()
    driver.start(0, JobState.UNKNOWN).job = None
    driver.live(8.0)
    assert driver.trials[0].searches >= 3


def test_a_launcher_that_does_not_answer_is_asked_ever_less_often_until_it_has_no_jobs() -> None:
    driver = Driver()
    driver.start(0)
    driver.live(5.0)
    driver.launcher.answers = False
    driver.live(1.0)
    assert driver.live(300.0) <= 12
    assert driver.polling.silent == {SLURM}
    driver.launcher.answers = True
    driver.live(60.0)
    assert driver.polling.silent == set()
    driver.launcher.answers = False
    driver.live(120.0)
    driver.end(driver.trials[0])
    driver.turn()
    assert driver.polling.silent == set()  # or nothing would ever be submitted again


def test_jobs_that_are_to_leave_are_looked_at_when_their_grace_is_over_or_nothing_else_is_waited_for() -> None:
    driver = Driver()
    driver.others = {SLURM: 30.0}
    driver.turn()
    assert driver.live(29.0) == 0
    assert driver.live(2.0) >= 1
    driver.others = {SLURM: driver.now + 30.0}
    driver.nothing_else = True
    assert 3 <= driver.live(8.0) <= 6


def test_processes_of_this_machine_are_looked_at_each_second() -> None:
    driver = Driver(Launcher(at_hand=True))
    driver.start(0)
    assert driver.live(20.0) == 20


def test_a_process_that_is_heard_to_have_ended_is_looked_at_at_once_if_only_such_are_waited_for() -> None:
    driver = Driver(Launcher(at_hand=True))
    driver.start(0)
    assert driver.turn()
    driver.launcher.ended = True
    assert not driver.turn()
    driver.end(driver.trials[0])
    driver.others, driver.nothing_else = {SLURM: driver.now + 30.0}, True
    assert driver.turn()
    assert not driver.turn()

"""Jobs that take trial after trial: whom the driver gives what, and what is left of each that dies on the way."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.tasks.forked import QuickStudy
from tests.tasks.studies import NewStudy
from trialfleet.sweep.reconcile import JobState
from trialfleet.sweep.workers import HELD_SECONDS, Workers
from trialfleet.trial import records
from trialfleet.trial.submission import JobRef, Submission
from trialfleet.trial.worker_folder import WorkerFolder

GRACE = 30.0
N = "hydra.sweeper.n_trials="
WARM = "hydra.sweeper.worker.local=true"


@dataclass
class Jobs:
    """Stands for a fleet: what it would say of each job."""

    phases: dict[str, JobState] = field(default_factory=dict)

    def phase(self, job: JobRef) -> JobState:
        return self.phases.get(job.id, JobState.RUNNING)


@dataclass
class Registry:
    """Workers, and what was said of those that are to leave."""

    study: Path
    jobs: Jobs = field(default_factory=Jobs)
    left: list[tuple[str, int, bool]] = field(default_factory=list)
    kind: str | None = "kind"

    def __post_init__(self) -> None:
        self.workers = Workers(
            self.study,
            {"local": self.jobs},  # type: ignore[dict-item]  # as much of a fleet as is asked
            self.kind,
            GRACE,
            lambda job, trial, late: self.left.append((job.id, trial, late)),
        )

    def started(self, name: str, number: int) -> WorkerFolder:
        """A job that runs trial `number`."""

        class Trial:
            pass

        trial = Trial()
        trial.number = number  # type: ignore[attr-defined]
        self.workers.started(trial, name, JobRef("local", name))  # type: ignore[arg-type]
        return WorkerFolder(self.study, name)

    def given(self, number: int) -> str | None:
        """The worker that takes a trial; None if none does."""
        while (name := self.workers.next()) is not None:
            if self.workers.give(name, number, self.submission()) is not None:
                return name
        return None

    def submission(self) -> Submission:
        return Submission("uuid", "payload", str(self.study), "study", 1, 0.0, [])


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_a_trial_goes_to_a_worker_that_waits_and_to_no_other(registry: Registry) -> None:
    folder = registry.started("a", 0)
    assert registry.given(1) is None
    assert registry.workers.ended(0, now=1.0)
    registry.workers.look(1.0)
    assert registry.given(1) is None
    assert registry.workers.expected(1.0) == 1
    folder.wait_for(1, frozenset())
    registry.workers.look(1.1)
    assert registry.workers.expected(1.1) == 0
    assert registry.given(1) == "a"
    assert folder.order(1).submission == registry.submission()
    assert registry.given(2) is None
    assert registry.workers.ended(1, now=2.0)
    assert not registry.workers.ended(0, now=2.0)


def test_a_worker_that_closes_at_the_same_moment_takes_nothing(registry: Registry) -> None:
    folder = registry.started("a", 0)
    registry.workers.ended(0, now=1.0)
    folder.wait_for(1, frozenset())
    registry.workers.look(1.0)
    folder.close(1, "nothing came")
    assert registry.given(1) is None
    assert registry.left == [("a", 0, False)]
    assert len(registry.workers) == 0


def test_one_that_has_closed_or_is_gone_is_not_waited_for(registry: Registry) -> None:
    closed = registry.started("closed", 0)
    registry.started("gone", 1)
    registry.workers.ended(0, now=1.0)
    registry.workers.ended(1, now=1.0)
    closed.close(1, "enough")
    registry.jobs.phases["gone"] = JobState.OVER
    registry.workers.look(1.0)
    assert registry.workers.expected(1.0) == 0
    assert registry.left == [("closed", 0, False)]
    assert len(registry.workers) == 0


def test_one_that_never_says_that_it_waits_is_ended_after_its_grace(registry: Registry) -> None:
    registry.started("a", 0)
    registry.workers.ended(0, now=1.0)
    registry.workers.look(1.0 + GRACE)
    assert registry.workers.expected(1.0 + HELD_SECONDS) == 0
    assert registry.left == []
    registry.workers.look(1.1 + GRACE)
    assert registry.left == [("a", 0, True)]


def test_a_trial_goes_to_a_worker_that_has_compiled_its_programs(registry: Registry) -> None:
    for number, (name, known) in enumerate({"a": "one", "b": "two", "c": "three"}.items()):
        registry.started(name, number).wait_for(1, frozenset([known]))
        registry.workers.ended(number, now=1.0)
    registry.workers.look(1.0)
    assert registry.workers.next(lambda: "two") == "b"
    assert registry.workers.next(lambda: "another") == "a"
    assert registry.workers.next(lambda: None) == "a"


def test_those_that_are_too_many_are_let_go(registry: Registry) -> None:
    for number, name in enumerate("ab"):
        registry.started(name, number).wait_for(1, frozenset())
        registry.workers.ended(number, now=1.0)
    registry.workers.look(1.0)
    registry.workers.close_all_but(1)
    assert registry.left == [("b", 1, False)]
    assert WorkerFolder(registry.study, "b").closed()
    assert registry.given(2) == "a"


def test_the_next_driver_takes_up_who_waits_and_closes_who_is_not_its_own(registry: Registry) -> None:
    for number, name in enumerate(("waits", "closed")):
        registry.started(name, number).wait_for(1, frozenset())
    WorkerFolder(registry.study, "closed").close(1, "enough")
    newcomer = Registry(registry.study)
    newcomer.workers.take_up([], 1.0)
    newcomer.workers.take_up([], 1.0)
    assert newcomer.workers.has(JobRef("local", "waits"))
    assert len(newcomer.workers) == 1
    newcomer.workers.look(1.0)
    assert newcomer.given(5) == "waits"
    stranger = Registry(registry.study, kind=None)
    WorkerFolder(registry.study, "waits").wait_for(2, frozenset())
    stranger.workers.take_up([], 1.0)
    stranger.workers.look(1.0)
    assert WorkerFolder(registry.study, "waits").order(2).reason == "another command drives the study"
    assert stranger.left == [("waits", -1, False)]


# -------------------------------------------------------------------- whole studies

NewQuickStudy = Callable[..., QuickStudy]


def processes(study: QuickStudy) -> dict[int, list[int]]:
    """The trials of each worker's process, by its pid."""
    found: dict[int, list[int]] = {}
    for number in study.numbers():
        for claim in study.trial(number).claims():
            found.setdefault(claim.process.pid, []).append(number)
    return found


def reasons(study: QuickStudy) -> list[str]:
    """Why each worker left, as far as it was said."""
    files = sorted(study.folder.glob("workers/*/*.json"))
    said = [records.read(file) or {} for file in files]
    return [str(one["closed"]) for one in said if "closed" in one]


def test_two_slots_are_two_processes(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}7", WARM)
    study.run()
    study.check(7, steps=4)
    assert sorted(map(len, processes(study).values()))[-1] > 1
    assert len(processes(study)) == 2
    assert len(reasons(study)) == 2
    assert {study.record(number)["worker"] is None for number in study.numbers()} == {True, False}


def test_a_job_runs_as_many_trials_as_it_is_told(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}5", "hydra.sweeper.n_jobs=1", "hydra.sweeper.worker.trials=2")
    study.run()
    study.check(5, steps=4)
    assert list(processes(study).values()) == [[0, 1], [2, 3], [4]]


@pytest.mark.slow
@pytest.mark.parametrize("fork", [True, False])
def test_workers_are_forked_the_first_one_too(new_study: NewStudy, fork: bool) -> None:
    more = f"hydra.sweeper.worker.fork={str(fork).lower()}"
    study = new_study(f"{N}2", "hydra.sweeper.n_jobs=1", WARM, "steps=40", "seconds=0.05", more)
    driver = study.start()
    study.wait_for(lambda: bool(study.steps(0, "1.0")), driver)
    around = [" ".join(one.cmdline()) for one in psutil.Process(study.trial(0).claims()[0].process.pid).parents()]
    study.finish(driver)
    study.check(2, steps=40)
    assert any("trialfleet.worker.fork_server" in words for words in around) == fork


@pytest.mark.slow
def test_a_worker_that_is_killed_in_its_third_trial_loses_that_one(new_study: NewStudy) -> None:
    study = new_study(f"{N}5", "hydra.sweeper.n_jobs=1", WARM, "steps=20", "seconds=0.05")
    driver = study.start()
    study.wait_for(lambda: bool(study.trial(2).claims()) and bool(study.steps(2, "1.0")), driver)
    before = [study.trial(number).result_json.read_bytes() for number in (0, 1)]
    os.kill(study.trial(2).claims()[0].process.pid, signal.SIGKILL)
    study.finish(driver)
    study.check(5, steps=20)
    assert [study.labels(number) for number in range(5)] == [["1.0"], ["1.0"], ["1.0", "2.0"], ["1.0"], ["1.0"]]
    assert [study.trial(number).result_json.read_bytes() for number in (0, 1)] == before
    pids = [[claim.process.pid for claim in study.trial(number).claims()] for number in range(5)]
    assert pids[0] == pids[1] == pids[2][:1]
    assert pids[2][1:] == pids[3] == pids[4]


@pytest.mark.slow
def test_workers_of_a_driver_that_died_go_on_under_the_next(new_study: NewStudy) -> None:
    study = new_study(f"{N}6", WARM, "steps=20", "seconds=0.05")
    driver = study.start()
    study.wait_for(lambda: len([one for one in (2, 3) if study.trial(one).claims()]) == 2, driver)
    driver.kill()
    driver.wait()
    study.run()
    study.check(6, steps=20)
    assert study.undisturbed_by_restarts()
    assert len({claim.process.pid for number in range(6) for claim in study.trial(number).claims()}) == 2

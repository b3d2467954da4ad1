"""The driver on simulated jobs: whatever launchers answer and however jobs fare, each trial is told once, and rightly.

Driver, dispatch, storage and the trials' folders are the real ones; the fleet and the clock are simulated.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.utils import JobReturn, JobStatus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from tests.sweep.builder import Heard
from trialfleet.config.devices import Needs
from trialfleet.errors import UserError
from trialfleet.sweep import sweeper_settings
from trialfleet.sweep.driver import Clock, Driver
from trialfleet.sweep.fleets import blocking
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.fleets.simulated import LAUNCHER, Answer, Fate, SimulatedFleet, SimulatedJob
from trialfleet.sweep.memory_check import MemoryCheck
from trialfleet.sweep.observers import Observers
from trialfleet.sweep.reconcile import Limits
from trialfleet.sweep.stopping import Jobs
from trialfleet.sweep.study import consistency, search_space, storage
from trialfleet.sweep.study.ahead import Rule
from trialfleet.sweep.study.budget import Account
from trialfleet.sweep.study.progress import StudyProgress
from trialfleet.sweep.study.proposer import Proposer
from trialfleet.sweep.study.samplers import SamplerFactory
from trialfleet.sweep.study.storage import StudyStorage
from trialfleet.sweep.study.study_ahead import StudyAhead
from trialfleet.sweep.study_folder import StudyFolder
from trialfleet.trial import records

UID = "0123456789abcdef"
LIMITS = Limits(max_retries=2, max_unclaimed=3, max_timeouts=None)
WATCH = {"files": 1.0, "jobs": 1.0, "max_jobs": 4.0, "max_files": 0.0, "verdict": 0.0}


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These studies die by exceptions, never by a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Dies(BaseException):
    """The driver is killed."""


@dataclass
class Scene:
    """A study of simulated jobs. Its drivers come and go; the jobs live on.

    Args:
        fates: of the runs of jobs, in the order in which they start; those after the last one complete.
        answers: of the launcher to submissions, likewise.
        silences: whether the launcher answers when asked about its jobs, likewise.
        launcher: one of Hydra's that blocks, in the place of the simulated one.
        needs: the memory that a trial needs, by its x; None if nobody asks.
    """

    folder: Path
    fates: list[Fate] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    silences: list[bool] = field(default_factory=list)
    trials: int = 3
    pruner: optuna.pruners.BasePruner | None = None
    sweeper: dict[str, Any] = field(default_factory=dict)
    launcher: Any = None
    needs: Callable[[float], Needs] | None = None

    def __post_init__(self) -> None:
        self.runs: list[SimulatedJob] = []
        self.submissions: list[Answer] = []
        fates, answers, silences = iter(self.fates), iter(self.answers), iter(self.silences)

        def fate(job: SimulatedJob) -> Fate:
            self.runs.append(job)
            return next(fates, Fate.COMPLETES)

        def answer() -> Answer:
            self.submissions.append(next(answers, Answer.ACCEPTED))
            return self.submissions[-1]

        self.fleet = SimulatedFleet(
            objectives=lambda params: [params["x"]],
            fate=fate,
            answer=answer,
            answers=lambda: next(silences, True),
        )
        self.fleets: dict[str, Fleet] = {LAUNCHER: self.fleet}
        if self.launcher is not None:
            self.fleets = {blocking.LAUNCHER: blocking.BlockingFleet(self.launcher)}
        (self.folder / ".submitit").mkdir(parents=True)
        self.heard = Heard()

    def driver(self) -> Driver:
        """A driver that takes the study up."""
        folder, self.heard = self.folder, Heard()
        opened = storage.open_storage(None, folder / storage.JOURNAL, lambda: None)
        store = StudyStorage(opened, "study", ["minimize"], lambda: None)
        store.belong(UID, folder)
        space = search_space.parse(["x=interval(0.0,1.0)"])
        samplers = SamplerFactory({"_target_": "optuna.samplers.RandomSampler"}, space, 1)
        settings = sweeper_settings.settings(
            {"n_trials": self.trials, "n_jobs": 2, "watch": {**WATCH, "settle_local": 0.0, "settle_network": 0.0}}
            | self.sweeper
        )
        found = consistency.compare(store, folder, [UID], space.overrides, self.heard.notice)
        assert (found.missing, found.differing) == ([], {})
        driver = Driver(
            study=StudyFolder(folder, folder / ".submitit", [UID], "loss" if self.pruner else None),
            store=store,
            proposer=Proposer(store, UID, space, samplers, [], folder, None, OmegaConf.create({}), Rule(2, 1)),
            pruner=self.pruner,
            settings=settings,
            limits=LIMITS,
            n_trials=self.trials,
            fleets=self.fleets,
            fleet=next(iter(self.fleets.values())),
            payload=folder / "payload.pkl",
            observers=Observers([self.heard]),
            progress=StudyProgress(["minimize"]),
            ended_jobs=found.ended_jobs,
            account=Account.open(folder / "budget.json", 1, self.heard.notice, lambda: 0.0),
            clock=Clock(now=lambda: self.fleet.now, sleep=self.fleet.sleep),
            takes_constraints=samplers.takes_constraints,
            memory_check=self.memory_check(),
        )
        driver.recover()
        return driver

    def memory_check(self) -> MemoryCheck | None:
        if self.needs is None:
            return None
        needs = self.needs

        def composed(overrides: Sequence[str]) -> DictConfig:
            return OmegaConf.from_dotlist(list(overrides))

        return MemoryCheck(composed, lambda config: needs(config.x), self.heard.notice, asynchronous=False)

    def run(self) -> Driver:
        driver = self.driver()
        driver.run()
        return driver

    def stored(self) -> list[optuna.trial.FrozenTrial]:
        """The trials, as plain Optuna reads them."""
        backend = optuna.storages.journal.JournalFileBackend(str(self.folder / storage.JOURNAL))
        return optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend)).get_trials()

    def check(self, failed: int = 0) -> None:
        """Each trial has ended, once, with the value of its own parameters, and no job is left."""
        stored = self.stored()
        assert [trial.number for trial in stored] == list(range(self.trials))
        states = [trial.state.name for trial in stored]
        assert states.count("FAIL") == failed, (states, self.heard.notices, self.heard.retries)
        for trial in stored:
            assert trial.state.is_finished()
            if trial.state.name == "COMPLETE":
                assert trial.values == [trial.params["x"]]
        self.fleet.refresh()
        assert self.fleet.jobs == {}


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., Scene]:
    return lambda **how: Scene(tmp_path / "study", **how)


# -------------------------------------------------------------------- how a job fares


@pytest.mark.parametrize(
    ("fates", "runs", "failed"),
    [
        ([], 1, 0),
        ([Fate.FAILS], 1, 1),
        ([Fate.LOST], 2, 0),
        ([Fate.LOST] * 2, 3, 0),
        ([Fate.LOST] * 3, 3, 1),
        ([Fate.SAVED] * 6, 7, 0),
        ([Fate.LOST, Fate.SAVED, Fate.LOST, Fate.LOST], 5, 0),
        ([Fate.UNCLAIMED] * 2, 3, 0),
        ([Fate.UNCLAIMED] * 3, 3, 1),
        ([Fate.REQUEUED] * 2, 3, 0),
        ([Fate.REQUEUED] * 3, 4, 1),
        ([Fate.LINGERS], 1, 0),
        ([Fate.HINDERED] * 6, 7, 0),
        ([Fate.HINDERED, Fate.LOST, Fate.HINDERED, Fate.LOST], 5, 0),
        ([Fate.LOST, Fate.HINDERED, Fate.LOST, Fate.LOST], 4, 1),
    ],
    ids=lambda value: "-".join(fate.value for fate in value) or "none" if isinstance(value, list) else str(value),
)
def test_however_a_job_fares(scene: Callable[..., Scene], fates: list[Fate], runs: int, failed: int) -> None:
    """A study of one trial: how often it runs, and whether it fails."""
    study = scene(fates=fates, trials=1, sweeper={"max_failure_rate": 1.0})
    study.run()
    study.check(failed)
    assert len(study.runs) == runs
    if Fate.LINGERS in fates:
        assert "hydra.sweeper.grace" in " ".join(study.heard.notices)


# -------------------------------------------------------------------- memory, before a job is spent


def test_a_trial_that_no_device_has_room_for_gets_no_job(scene: Callable[..., Scene]) -> None:
    """By its state alone: it ends as one that ran out of memory. One whose estimate is too large only has a note."""
    study = scene(
        trials=6, needs=lambda x: Needs("h100", 80, 100 if x < 0.5 else 10, 90), sweeper={"max_failure_rate": 1.0}
    )
    study.run()
    stored = study.stored()
    small = [trial for trial in stored if trial.params["x"] >= 0.5]
    assert 0 < len(small) < 6
    study.check(failed=6 - len(small))
    assert {run.params["x"] for run in study.runs} == {trial.params["x"] for trial in small}
    assert len([note for note in study.heard.notices if "may not fit" in note]) == len(small)
    assert len(study.heard.notices) == len(small)  # the records of the others are whole
    errors = [result.error for result in study.heard.results.values() if result.error is not None]
    assert {error["type"] for error in errors} == {"OutOfMemory"}
    assert "no job was started" in errors[0]["message"]


def test_a_trial_of_which_nobody_can_say_what_it_needs_runs(scene: Callable[..., Scene]) -> None:
    def needs(x: float) -> Needs:
        raise KeyError("model")

    study = scene(trials=2, needs=needs)
    study.run()
    study.check()
    assert "KeyError" in study.heard.notices[0]


# -------------------------------------------------------------------- a disk that is full elsewhere


def test_a_disk_that_stays_full_fails_the_trial_with_its_own_words(scene: Callable[..., Scene]) -> None:
    """After max_retries runs at least, and no sooner than hydra.sweeper.patience says."""
    study = scene(fates=[Fate.HINDERED] * 100, trials=1, sweeper={"max_failure_rate": 1.0, "patience": 100.0})
    study.run()
    study.check(failed=1)
    error = study.heard.results[0].error
    assert error is not None
    assert (error["type"], error["message"]) == ("OSError", f"[Errno 28] {os.strerror(28)}: '/scratch'")
    assert len(study.heard.notices) == 1
    assert "hydra.sweeper.patience" in study.heard.notices[0]
    pauses = [later.started - sooner.started for sooner, later in itertools.pairwise(study.runs)]
    assert pauses == sorted(pauses)
    assert study.runs[-1].started >= 100.0 > study.runs[-2].started
    assert all(reason == error["message"] for _, reason in study.heard.retries)


def test_a_run_that_goes_on_when_patience_ends_is_let(scene: Callable[..., Scene]) -> None:
    study = scene(fates=[Fate.HINDERED] * 3, trials=1, sweeper={"patience": 30.0})
    study.fleet.length = lambda params: 50.0 if len(study.runs) == 3 else 2.0
    study.run()
    study.check()


def test_a_full_disk_holds_up_no_other_trial(scene: Callable[..., Scene]) -> None:
    study = scene(fates=[Fate.COMPLETES, *[Fate.HINDERED] * 8], trials=12)
    study.run()
    study.check()
    assert len(study.runs) == 20


# -------------------------------------------------------------------- what the launcher answers


@pytest.mark.parametrize("first", list(Answer))
def test_whatever_the_launcher_answers(scene: Callable[..., Scene], first: Answer) -> None:
    """Nothing is submitted twice, and nothing never."""
    study = scene(answers=[first, first], trials=2)
    study.run()
    study.check()
    assert len(study.runs) == 2
    assert len(study.heard.notices) == (first is not Answer.ACCEPTED)


def test_refusals_that_stay_end_the_study_with_the_launchers_words(scene: Callable[..., Scene]) -> None:
    study = scene(answers=[Answer.REFUSED] * 100, sweeper={"patience": 100.0})
    driver = study.driver()
    with pytest.raises(UserError, match="the launcher is refused"):
        driver.run()
    assert study.runs == []
    study.answers = []
    study.fleet.answer = lambda: Answer.ACCEPTED
    study.run()
    study.check()


def test_a_launcher_that_is_silent_is_waited_for(scene: Callable[..., Scene]) -> None:
    study = scene(silences=[False] * 8, trials=2)
    study.run()
    study.check()
    assert study.heard.notices == [f"{LAUNCHER} does not answer: its jobs are left as they are until it does"]


def test_a_job_that_claims_before_the_launcher_shows_it_is_not_started_again(scene: Callable[..., Scene]) -> None:
    """The answer to its submission was lost, and the launcher was asked just before the job came through."""
    study = scene(answers=[Answer.SILENT], trials=1)
    find = study.fleet.find
    study.fleet.find = lambda uuid, index: find(uuid, index) if study.runs else None  # type: ignore[method-assign]
    study.fleet.in_line = 1.5
    study.run()
    study.check()
    assert len(study.runs) == 1


# -------------------------------------------------------------------- jobs that are over at once


class AtOnce:
    """A launcher that blocks. Its jobs return their x.

    Args:
        failures: that end the first jobs instead.
    """

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.batches: list[int] = []
        self.before: Callable[[], object] = lambda: None  # called as each batch begins

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        self.before()
        self.batches.append(len(job_overrides))
        return [self._end(overrides) for overrides in job_overrides]

    def _end(self, overrides: list[str]) -> JobReturn:
        if self._failures:
            return JobReturn(status=JobStatus.FAILED, _return_value=self._failures.pop(0))
        values = dict(text.split("=", 1) for text in overrides)
        return JobReturn(status=JobStatus.COMPLETED, _return_value=float(values["x"]))


def sleeps_of(driver: Driver) -> list[float]:
    """How long the driver sleeps, each time that it does."""
    found: list[float] = []
    sleep = driver.clock.sleep
    driver.clock.sleep = lambda seconds: (found.append(seconds), sleep(seconds))[1]
    return found


def test_a_driver_whose_jobs_are_over_at_once_never_sleeps(scene: Callable[..., Scene]) -> None:
    """Nor does it wait for jobs that cannot linger, or between the last result and its end."""
    study = scene(launcher=AtOnce(ValueError("no")), trials=7, sweeper={"max_failure_rate": 1.0})
    driver = study.driver()
    sleeps = sleeps_of(driver)
    driver.run()
    study.check(failed=1)
    assert sleeps == []
    assert study.launcher.batches == [2, 2, 2, 1]  # n_jobs at a time


def test_it_goes_on_at_once_with_a_run_that_ended_for_no_fault_of_its_trial(scene: Callable[..., Scene]) -> None:
    study = scene(launcher=AtOnce(BrokenExecutor("killed")), trials=3)
    driver = study.driver()
    sleeps = sleeps_of(driver)
    driver.run()
    study.check()
    assert sleeps == []
    assert sum(study.launcher.batches) == 4


def test_a_slot_that_is_free_gets_what_stands_ready(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler is asked while all slots are taken; at the start, and at the end, there is nothing to ask ahead."""
    made, took = [], []
    make, take = StudyAhead.add, StudyStorage.create_ready
    monkeypatch.setattr(StudyAhead, "add", lambda self, ready, before: made.append(ready) or make(self, ready, before))  # type: ignore[func-returns-value]
    monkeypatch.setattr(StudyStorage, "create_ready", lambda self, ready: took.append(ready) or take(self, ready))  # type: ignore[func-returns-value]
    first = scene(trials=6)
    first.run()
    first.check()
    assert [ready.trial.number for ready in took] == [2, 3, 4, 5]
    assert took == made


def test_it_sleeps_while_there_is_nothing_to_do(scene: Callable[..., Scene]) -> None:
    """A disk that is full elsewhere: the trial rests before its next run, and the driver does not spin meanwhile."""
    full = OSError(28, os.strerror(28), "/scratch")
    study = scene(launcher=AtOnce(full, full), trials=1)
    driver = study.driver()
    sleeps = sleeps_of(driver)
    driver.run()
    study.check()
    assert set(sleeps) == {WATCH["files"]}
    assert study.launcher.batches == [1, 1, 1]


def test_a_driver_whose_jobs_take_their_time_sleeps_after_each_turn(scene: Callable[..., Scene]) -> None:
    study = scene()
    driver = study.driver()
    sleeps = sleeps_of(driver)
    driver.run()
    study.check()
    assert sleeps == [WATCH["files"]] * (study.heard.turns - 1)


# -------------------------------------------------------------------- what is on the disk, and when


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], int]:
    """How many bytes of a file a power cut would take."""
    synced: dict[int, int] = {}

    def fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        synced[found.st_ino] = found.st_size

    monkeypatch.setattr(os, "fsync", fsync)
    return lambda path: path.stat().st_size - synced[path.stat().st_ino]


def test_a_job_begins_when_the_study_has_its_parameters_on_the_disk(
    scene: Callable[..., Scene], unsynced: Callable[[Path], int]
) -> None:
    launcher = AtOnce()
    study = scene(launcher=launcher, trials=5)
    journal = study.folder / storage.JOURNAL
    found: list[int] = []
    launcher.before = lambda: found.append(unsynced(journal))
    study.run()
    study.check()
    assert found == [0, 0, 0]
    assert unsynced(journal) == 0  # when the study is over, too


def test_a_verdict_comes_when_the_study_has_the_reports_on_the_disk(
    scene: Callable[..., Scene], unsynced: Callable[[Path], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = scene(pruner=optuna.pruners.ThresholdPruner(upper=-1.0), trials=2)
    journal, create = study.folder / storage.JOURNAL, records.create
    found: list[int] = []

    def created(path: Path, value: Any) -> bool:
        if path.name == "verdict.json":
            found.append(unsynced(journal))
        return create(path, value)

    monkeypatch.setattr(records, "create", created)
    study.run()
    assert found == [0, 0]


# -------------------------------------------------------------------- requests to stop


def test_a_study_that_is_left_goes_on_with_the_next_driver(scene: Callable[..., Scene]) -> None:
    study = scene()
    driver = study.driver()
    study.fleet.sleep(1.0)
    driver.request_stop("", Jobs.LEAVE)
    driver.run()
    driver = study.driver()
    driver.clock.sleep = lambda seconds: (study.fleet.sleep(seconds), driver.request_stop("", Jobs.LEAVE))[0]
    driver.run()
    assert driver.in_flight == 2
    study.run()
    study.check()
    assert len(study.runs) == 3


def test_a_request_that_is_withdrawn_is_forgotten(scene: Callable[..., Scene]) -> None:
    study = scene()
    driver = study.driver()
    driver.request_stop("a pause", Jobs.FINISH)
    driver.stopping.withdraw("another one")
    assert driver.stopping.reason == "a pause"
    driver.stopping.withdraw("a pause")
    driver.run()
    study.check()


def test_no_more_trials_are_started_once_too_many_have_failed(scene: Callable[..., Scene]) -> None:
    study = scene(fates=[Fate.FAILS] * 10, trials=10, sweeper={"max_failure_rate": 0.2})
    driver = study.run()
    assert driver.progress.failed in (3, 4)  # two at a time
    assert "max_failure_rate=0.2" in driver.stopping.failure
    driver.stopping.withdraw(driver.stopping.reason)
    assert driver.stopping.reason == driver.stopping.failure


def test_a_pruned_trial_is_told_once(scene: Callable[..., Scene]) -> None:
    study = scene(trials=4, pruner=optuna.pruners.ThresholdPruner(upper=0.0))
    study.run()
    assert [trial.state.name for trial in study.stored()] == ["PRUNED"] * 4
    assert all(trial.intermediate_values == {1: 1.0} for trial in study.stored())


# -------------------------------------------------------------------- any sequence of these


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fates=st.lists(st.sampled_from(Fate), max_size=12),
    answers=st.lists(st.sampled_from(Answer), max_size=8),
    silences=st.lists(st.booleans(), max_size=8),
    deaths=st.lists(st.integers(0, 25), max_size=5),
)
def test_whatever_happens_each_trial_is_told_once(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    fates: list[Fate],
    answers: list[Answer],
    silences: list[bool],
    deaths: list[int],
) -> None:
    """Drivers die before any of their writes, and the next one takes over; in between the jobs live on."""
    study = Scene(tmp_path_factory.mktemp("any") / "study", fates, answers, silences, sweeper={"max_failure_rate": 1.0})
    told: list[int] = []
    with monkeypatch.context() as patch:
        for death in deaths:
            left = [death]

            def dying(real: Callable[..., Any], left: list[int] = left) -> Callable[..., Any]:
                def call(*given: Any, **named: Any) -> Any:
                    if left[0] == 0:
                        raise Dies
                    left[0] -= 1
                    return real(*given, **named)

                return call

            with patch.context() as dies:
                for name in ("write", "create"):
                    dies.setattr(records, name, dying(getattr(records, name)))
                for name in ("tell", "create", "create_ready"):
                    dies.setattr(StudyStorage, name, dying(getattr(StudyStorage, name)))
                with suppress(Dies):
                    study.run()
            told += list(study.heard.results)
            study.fleet.sleep(1.5)
        study.run()
    told += list(study.heard.results)
    assert sorted(told) == [0, 1, 2]
    stored = study.stored()
    assert [trial.number for trial in stored] == [0, 1, 2]
    for trial in stored:
        assert trial.state.name in ("COMPLETE", "FAIL")
        assert trial.values in (None, [trial.params["x"]])
    study.fleet.refresh()
    assert study.fleet.jobs == {}

"""Launchers that block: what their returns, and their exceptions, make of a trial; and studies on Hydra's own."""

import errno
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hydra.core.utils import JobReturn, JobStatus

from tests.tasks.forked import QuickStudy
from trialfleet.errors import UserError
from trialfleet.sweep.active_trial import job_of
from trialfleet.sweep.fleets.base import Interrupted
from trialfleet.sweep.fleets.blocking import BlockingFleet
from trialfleet.trial import commitment, out_of_memory, records, transient
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.failure import word_of_file_system
from trialfleet.trial.result import OUT_OF_MEMORY, TrialState
from trialfleet.trial.run import PeerLost, Preempted, Pruned
from trialfleet.trial.submission import Assignment, JobRef, Submission, TrialRecord
from trialfleet.trial.sweep_run import NOTES

Ends = Callable[[Sequence[Sequence[str]], int], Any]


class Launcher:
    """`launch()` as the test wants it."""

    def __init__(self, launch: Ends) -> None:
        self._launch = launch
        self.calls: list[list[int]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        self.calls.append([initial_job_idx + index for index in range(len(job_overrides))])
        return self._launch(job_overrides, initial_job_idx)


class Batch:
    """Trials 0, 1 … of a study in `folder`, run by a fleet."""

    def __init__(self, folder: Path, launch: Ends, count: int = 1) -> None:
        self.trials = [TrialDir(folder / "trials" / f"{number:05d}") for number in range(count)]
        assignments = [Assignment(number, 1, str(trial.path), "p", []) for number, trial in enumerate(self.trials)]
        self.submission = Submission("u", "", str(folder), "study", 1, 0.1, assignments)
        self.path = folder / "u.json"
        self.submission.write(self.path)
        self.launcher = Launcher(launch)
        self.fleet = BlockingFleet(self.launcher)  # type: ignore[arg-type]  # all that is used of a launcher
        self.said: list[str] = []
        self.fleet.notice = self.said.append

    def run(self) -> None:
        jobs = self.fleet.submit(self.path, "u", len(self.trials))
        assert jobs == [JobRef("blocking", str(number)) for number in range(len(self.trials))]

    def ends(self) -> list[tuple[str, str]]:
        """State and type of the error of each trial; ("goes on", "") of one whose run left a claim and no result."""
        ends = []
        for trial in self.trials:
            result = trial.result()
            if result is None:
                assert [claim.label for claim in trial.claims()] == ["1.0"]
                ends.append(("goes on", ""))
            else:
                ends.append((result.state.value, result.error["type"] if result.error else ""))
        return ends


def failed(failure: Any) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=failure)


def completed(value: Any) -> JobReturn:
    return JobReturn(status=JobStatus.COMPLETED, _return_value=value)


def error_of(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class XlaRuntimeError(RuntimeError):
    """Named as jax's."""


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


XLA = XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1234 bytes.")
TORCH = OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize(
    ("failure", "end"),
    [
        (ValueError("wrong"), ("FAIL", "ValueError")),
        (KeyboardInterrupt(), ("FAIL", "KeyboardInterrupt")),  # the task's own: nobody interrupted
        (XLA, ("FAIL", OUT_OF_MEMORY)),
        (TORCH, ("FAIL", OUT_OF_MEMORY)),
        (Pruned(), ("PRUNED", "")),
        (MemoryError(), ("goes on", "")),
        (error_of(errno.ESTALE), ("goes on", "")),
        (error_of(errno.ENOSPC), ("goes on", "")),
        (Preempted(), ("goes on", "")),
        (PeerLost(), ("goes on", "")),
        (BrokenExecutor("a process was killed"), ("goes on", "")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
@pytest.mark.parametrize("raised", [False, True])
def test_an_exception_means_for_the_trial_what_it_means_in_a_worker(
    failure: BaseException, end: tuple[str, str], raised: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        if raised:
            raise failure
        return [failed(failure)]

    batch = Batch(tmp_path, launch)
    batch.run()
    assert batch.ends() == [end]
    no_error = isinstance(failure, Pruned | Preempted)
    assert ("Error executing job" in capsys.readouterr().err) == (not no_error)
    word = word_of_file_system(batch.trials[0], "1.0")
    assert (word is not None) == isinstance(failure, OSError)
    assert len(batch.said) == (end[0] == "goes on" and word is None)  # of which the driver tells
    left = (batch.trials[0].run_dir("1.0") / out_of_memory.RECORD).exists()
    assert left == isinstance(failure, MemoryError)


def test_a_cause_that_crossed_a_process_counts(tmp_path: Path) -> None:
    """joblib's returns are pickled, and an exception's cause comes back only when it is raised."""
    from hydra.core.utils import _serialize_exception_chain, _serialize_traceback

    try:
        raise RuntimeError("training failed") from XLA
    except RuntimeError as failure:
        end = failed(failure)
        end._remote_traceback = _serialize_traceback(failure.__traceback__)
        end._remote_exception_chain = _serialize_exception_chain(failure)
    batch = Batch(tmp_path, lambda overrides, first: [pickle.loads(pickle.dumps(end))])
    batch.run()
    assert batch.ends() == [("FAIL", OUT_OF_MEMORY)]


def test_a_run_that_goes_on_says_why_in_its_log_and_its_job_is_the_launchers(tmp_path: Path) -> None:
    batch = Batch(tmp_path, lambda overrides, first: [failed(error_of(errno.EIO))])
    batch.run()
    assert os.strerror(errno.EIO) in (batch.trials[0].run_dir("1.0") / "log").read_text()
    [claim] = batch.trials[0].claims()
    assert job_of(claim, TrialRecord(0, [], {})) == JobRef(
        "blocking", "0"
    )  # not a process to watch or to kill: it is ours


def test_a_result_says_how_long_its_trial_took_and_where_the_time_went(tmp_path: Path) -> None:
    """The last of two, which began when the first had ended, is not charged for the wait."""

    def launch(overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        for trial, waited in zip(batch.trials, (0.0, 3600.0), strict=False):
            config = trial.run_dir("1.0") / ".hydra" / "config.yaml"
            config.parent.mkdir(parents=True)
            config.touch()
            os.utime(config, (time.time() + waited,) * 2)
        records.write(batch.trials[0].run_dir("1.0") / NOTES.replace("*", "-a"), {"seconds": {"reading": 2.5}, "a": 1})
        return [completed(1.0) for _ in overrides]

    batch = Batch(tmp_path, launch, count=2)
    batch.run()
    first, last = (trial.result() for trial in batch.trials)
    assert first is not None
    assert last is not None
    assert first.seconds.keys() == {"reading", "total"}
    assert first.seconds["total"] > last.seconds["total"] == 0.0
    assert first.notes == {"a": 1}


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOSPC])
def test_a_result_is_committed_once_the_file_system_is_back(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transient, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(commitment, "FULL_DISK_SECONDS", 0.001)
    errors, create = [error_of(number)] * 3, records.create

    def stumbling(path: Path, record: dict[str, Any], synced: bool = True) -> bool:
        if errors and path.name == "result.json":
            raise errors.pop()
        return create(path, record, synced)

    batch = Batch(tmp_path, lambda overrides, first: [completed(3.5), completed(4.5)], count=2)
    with patch.object(records, "create", stumbling):
        batch.run()
    assert not errors
    assert [trial.result().objectives for trial in batch.trials] == [[3.5], [4.5]]  # type: ignore[union-attr]


def test_who_raises_through_the_launcher_fails_alone(tmp_path: Path) -> None:
    def launch(overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        if first <= 1 < first + len(overrides):
            raise SystemExit(3)
        return [completed(1.0) for _ in overrides]

    batch = Batch(tmp_path, launch, count=3)
    batch.run()
    assert batch.ends() == [("COMPLETE", ""), ("FAIL", "SystemExit"), ("COMPLETE", "")]
    assert batch.launcher.calls == [[0, 1, 2], [0], [1], [2]]


@pytest.mark.parametrize("returned", [[completed(1.0)], [], None, [completed(1.0), 2.0], [completed(1.0)] * 3])
def test_returns_that_fit_no_trial_are_the_launchers_fault(returned: Any, tmp_path: Path) -> None:
    batch = Batch(tmp_path, lambda overrides, first: returned, count=2)
    with pytest.raises(UserError, match=r"hydra\.launcher: Launcher ran 2 trials and returned"):
        batch.run()
    assert [trial.result() for trial in batch.trials] == [None, None]


@pytest.mark.parametrize("end", [JobReturn(), failed(None), failed("a word")], ids=["unknown", "nothing", "word"])
def test_a_return_that_does_not_say_how_its_trial_ended_fails_the_trial(end: JobReturn, tmp_path: Path) -> None:
    batch = Batch(tmp_path, lambda overrides, first: [end, completed(1.0)], count=2)
    batch.run()
    assert batch.ends() == [("FAIL", "NoEnd"), ("COMPLETE", "")]
    result = batch.trials[0].result()
    assert result is not None
    assert result.error is not None
    assert "does not say how the trial ended" in result.error["message"]


INTERRUPTS: dict[str, Callable[[], list[JobReturn]]] = {
    "raised": list,
    "returned": lambda: [completed(1.0), failed(KeyboardInterrupt()), failed(KeyboardInterrupt())],
    "translated": lambda: [completed(1.0), failed(RuntimeError("the pool is gone")), failed(ValueError())],
    "overlooked": lambda: [completed(1.0), completed(2.0), completed(3.0)],
    "raised as another": lambda: [][7],
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("becomes", INTERRUPTS)
def test_what_somebody_interrupted_is_no_run_and_no_failure_and_what_ended_counts(
    becomes: str, number: int, tmp_path: Path
) -> None:
    def launch(overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        assert claims() == [1, 1, 1]
        if becomes == "raised":
            os.kill(os.getpid(), number)
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        return INTERRUPTS[becomes]()

    def claims() -> list[int]:
        return [len(TrialDir(trial.path).claims()) for trial in batch.trials]  # read anew

    batch = Batch(tmp_path, launch, count=3)
    with pytest.raises(Interrupted):
        batch.run()
    ended = {"overlooked": 3, "returned": 1, "translated": 1}.get(becomes, 0)
    for index, trial in enumerate(batch.trials):
        result = trial.result()
        assert (result.state if result else None) == (TrialState.COMPLETE if index < ended else None)
        assert claims()[index] == (index < ended)


def test_a_trial_that_had_a_run_goes_alone(tmp_path: Path) -> None:
    batch = Batch(tmp_path, lambda overrides, first: [completed(1.0) for _ in overrides], count=5)
    trials = [replace(trial, attempt=2 if trial.number == 0 else 1) for trial in batch.submission.trials]
    replace(batch.submission, trials=[*trials[1:], trials[0]]).write(batch.path)
    batch.fleet.submit(batch.path, "u", 5)
    assert batch.launcher.calls == [[1, 2, 3, 4], [0]]


def test_a_task_that_changes_the_process_changes_it_for_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, streams, given = Path.cwd(), (sys.stdout, sys.stderr), list[str]()

    def launch(overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        given.extend(overrides[0])
        os.chdir(tmp_path)
        sys.stdout = sys.stderr = None  # type: ignore[assignment]
        return [completed(1.0)]

    monkeypatch.chdir(before)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    batch = Batch(tmp_path, launch)
    batch.run()
    assert f"hydra.sweep.dir={tmp_path}" in given
    assert Path.cwd() == before
    assert (sys.stdout, sys.stderr) == streams


class Mute:
    """A return value, or what stands in an exception's place, that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (completed(10**400), "WrongReturn"),
        (completed(Mute()), "WrongReturn"),
        (failed(Mute()), "NoEnd"),
        (failed(type("Odd", (ValueError,), {"__str__": Mute.__repr__})()), "Odd"),
    ],
    ids=["huge", "mute", "mute in an exception's place", "mute exception"],
)
def test_a_trial_whose_end_cannot_be_shown_fails_and_the_others_are_written_down(
    end: JobReturn, kind: str, tmp_path: Path
) -> None:
    batch = Batch(tmp_path, lambda overrides, first: [end, completed(1.0)], count=2)
    batch.run()
    assert batch.ends() == [("FAIL", kind), ("COMPLETE", "")]


def test_a_failure_is_the_tasks_own_though_it_left_no_stream_to_show_it_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    batch = Batch(tmp_path, lambda overrides, first: [failed(ValueError("wrong"))])
    batch.run()
    assert batch.ends() == [("FAIL", "ValueError")]


# ---------------------------------------------------------------- whole studies, on Hydra's basic launcher

BASIC = "hydra/launcher=basic"
# Whatever the task does, the first time it is called it raises.
ONCE = """
from tests.tasks import descent
whole, calls = descent.undisturbed, []
def once(self, *arguments, advance=descent.State.advance):
    calls.append(1)
    if len(calls) == 1:
        raise {failure}
    return advance(self, *arguments)
descent.State.advance = once
"""


# A task of which the trial with this number does something first.
TRIAL_DOES = """
import os, signal, sys
from hydra.core.hydra_config import HydraConfig
from tests.tasks import descent
whole = descent.State.advance
def does(self, *arguments):
    if HydraConfig.get().job.num == {number}:
        {what}
    return whole(self, *arguments)
descent.State.advance = does
"""


def test_a_trial_that_ends_its_driver_is_lost_each_time_and_takes_no_other_along(
    quick_study: Callable[..., QuickStudy],
) -> None:
    study = quick_study(BASIC, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2", "hydra.sweeper.max_retries=1")
    kills = TRIAL_DOES.format(number=1, what="os._exit(137)")
    study.run(first=kills, code=137)
    assert [study.labels(number) for number in study.numbers()] == [["1.0"], ["1.0"]]
    study.run(first=kills, code=137)
    study.run(first=kills)
    assert [trial.state.name for trial in study.stored()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [study.labels(number) for number in study.numbers()] == [["1.0"], ["1.0", "2.0"], ["1.0"]]
    assert "Lost: lost 2 times in a row" in study.said()


def test_a_run_that_somebody_interrupted_does_not_count(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study(BASIC, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "hydra.sweeper.max_retries=0")
    said = study.run(first=TRIAL_DOES.format(number=1, what="os.kill(os.getpid(), signal.SIGINT)"))
    assert "interrupted while the launcher ran trials" in said
    study.run()
    study.check(2, steps=4)
    assert study.undisturbed_by_restarts()


def test_a_trial_whose_task_raises_keyboard_interrupt_fails(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study(BASIC, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2")
    study.run(first=TRIAL_DOES.format(number=1, what="raise KeyboardInterrupt"))
    assert [trial.state.name for trial in study.stored()] == ["COMPLETE", "FAIL"]


def test_what_a_task_does_to_its_process_moves_no_other_trials_files(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study(BASIC, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    (study.place / "elsewhere").mkdir()
    said = study.run(
        first=TRIAL_DOES.format(number=0, what=f"os.chdir({str(study.place / 'elsewhere')!r}); sys.stdout = None")
    )
    study.check(3, steps=4)
    assert list((study.place / "elsewhere").iterdir()) == []
    for number in range(3):
        assert (study.trial(number).run_dir("1.0") / ".hydra" / "config.yaml").exists()
    assert "3 complete" in said


def test_a_trial_whose_file_system_failed_is_run_again(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study(BASIC, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    study.run(first=ONCE.format(failure="OSError(116, 'Stale file handle')"))
    assert study.states() == {"COMPLETE": 2}
    first, last = study.trial(0).result(), study.trial(1).result()
    assert first is not None
    assert last is not None
    assert first.run == "2.0"
    used = records.read(study.folder / "budget.json")
    assert used is not None
    assert used["device_seconds"] == pytest.approx(first.seconds["total"] + last.seconds["total"])


def test_a_trial_that_does_not_fit_a_device_is_out_of_memory_and_not_run_again(
    quick_study: Callable[..., QuickStudy],
) -> None:
    study = quick_study(BASIC, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    said = study.run(first=ONCE.format(failure="RuntimeError('RESOURCE_EXHAUSTED: Out of memory')"))
    first = study.trial(0).result()
    assert first is not None
    assert (first.state, first.run) == (TrialState.FAIL, "1.0")
    assert "1 out of memory" in said

"""Launchers that block: what their returns, and their exceptions, make of a trial; and studies on Hydra's own."""

import errno
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hydra.core.utils import JobReturn, JobStatus

from tests.tasks.forked import QuickStudy
from trialfleet.errors import UserError
from trialfleet.sweep.active_trial import job_of
from trialfleet.sweep.fleets.blocking import BlockingFleet
from trialfleet.trial import commitment, out_of_memory, records, transient
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.failure import word_of_file_system
from trialfleet.trial.result import OUT_OF_MEMORY, TrialState
from trialfleet.trial.run import PeerLost, Preempted, Pruned
from trialfleet.trial.submission import Assignment, JobRef, Submission, TrialRecord

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
    failure: BaseException, end: tuple[str, str], raised: bool, tmp_path: Path
) -> None:
    def launch(overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        if raised:
            raise failure
        return [failed(failure)]

    batch = Batch(tmp_path, launch)
    batch.run()
    assert batch.ends() == [end]
    word = word_of_file_system(batch.trials[0], "1.0")
    assert (word is not None) == isinstance(failure, OSError)
    assert len(batch.said) == (end[0] == "goes on" and word is None)  # of which the driver tells
    starved = (batch.trials[0].run_dir("1.0") / out_of_memory.RECORD).exists()
    assert starved == isinstance(failure, MemoryError)


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


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOSPC])
def test_a_result_is_committed_once_the_file_system_is_back(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transient, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(commitment, "FULL_DISK_SECONDS", 0.001)
    errors, create = [error_of(number)] * 3, records.create

    def stumbling(path: Path, record: dict[str, Any]) -> bool:
        if errors:
            raise errors.pop()
        return create(path, record)

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


def test_a_trial_whose_file_system_failed_is_run_again(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study(BASIC, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    study.run(first=ONCE.format(failure="OSError(116, 'Stale file handle')"))
    assert study.states() == {"COMPLETE": 2}
    first = study.trial(0).result()
    assert first is not None
    assert first.run == "2.0"


def test_a_trial_that_does_not_fit_a_device_is_out_of_memory_and_not_run_again(
    quick_study: Callable[..., QuickStudy],
) -> None:
    study = quick_study(BASIC, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    said = study.run(first=ONCE.format(failure="RuntimeError('RESOURCE_EXHAUSTED: Out of memory')"))
    first = study.trial(0).result()
    assert first is not None
    assert (first.state, first.run) == (TrialState.FAIL, "1.0")
    assert "1 out of memory" in said

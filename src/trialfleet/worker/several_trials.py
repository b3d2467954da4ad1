"""A job's process that runs one trial after another: what it pays once is imports, devices, data, compiled programs.

Between two trials it puts its process back as it was before the first one, and waits for a file: the driver's order.
"""

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trialfleet.trial.result import OUT_OF_MEMORY, Result, TrialState
from trialfleet.trial.submission import WARNING, Assignment, Submission
from trialfleet.trial.worker_folder import WorkerFolder
from trialfleet.trial.worker_terms import Terms
from trialfleet.worker import signals
from trialfleet.worker.job_environment import JobEnvironment
from trialfleet.worker.process_state import ProcessState, held_bytes

if TYPE_CHECKING:
    from trialfleet.worker.main import Ended

QUICK_SECONDS = 2.0  # for which an order is looked for as often as it costs nothing
QUICK, SLOW = 0.005, 0.1  # seconds between two looks for an order
ANEW = 0.25  # seconds between two questions to the file system's server, if there is one
MARGIN = 1.25  # factor on the longest trial so far: so much of the job's time must be left for another
# Words of errors after which the runtime of the devices may be in any state.
_OF_RUNTIME = ("XlaRuntimeError", "JaxRuntimeError", "CUDA error", "MemoryError", OUT_OF_MEMORY)


class OneTrial(Protocol):
    """What runs a trial: `trialfleet.worker.main.one_trial`."""

    def __call__(
        self,
        submission: Submission,
        assignment: Assignment,
        environment: JobEnvironment,
        begun: float,
        imported: Callable[[], None],
        among_others: bool,
    ) -> "Ended": ...


class SeveralTrials:
    """One process's trials, from the one that its job was submitted for to the last.

    Args:
        submission: of the job; of its trials the job's own element is the first.
    """

    def __init__(self, submission: Submission, environment: JobEnvironment, terms: Terms, one_trial: OneTrial) -> None:
        self._first, self._environment, self._terms, self._one_trial = submission, environment, terms, one_trial
        self._folder = WorkerFolder(Path(submission.sweep_dir), f"{submission.uuid}.{environment.element}")
        self._state: ProcessState | None = None
        self._output = [os.dup(1), os.dup(2)]
        self._known: frozenset[str] = frozenset()
        self._ran, self._failures, self._longest = 0, 0, 0.0
        self._held: int | None = None  # bytes after the first trial

    def run(self) -> int:
        """Run trials until there is a reason to leave; returns the process's exit code."""
        number = self._folder.last_order() if self._environment.restart else 0  # Slurm may start a job again
        submission, assignment = self._first, self._first.trials[self._environment.element]
        while True:
            if number > 0:
                order = self._folder.order(number)
                if order.submission is None:
                    print(f"no more trials: {order.reason}")
                    return 0
                submission = order.submission
                assignment = submission.trials[0]
            begun = signals.STARTED if self._ran == 0 else time.monotonic()
            ended = self._one_trial(
                submission, assignment, self._environment, begun, self._imported, among_others=self._ran > 0
            )
            self._count(ended, time.monotonic() - begun)
            if (
                not ended.as_intended
            ):  # nothing is closed: Slurm may start this job again, and it goes on with the trial
                return ended.code
            number += 1
            reason = self._reason_to_leave(ended) or self._cleaned() or self._awaited(number)
            if reason:
                self._folder.close(number, reason)
                self._output_back()
                print(f"trial {assignment.number} was this process's last: {reason}")
                return ended.code if self._ran == 1 else 0

    def _imported(self) -> None:
        if self._state is None:
            self._state = ProcessState()

    def _count(self, ended: "Ended", seconds: float) -> None:
        self._ran += 1
        self._known |= ended.known
        self._longest = max(self._longest, seconds)
        failed = ended.result is not None and ended.result.state is TrialState.FAIL
        self._failures = self._failures + 1 if failed else 0

    # ---------------------------------------------------------------- to leave or not

    def _reason_to_leave(self, ended: "Ended") -> str:
        """Why this process takes no more trials; empty if it may."""
        terms = self._terms
        if signals.received:
            return "it was asked to go"
        if terms.trials is not None and self._ran >= terms.trials:
            return f"worker.trials={terms.trials}"
        if terms.minutes is not None and time.monotonic() - signals.STARTED >= 60.0 * terms.minutes:
            return f"worker.minutes={terms.minutes:g}"
        if self._failures >= terms.failures:
            return f"{self._failures} failures in a row (worker.failures)"
        if ended.result is not None and _is_of_runtime(ended.result):
            return "the device's runtime failed"
        if self._state is None:
            return "its task was never imported"
        if _time_left() < MARGIN * self._longest:
            return "the time limit is near"
        return ""

    def _cleaned(self) -> str:
        """Put the process back as it was; why that cannot be, or is not enough, if so."""
        assert self._state is not None
        try:
            self._state.put_back()
            self._output_back()
            sys.stdout.flush()  # which fails if the task has closed it
        except Exception as error:  # noqa: BLE001  # whatever the task has broken
            return f"its process cannot be made as new: {error!r}"
        gc.collect()
        if self._held is None:
            gc.freeze()  # what came with the first trial's imports is not looked through after each trial
        held = held_bytes()
        self._held = held if self._held is None else self._held
        if held - self._held > self._terms.growth_gb * 1e9:
            return f"it has grown by {(held - self._held) / 1e9:.1f} GB (worker.growth_gb)"
        return ""

    def _output_back(self) -> None:
        """Out of the trial's log."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError, AttributeError, OSError):  # the task may have closed it
                stream.flush()
        for number, kept in zip((1, 2), self._output, strict=True):
            os.dup2(kept, number)

    # ---------------------------------------------------------------- the order

    def _awaited(self, number: int) -> str:
        """Wait until the order comes; why it was not waited for any longer, if so."""
        signals.marker.clear()
        self._folder.wait_for(number, self._known)
        begun, asked = time.monotonic(), 0.0
        while not self._folder.is_there(number):
            waited = time.monotonic() - begun
            if waited - asked >= ANEW:
                asked = waited
                self._folder.look_anew()
            if signals.received:
                return "it was asked to go"
            if waited >= self._terms.idle:
                return f"nothing came for {self._terms.idle:g} s (worker.idle)"
            if _time_left() < MARGIN * self._longest:
                return "the time limit is near"
            time.sleep(QUICK if waited < QUICK_SECONDS else SLOW)
        return ""


def _is_of_runtime(result: Result) -> bool:
    error = result.error or {}
    return any(word in error.get(part, "") for word in _OF_RUNTIME for part in ("type", "traceback"))


def _time_left() -> float:
    """Seconds until the job is warned of its time limit, as far as it is known."""
    local, slurm = os.environ.get("SUBMITIT_LOCAL_TIMEOUT_S"), os.environ.get("SLURM_JOB_END_TIME")
    if local is not None:
        warned = float(os.environ.get("SUBMITIT_LOCAL_SIGNAL_DELAY_S", 0))
        return signals.STARTED + float(local) - warned - time.monotonic()
    if slurm is not None and slurm.isdigit():
        return float(slurm) - float(os.environ.get(WARNING, 0)) - time.time()
    return float("inf")

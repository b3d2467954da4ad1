"""The study's report for MLflow: made anew at each quarter of the trials, and at the end.

With it go its figures as pictures, and its trials as a table. A process of its own makes them, with low priority and a
limit of time. Whatever becomes of it, the study goes on: the driver waits for it at the end alone, and there a signal
ends the wait. The last one's process begins while the last trials run, as soon as a slot is free for good, and imports
what it needs until it is told to begin.
"""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.study.progress import Finished
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result

if TYPE_CHECKING:
    from trialfleet.sweep.driver import Driver

NAME = "report.html"  # in the study's folder, and in MLflow
PARTS = ("figures", "trials.csv")  # what belongs to it, and is written before it
QUARTERS = 4
APART = 5  # times `least` before a quarter's report: it takes a processor from the trials for seconds
LIMIT = 300.0  # seconds that the making may take
LAST = ("--ended",)  # words of the report that the driver waits for
LOOK = 0.1  # seconds between two looks whether it is made


class StudyReports:
    """An observer that has reports made.

    Args:
        folder: the study's.
        least: seconds that drivers must have worked on the study at its end; for a quarter's report they must have for
            five times as many, and as many after the last one.
        made: is told of the files and folders, each time: of the report itself at first.
        notice: tells the user what went wrong.
        limit: seconds that one may take.
    """

    def __init__(
        self,
        folder: Path,
        least: float,
        made: Callable[..., None],
        notice: Callable[[str], None],
        limit: float = LIMIT,
    ) -> None:
        self._folder, self._least, self._made, self._notice, self._limit = folder, least, made, notice, limit
        self._ended = 0  # trials, those of earlier drivers included
        self._since = 0  # of them, those after the last report
        self._quarter: int | None = None  # that was reported last, or found at the start
        self._last = -math.inf  # monotonic seconds
        self._thread: threading.Thread | None = None
        self._process: _Process | None = None
        self._begun: _Process | None = None  # that of the last report, which waits
        self._closed = False
        if (folder / NAME).is_file():  # an earlier driver's, which may not have arrived
            made(*self._files())

    def recovered(self, number: int, directory: TrialDir) -> None:
        self._ended += 1

    def started(self, trial: ActiveTrial) -> None:
        """Nothing."""

    def running(self, trial: ActiveTrial, label: str) -> None:
        """Nothing."""

    def retried(self, trial: ActiveTrial, reason: str) -> None:
        """Nothing."""

    def ended(self, trial: ActiveTrial, result: Result) -> None:
        self._ended += 1
        self._since += 1

    def best(self, front: Sequence[Finished]) -> None:
        """Nothing: the report is made of the files."""

    def notice(self, message: str) -> None:
        """Nothing."""

    def tick(self, driver: "Driver") -> None:
        """A quarter may have come to its end. The last one is `finish`'s."""
        quarter = QUARTERS * self._ended // max(1, driver.n_trials)
        if self._quarter is None:
            self._quarter = quarter
        worked = driver.account.wall_seconds
        if self._begun is None and self._since and worked >= self._least and _slot_is_free_for_good(driver):
            with contextlib.suppress(OSError):  # the last report is begun when it is due, and says what is wrong
                self._begun = _Process(self._folder, LAST, waits=True)
        if quarter <= self._quarter or quarter >= QUARTERS or not self._is_time(worked):
            return
        self._quarter = quarter
        self._begin()

    def finish(self, worked: float, goes_on: Callable[[], bool]) -> None:
        """The driver ends: have the last report made, and wait for it.

        Args:
            worked: seconds that drivers have worked on the study.
            goes_on: whether to go on waiting.
        """
        self._wait(goes_on)
        if self._since and worked >= self._least and goes_on():
            self._begin(*LAST)
            self._wait(goes_on)
        self.close()

    def close(self) -> None:
        """Have none made any more, and end the processes that make one."""
        self._closed = True
        for process in (self._process, self._begun):
            if process is not None:
                process.kill()

    def _is_time(self, worked: float) -> bool:
        busy = self._thread is not None and self._thread.is_alive()
        least = APART * self._least
        return not busy and worked >= least and time.monotonic() - self._last >= least

    def _begin(self, *words: str) -> None:
        self._last, self._since = time.monotonic(), 0
        self._thread = threading.Thread(target=self._make, args=words, name="report", daemon=True)
        self._thread.start()

    def _wait(self, goes_on: Callable[[], bool]) -> None:
        while self._thread is not None and self._thread.is_alive() and goes_on():
            self._thread.join(LOOK)

    def _make(self, *words: str) -> None:
        try:
            said = self._run(words)
        except Exception as error:  # noqa: BLE001  # a report is never the study's trouble
            said = f"{type(error).__name__}: {error}"
        if not said:
            self._made(*self._files())
        elif not self._closed:
            self._notice(f"the report for MLflow could not be made: {said}; `trialfleet report` makes it at any time")

    def _files(self) -> list[Path]:
        return [self._folder / name for name in (NAME, *PARTS)]

    def _run(self, words: Sequence[str]) -> str:
        """What went wrong, in words; empty if all is well."""
        begun, self._begun = (self._begun, None) if words == LAST else (None, self._begun)
        process = self._process = begun or _Process(self._folder, words)
        try:
            if self._closed:
                process.kill()
            return process.make(self._limit)
        finally:
            self._process = None


class _Process:
    """A process that makes a report of the study in this folder.

    Args:
        words: of the command besides.
        waits: whether it waits, once it has imported what it needs, until it is told to begin.
    """

    def __init__(self, folder: Path, words: Sequence[str], waits: bool = False) -> None:
        patient = ["nice", "-n", "10"] if shutil.which("nice") else []
        command = [*patient, sys.executable, "-m", "trialfleet.commands", "report", str(folder), *words]
        command += ["--parts", str(folder), *(["--when-told"] if waits else [])]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `kill`
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if waits else subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError:
            self._output.close()
            raise

    def make(self, limit: float) -> str:
        """Have it made, within so many seconds. What went wrong, in words; empty if all is well."""
        try:
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):  # it has ended, and said why
                    self._process.stdin.write(b"\n")
                    self._process.stdin.close()
            code = self._process.wait(limit)
            self._output.seek(0)
            said = self._output.read().decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            return f"it took longer than {limit:g} s"
        finally:
            self.kill()
        return f"exit code {code}: {said[-300:] or 'it said nothing'}" if code else ""

    def kill(self) -> None:
        """End it if it has not ended, and take its end in."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


def _slot_is_free_for_good(driver: "Driver") -> bool:
    """Whether no more trials are to begin than have, and fewer run than could."""
    wanted = driver.n_trials - driver.progress.finished - driver.in_flight
    return wanted <= 0 and driver.in_flight < driver.slots()

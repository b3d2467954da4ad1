"""Commands of the user's that hear of a study: a better trial, a failure, its end (`hydra.sweeper.on_best` and others).

Each runs in a process of its own, with the study's JSON for its input and a limit of time. Whatever it does, it cannot
harm the study: the driver neither waits for it nor reads what it wrote, but for the end, which has come by then.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.study.progress import CANCELLED, Finished
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result, TrialState

if TYPE_CHECKING:
    from trialfleet.sweep.driver import Driver

BEST, FAILURE, END = "best", "failure", "end"
VARIABLE = "TRIALFLEET_EVENT"  # tells a hook which of them it is
TAIL = 2000  # bytes of a hook's output that are shown if it fails
PIECE = 1 << 16
LOOK = 0.02  # seconds between two looks whether one has ended
ASK = 0.1  # seconds between two questions whether to go on waiting


class Hooks:
    """An observer that runs the hooks, one after another; events of one kind that come meanwhile are told as one.

    Args:
        folder: the study's.
        commands: of the shell, by event; those that are not there are not run.
        seconds: that one may take; then it is killed.
        notice: tells the user what went wrong with one.
        described: gives the study's JSON, as a text; None for what `trialfleet study show --json` says.
    """

    def __init__(
        self,
        folder: Path,
        commands: Mapping[str, str],
        seconds: float,
        notice: Callable[[str], None],
        described: Callable[[], str] | None = None,
    ) -> None:
        self._folder, self._commands, self._seconds, self._notice = folder, commands, seconds, notice
        self._described = described or self._as_shown
        self._due: dict[str, list[int]] = {}  # trials by event
        self._more: dict[str, Any] = {}  # entries of the JSON that the driver alone knows
        self._changed = threading.Condition()
        self._busy = False
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._told: set[int] = set()  # trials that were the best before, or ended before this driver
        self._ended = 0
        if commands:
            threading.Thread(target=self._work, name="hooks", daemon=True).start()

    # ---------------------------------------------------------------- what happens

    def recovered(self, number: int, directory: TrialDir) -> None:
        self._told.add(number)

    def started(self, trial: ActiveTrial) -> None:
        """Nothing."""

    def running(self, trial: ActiveTrial, label: str) -> None:
        """Nothing."""

    def retried(self, trial: ActiveTrial, reason: str) -> None:
        """Nothing: the trial goes on."""

    def ended(self, trial: ActiveTrial, result: Result) -> None:
        self._ended += 1
        if result.state is TrialState.FAIL and result.error is not None and result.error["type"] != CANCELLED:
            self._happen(FAILURE, [trial.number])

    def best(self, front: Sequence[Finished]) -> None:
        new = [trial.number for trial in front if trial.number not in self._told]
        self._told.update(new)
        if new:
            self._happen(BEST, new)

    def notice(self, message: str) -> None:
        """Nothing."""

    def tick(self, driver: "Driver") -> None:
        """Nothing: the hooks have a thread of their own."""

    def end(self, state: str, failure: str, goes_on: Callable[[], bool] = lambda: True) -> None:
        """The study has come to its end, unless nothing happened in it; wait for the hooks, as long as they may take.

        Args:
            state: finished, or stopped before all of its trials had ended.
            failure: why it has failed; empty if it has not.
            goes_on: whether to go on waiting; asked several times a second.
        """
        if not self._ended or END not in self._commands:
            return
        self._more = {"state": state, "failure": failure or None}
        self._happen(END, [])
        until = time.monotonic() + 2 * self._seconds + 10.0
        with self._changed:
            while (self._due or self._busy) and time.monotonic() < until and goes_on():
                self._changed.wait(ASK)

    def close(self) -> None:
        """Run none any more, and kill the one that runs."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify_all()
        if (process := self._process) is not None:
            _kill(process)

    # ---------------------------------------------------------------- the hooks

    def _happen(self, event: str, trials: Sequence[int]) -> None:
        if event in self._commands:
            with self._changed:
                self._due.setdefault(event, []).extend(trials)
                self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._due or self._closed)
                if self._closed:
                    return
                event = next(iter(self._due))
                trials = self._due.pop(event)
                self._busy = True
            try:
                if said := self._run(event, trials):
                    self._notice(f"hydra.sweeper.on_{event}: {said}")
            except Exception as error:  # noqa: BLE001  # a hook is never the study's trouble
                self._notice(f"hydra.sweeper.on_{event}: {type(error).__name__}: {error}")

    def _run(self, event: str, trials: Sequence[int]) -> str:
        """What went wrong, in words; empty if all is well."""
        record = {"event": event, "trials": list(trials), **json.loads(self._described()), **self._more}
        with tempfile.TemporaryFile() as given:
            given.write(json.dumps(record, ensure_ascii=False).encode())
            given.seek(0)
            process = subprocess.Popen(
                self._commands[event],
                shell=True,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, VARIABLE: event},
            )
        self._process = process
        try:
            code, output = _ended(process, self._seconds)
        finally:
            self._process = None
            if process.poll() is None:
                _kill(process)
            if process.stdout is not None:
                process.stdout.close()
        if code is None:
            return f"took longer than {self._seconds:g} s (hydra.sweeper.hook_seconds) and was killed"
        return f"{_ending(code)}: {_legible(output)[-300:] or 'it said nothing'}" if code else ""

    def _as_shown(self) -> str:
        """The study as `trialfleet study show --json` has it, of a process of its own."""
        words = ["-m", "trialfleet.commands", "study", "show", str(self._folder), "--json"]
        done = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            timeout=self._seconds + 60.0,
            start_new_session=True,
        )
        if done.returncode:
            raise RuntimeError(f"the study cannot be shown: {done.stderr.strip()[-300:]}")
        return done.stdout


def _ended(process: "subprocess.Popen[bytes]", seconds: float) -> tuple[int | None, str]:
    """A process's exit code, None if it took longer than `seconds`; and the end of what it wrote.

    What it has started in the background may go on, and write to the same pipe: that is not waited for.
    """
    assert process.stdout is not None
    until, kept = time.monotonic() + seconds, b""
    while time.monotonic() < until:
        over = process.poll() is not None
        if select.select([process.stdout], [], [], 0.0 if over else LOOK)[0]:
            piece = os.read(process.stdout.fileno(), PIECE)
            kept = (kept + piece)[-TAIL:]
            if piece:
                continue
            time.sleep(0.0 if over else LOOK)  # it has closed its output, and goes on
        if over:
            return process.returncode, kept.decode(errors="replace")
    return None, ""


def _legible(output: str) -> str:
    """What was written as one line without what a terminal would obey: colours, moves of the cursor, new titles."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in output).split())


def _ending(code: int) -> str:
    """How a process ended whose exit code is not 0: by itself, or by a signal, which Python gives as a negative one."""
    with contextlib.suppress(ValueError):  # a signal without a name
        return f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a hook and all that it has started, and take its end in."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

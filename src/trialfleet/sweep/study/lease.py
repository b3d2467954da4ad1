"""One driver at a time: a lease on the study's folder, with an epoch that a woken sleeper cannot pass.

`driver.lock/` holds one file per epoch. Each driver writes only its own file, so a driver that slept through
a take-over cannot harm the new holder's; whoever finds a higher epoch than its own has lost the lease.
Clocks of two machines are never compared: a holder on another machine counts as gone when its nonce stood
still for a while of our own monotonic clock.
"""

import contextlib
import math
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from trialfleet.errors import ShownError, UserError
from trialfleet.trial import records
from trialfleet.trial.process import Process


class LeaseLost(ShownError):
    """Another driver has taken the study over: this one must stop and may not write."""


class Lease:
    """The right to write a study, held from `acquire` to `release`.

    Args:
        directory: the lease's folder, `sweeps/<study>/driver.lock`.
        stale_after: seconds that a holder's nonce must stand still before it is taken for gone.
        beat_every: seconds between two changes of our own nonce.
        job_ended: tells whether the Slurm job of that id has ended; None if it cannot be told.
    """

    def __init__(
        self,
        directory: Path,
        stale_after: float,
        beat_every: float,
        job_ended: Callable[[str], bool | None] = lambda job: None,
    ) -> None:
        self._directory = directory
        self._stale_after = stale_after
        self._beat_every = beat_every
        self._job_ended = job_ended
        self._driver, self._since = uuid4().hex, 0.0
        self._epoch: int | None = None
        self._watched = "", ""  # our file and the one that a successor makes
        self._folder: tuple[int, int] | None = None  # which folder this was when the lease was taken
        self._checked: tuple[int, int] | None = None  # the state of our file that was found to be right
        self._stopped = threading.Event()
        self._beats: threading.Thread | None = None

    @property
    def epoch(self) -> int:
        assert self._epoch is not None, "the lease is not held"
        return self._epoch

    @property
    def token(self) -> str:
        """What tells this driver from all others, with the epoch for people to read."""
        return f"{self.epoch}:{self._driver}"

    def acquire(self, waiting: Callable[[str], None] = lambda message: None) -> None:
        """Take the lease, waiting for a silent holder to count as gone.

        Args:
            waiting: called once, with a sentence to show, before a wait.

        Raises:
            UserError: another driver holds the study; it says which.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._since = time.time()
        while True:
            epoch, holder = self.newest()
            if holder is not None and not self._gone(holder):
                self._outwait(epoch, holder, waiting)
            if records.create(self._file(epoch + 1), self._record()):
                self._epoch = epoch + 1
                self._watched = str(self._file(epoch + 1)), str(self._file(epoch + 2))
                break  # somebody else may have been quicker: then look again
        self._folder = self._folder_now()
        for old in self._epochs():
            if old < self.epoch:
                self._file(old).unlink(missing_ok=True)
        self._beats = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._beats.start()

    def held(self) -> bool:
        """Whether this driver may write."""
        return self._epoch is not None and not self._lost()

    def check(self) -> None:
        """Raises:
        LeaseLost: a newer epoch exists.
        OSError: the file system cannot tell for the moment.
        """
        state = self._state()
        if state is not None and state == self._checked:  # asked before each write: nothing changed since the last time
            return
        newest, holder = self.newest()
        # A study that was put aside for a fresh one starts again at epoch 1, so the number alone does not tell.
        if newest < self.epoch and self._folder_now() == self._folder:
            raise LeaseLost(
                f"{self._file(self.epoch)}: somebody deleted it, and with it this driver's right to the study",
                "the same command goes on, and takes up the jobs that run",
            )
        if newest != self.epoch or not self._is_ours(holder):
            raise LeaseLost(
                f"another driver took the study over while this one was silent (epoch {newest}, ours is {self.epoch})",
                "watch that one; this one has stopped and writes nothing more",
            )
        self._checked = state

    def _is_ours(self, holder: "_Holder | None") -> bool:
        """Whether the holder at our epoch is this driver, as far as its file can say."""
        if holder is None:
            return False
        if holder.process is None:  # our own file, damaged, unless the whole folder is another: our next beat mends it
            return self._folder_now() == self._folder
        return holder.driver == self._driver

    def _folder_now(self) -> tuple[int, int] | None:
        try:
            found = self._directory.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _state(self) -> tuple[int, int] | None:
        """What tells our own file, as it is now, from any other; None if it is gone or has a successor."""
        own, next_one = self._watched
        try:
            found = os.stat(own)  # noqa: PTH116  # asked before each write
        except FileNotFoundError:
            return None
        try:
            os.stat(next_one)  # noqa: PTH116  # os.access would take a failing file system for no successor
        except FileNotFoundError:
            return found.st_ino, found.st_mtime_ns
        return None

    def _lost(self) -> bool:
        try:
            self.check()
        except LeaseLost:
            return True
        return False

    def release(self) -> None:
        """Give the lease back, so that the next driver need not wait. Harmless if it was lost or cannot be written."""
        self._stopped.set()
        if self._beats is not None:
            self._beats.join()
        with contextlib.suppress(OSError):  # then the next driver sees that this process is gone
            if self._epoch is not None and not self._lost():
                records.write(self._file(self._epoch), {"released": True})
        self._epoch = None

    def newest(self) -> "tuple[int, _Holder | None]":
        """The highest epoch and its holder; (0, None) before the first, holder None once released."""
        while True:
            newest = max(self._epochs(), default=0)
            if newest == 0:
                return 0, None
            with contextlib.suppress(FileNotFoundError):  # cleared away by a newer driver just now: look again
                return newest, _read(self._file(newest))

    def _epochs(self) -> list[int]:
        """The epochs whose files are there. Whatever else is in the folder is not ours."""
        try:
            names = os.listdir(self._directory)  # noqa: PTH208  # asked before each write
        except FileNotFoundError:  # put aside with the study
            return []
        return [int(name[:-5]) for name in names if _EPOCH_FILE.fullmatch(name)]

    def _gone(self, holder: "_Holder") -> bool:
        if holder.process is None:
            return False
        if holder.process.is_here():
            return not holder.process.is_alive()
        return bool(holder.job) and self._job_ended(str(holder.job)) is True

    def _outwait(self, epoch: int, holder: "_Holder", waiting: Callable[[str], None]) -> None:
        """Returns once the holder counts as gone.

        Raises:
            UserError: the holder gave a sign of life.
        """
        who = str(holder)
        pause = min(0.2, self._beat_every / 4)
        still, told, looked = 0.0, False, time.monotonic()
        while True:
            now_epoch, now = self.newest()
            if now is None:
                return  # released meanwhile
            if now_epoch != epoch or now.nonce != holder.nonce:
                raise UserError(
                    f"this study has a driver already: {now if now.process or now_epoch != epoch else who}",
                    "watch that one, or stop it first (Ctrl-C there leaves its jobs running)",
                )
            if self._gone(now) or still >= self._stale_after:
                return
            if not told and still > 2 * self._beat_every:
                waiting(f"the study's driver ({who}) is silent; taking over in {self._stale_after:.0f} s")
                told = True
            time.sleep(pause)
            # Should we be suspended ourselves, that time says nothing about the holder.
            still += min(time.monotonic() - looked, 2 * pause)
            looked = time.monotonic()

    def _record(self) -> dict[str, Any]:
        array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID")
        return {
            "driver": self._driver,
            "process": Process.own().to_json(),
            "job": None if array else job,
            "nonce": uuid4().hex,
            "since": self._since,
        }

    def _beat(self) -> None:
        while not self._stopped.wait(self._beat_every):
            try:
                if self._lost():
                    return
                # A study that was put aside this very moment took the folder along: it is not made again.
                records.write(self._file(self.epoch), self._record(), make_folder=False)
            except OSError:
                continue  # a full or absent disk: whoever waits for us to go silent waits on a clock of its own

    def _file(self, epoch: int) -> Path:
        return self._directory / f"{epoch:08d}.json"


@dataclass(frozen=True)
class Present:
    """The driver that a study has, as its lease says.

    Attributes:
        token: tells it from all others: `Lease.token`.
        who: process, host and job, and since when it drives the study, for people.
        alive: whether it lives; None where that can only be told by waiting, since it is on another machine.
        silent: seconds since its last sign of life, by the file system's clock and ours.
    """

    token: str
    who: str
    alive: bool | None
    silent: float


def present(directory: Path) -> Present | None:
    """The study's driver; None if it has none: never had one, it gave the lease back, or its process is gone.

    Takes nothing and writes nothing. One on another machine counts as there, however long it has been silent: only
    `Lease.acquire` finds out.

    Args:
        directory: the lease's folder, `sweeps/<study>/driver.lock`.
    """
    epoch, holder = Lease(directory, math.inf, math.inf).newest()
    if holder is None:
        return None
    here = holder.process is not None and holder.process.is_here()
    alive = None if not here else holder.process is not None and holder.process.is_alive()
    if alive is False:
        return None
    try:
        silent = max(0.0, time.time() - holder.file.stat().st_mtime)
    except FileNotFoundError:  # a newer driver took it away just now
        silent = 0.0
    return Present(f"{epoch}:{holder.driver}", str(holder), alive, silent)


TIME = "%Y-%m-%d %H:%M:%S %Z"
_EPOCH_FILE = re.compile(r"[0-9]{8,}\.json")


@dataclass(frozen=True)
class _Holder:
    """Who holds an epoch, as its file says.

    Attributes:
        nonce: a change of it is a sign of life.
        process: None if the file is damaged and cannot say.
        job: the Slurm job that the driver runs in.
        since: when it asked for the study, in Unix seconds, by its own clock; None of a driver of an earlier version.
    """

    file: Path
    driver: str
    nonce: str
    process: Process | None
    job: str | None
    since: float | None = None

    def __str__(self) -> str:
        if self.process is None:
            return f"its lease file {self.file} is damaged and does not say which"
        job = f", Slurm job {self.job}" if self.job else ""
        since = "" if self.since is None else f", since {datetime.fromtimestamp(self.since).astimezone():{TIME}}"
        return f"process {self.process.pid} on {self.process.host}{job}{since}"


def _read(file: Path) -> _Holder | None:
    """The holder that a lease file names; None if it was released.

    Raises:
        FileNotFoundError: there is no such file.
    """
    record: Any
    try:
        record = records.read(file)
    except records.Damaged:
        record = None
    if isinstance(record, dict) and record.get("released"):
        return None
    try:
        process = Process.from_json(record["process"])
        driver, nonce, job, since = record["driver"], record["nonce"], record["job"], record.get("since")
        right = isinstance(process.pid, int) and all(isinstance(text, str) for text in (process.host, driver, nonce))
        if right and isinstance(job, str | None) and isinstance(since, int | float | None):
            return _Holder(file, driver, nonce, process, job, since)
    except (KeyError, TypeError, AttributeError):
        pass
    found = file.lstat()  # as long as it stays as it is nobody writes it
    return _Holder(file, "", f"{found.st_ino} {found.st_mtime_ns} {found.st_size}", None, None)


def slurm_job_ended(job: str) -> bool | None:
    """Whether the Slurm job of another driver is over; None if Slurm cannot tell."""
    if shutil.which("squeue") is None:
        return None
    done = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True)
    if done.returncode != 0:
        return True if "Invalid job id" in done.stderr else None
    return not done.stdout.strip()

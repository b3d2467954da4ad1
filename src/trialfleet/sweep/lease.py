"""One driver at a time: a lease on the study's folder, with an epoch that a woken sleeper cannot pass.

`driver.lock/` holds one file per epoch. Each driver writes only its own file, so a driver that slept through
a take-over cannot harm the new holder's; whoever finds a higher epoch than its own has lost the lease.
Clocks of two machines are never compared: a holder on another machine counts as gone when its nonce stood
still for a while of our own monotonic clock.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from trialfleet.errors import UserError
from trialfleet.tracking import records
from trialfleet.tracking.processes import Process


class LeaseLost(UserError):
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
        self._driver = uuid4().hex
        self._epoch: int | None = None
        self._watched = "", ""  # our file and the one that a successor makes
        self._checked: tuple[int, int] | None = None  # the state of our file that was found to be right
        self._stopped = threading.Event()
        self._beats: threading.Thread | None = None

    @property
    def epoch(self) -> int:
        assert self._epoch is not None, "the lease is not held"
        return self._epoch

    def acquire(self, waiting: Callable[[str], None] = lambda message: None) -> None:
        """Take the lease, waiting for a silent holder to count as gone.

        Args:
            waiting: called once, with a sentence to show, before a wait.

        Raises:
            UserError: another driver holds the study; it says which.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        while True:
            epoch, holder = self._newest()
            if holder is not None and not self._gone(holder):
                self._outwait(epoch, holder, waiting)
            if records.create(self._file(epoch + 1), self._record()):
                self._epoch = epoch + 1
                self._watched = str(self._file(epoch + 1)), str(self._file(epoch + 2))
                break  # somebody else may have been quicker: then look again
        for old in self._directory.glob("*.json"):
            if _epoch_of(old) < self.epoch:
                old.unlink(missing_ok=True)
        self._beats = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._beats.start()

    def held(self) -> bool:
        """Whether this driver may write."""
        return self._epoch is not None and self._newest()[0] == self._epoch

    def check(self) -> None:
        """Raises:
        LeaseLost: a newer epoch exists.
        """
        state = self._state()
        if state is not None and state == self._checked:  # asked before each write: nothing changed since the last time
            return
        newest, holder = self._newest()
        # A study that was put aside for a fresh one starts again at epoch 1, so the number alone does not tell.
        if newest != self.epoch or holder is None or holder["driver"] != self._driver:
            raise LeaseLost(
                f"another driver took the study over while this one was silent (epoch {newest}, ours is {self.epoch})",
                "watch that one; this one has stopped and writes nothing more",
            )
        self._checked = state

    def _state(self) -> tuple[int, int] | None:
        """What tells our own file, as it is now, from any other; None if it is gone or has a successor."""
        own, next_one = self._watched
        try:
            found = os.stat(own)  # noqa: PTH116  # asked before each write
        except FileNotFoundError:
            return None
        return None if os.access(next_one, os.F_OK) else (found.st_ino, found.st_mtime_ns)

    def _lost(self) -> bool:
        try:
            self.check()
        except LeaseLost:
            return True
        return False

    def release(self) -> None:
        """Give the lease back, so that the next driver need not wait. Harmless if it was lost."""
        self._stopped.set()
        if self._beats is not None:
            self._beats.join()
        if self._epoch is not None and not self._lost():
            records.write(self._file(self._epoch), {"released": True})
        self._epoch = None

    def _newest(self) -> tuple[int, dict[str, Any] | None]:
        """The highest epoch and its holder; (0, None) before the first, holder None once released."""
        try:
            names = os.listdir(self._directory)  # noqa: PTH208  # asked before each write
        except FileNotFoundError:  # put aside with the study
            names = []
        newest = max((name for name in names if name.endswith(".json")), default=None)
        if newest is None:
            return 0, None
        holder = records.read(self._directory / newest)
        return int(newest[:-5]), None if holder is None or holder.get("released") else holder

    def _gone(self, holder: dict[str, Any]) -> bool:
        process = Process.from_json(holder["process"])
        if process.is_here():
            return not process.is_alive()
        return bool(holder["job"]) and self._job_ended(holder["job"]) is True

    def _outwait(self, epoch: int, holder: dict[str, Any], waiting: Callable[[str], None]) -> None:
        """Returns once the holder counts as gone.

        Raises:
            UserError: the holder gave a sign of life.
        """
        who = _describe(holder)
        pause = min(0.2, self._beat_every / 4)
        still, told, looked = 0.0, False, time.monotonic()
        while True:
            now_epoch, now = self._newest()
            if now is None:
                return  # released meanwhile
            if now_epoch != epoch or now["nonce"] != holder["nonce"]:
                raise UserError(
                    f"this study has a driver already: {who if now_epoch == epoch else _describe(now)}",
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
        }

    def _beat(self) -> None:
        while not self._stopped.wait(self._beat_every):
            try:
                if self._lost():
                    return
                records.write(self._file(self.epoch), self._record())
            except OSError:
                continue  # a full or absent disk: whoever waits for us to go silent waits on a clock of its own

    def _file(self, epoch: int) -> Path:
        return self._directory / f"{epoch:08d}.json"


def _epoch_of(path: Path) -> int:
    return int(path.stem)


def _describe(holder: dict[str, Any]) -> str:
    process = Process.from_json(holder["process"])
    job = f", Slurm job {holder['job']}" if holder["job"] else ""
    return f"process {process.pid} on {process.host}{job}"

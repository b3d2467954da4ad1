"""What ends the driver's rest before its time: a result, a report, a worker that waits, a job that ends, a request."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trialfleet.sweep.watcher import Watcher
from trialfleet.trial.worker_folder import FOLDER as WORKERS

SLICE = 0.1  # seconds after which a person who typed something is heard
BREATH = 0.01  # seconds between two turns at least: what happens meanwhile is one turn's work


class Wakes:
    """Follows the folders of trials and workers.

    Args:
        study: the study's folder.
        poll: called several times a second, to hear the terminal.
    """

    def __init__(self, study: Path, poll: Callable[[], None]) -> None:
        self._study, self._poll = study, poll
        self._trials, self._workers, self._requests = study / "trials", study / WORKERS, study / "requests"
        self._watcher = Watcher()
        self._followed: dict[Path, int] = {}
        self._unwatched: set[Path] = set()  # those that were not there yet
        self._woke = 0.0

    def follow(self, number: int, folder: Path) -> None:
        """Wake up when the trial in this folder reports or ends."""
        self._followed[folder] = number
        self._unwatched.add(folder)

    def forget(self, folder: Path) -> None:
        """The trial in this folder has ended."""
        self._followed.pop(folder, None)
        self._unwatched.discard(folder)
        self._watcher.remove(folder)

    def wait(self, seconds: float, handles: Sequence[int]) -> set[int]:
        """Rest until something happens.

        Args:
            handles: descriptors that can be read when a job has ended.

        Returns:
            numbers of trials of whose files something is new.
        """
        until = time.monotonic() + seconds
        if fresh := self._watch_what_came():
            return fresh  # what has happened before is not told
        time.sleep(max(0.0, min(self._woke + BREATH, until) - time.monotonic()))
        while True:
            begun = time.monotonic()
            left = until - begun
            files = self._watcher.wait(max(0.0, min(left, SLICE)), handles)
            self._poll()
            trials, others = self._sorted(files)
            early = time.monotonic() - begun < min(left, SLICE)
            if trials or others or left <= SLICE or (early and not files):
                self._woke = time.monotonic()
                return trials

    def _watch_what_came(self) -> set[int]:
        """Watch what was not there before; the trials among it."""
        self._watcher.add(self._requests)
        if self._watcher.add(self._workers):
            for folder in self._workers.iterdir():
                self._watcher.add(folder)
        there = {folder for folder in self._unwatched if self._watch_runs(folder)}
        self._unwatched -= there
        return {self._followed[folder] for folder in there}

    def _sorted(self, files: Sequence[Path]) -> tuple[set[int], bool]:
        """The trials that news are about, and whether there are news of anything else that is waited for."""
        trials: set[int] = set()
        others = False
        for file in files:
            if self._trials in file.parents:
                folder = self._trials / file.relative_to(self._trials).parts[0]
                if folder in self._followed and self._is_news_of_trial(folder, file):
                    trials.add(self._followed[folder])
            elif file.parent == self._workers:
                others |= self._watcher.add(file)
            elif not file.name.startswith(".") and file.name != "job.json":
                others |= not file.name.endswith(".answer.json")
        return trials, others

    def _is_news_of_trial(self, folder: Path, file: Path) -> bool:
        if file.name in ("result.json", "metrics.jsonl", "claim"):
            return True
        if file == folder / "runs" or file.parent == folder / "runs":
            return self._watch_runs(folder)
        return False

    def _watch_runs(self, folder: Path) -> bool:
        """Watch a trial's folder and its runs', as far as they are there; whether any is new."""
        new = self._watcher.add(folder)
        runs = folder / "runs"
        if self._watcher.add(runs) or runs.is_dir():
            for run in runs.iterdir():
                new |= self._watcher.add(run)
        return new

    def close(self) -> None:
        self._watcher.close()

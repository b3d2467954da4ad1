"""What ends the driver's rest before its time: a result, a report, a worker that waits, a job that ends, a request."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trialfleet.sweep.watcher import Watcher
from trialfleet.trial.worker_folder import FOLDER as WORKERS

SLICE = 0.1  # seconds after which a person who typed something is heard
BREATH = 0.01  # seconds between two turns at least: what happens meanwhile is one turn's work
REPORTS_REST = (
    3.0  # times as long as a turn took, reports alone wait for the next: a quarter of a core is spent on them
)
LONGEST_REST = 0.25  # seconds that they wait at most
REPORTS = "metrics.jsonl"


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
        self._watched: dict[Path, list[Path]] = {}  # of each trial's folder those in it, itself included
        self._trial_of: dict[Path, Path] = {}  # the other way round
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
        for watched in self._watched.pop(folder, ()):
            self._watcher.remove(watched)
            del self._trial_of[watched]

    def wait(self, seconds: float, handles: Sequence[int]) -> set[int]:
        """Rest until something happens. Where reports come quicker than they are read, several are one turn's work.

        Args:
            handles: descriptors that can be read when a job has ended.

        Returns:
            numbers of trials of whose files something is new.
        """
        turn_over = time.monotonic()
        until = turn_over + seconds
        rested = turn_over + min(LONGEST_REST, REPORTS_REST * (turn_over - self._woke))
        if fresh := self._watch_what_came():
            return self._wake(fresh)  # what has happened before is not told
        time.sleep(max(0.0, min(self._woke + BREATH, until) - turn_over))
        reported: set[int] = set()
        while True:
            begun = time.monotonic()
            longest = max(0.0, min((rested if reported else until) - begun, until - begun, SLICE))
            files, job_ended = self._watcher.wait(longest, handles)
            self._poll()
            trials, others = self._sorted(files, reported)
            if trials or others or job_ended or time.monotonic() >= min(until, rested if reported else until):
                return self._wake(trials | reported)
            if reported:
                time.sleep(BREATH)  # what else is reported is heard at once

    def _wake(self, trials: set[int]) -> set[int]:
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

    def _sorted(self, files: Sequence[tuple[Path, str]], reported: set[int]) -> tuple[set[int], bool]:
        """The trials that news are about, and whether there are news of anything else that is waited for.

        Args:
            files: folders that are watched, and names in them.
            reported: gets the trials of which nothing but a report is new.
        """
        trials: set[int] = set()
        others = False
        for place, name in files:
            folder = self._trial_of.get(place)
            if folder is not None and folder in self._followed:
                if name == REPORTS:
                    reported.add(self._followed[folder])
                elif self._is_news_of_trial(folder, place, name):
                    trials.add(self._followed[folder])
            elif place == self._workers:
                others |= self._watcher.add(place / name)
            elif not name.startswith(".") and name != "job.json":
                others |= not name.endswith(".answer.json")
        return trials, others

    def _is_news_of_trial(self, folder: Path, place: Path, name: str) -> bool:
        if name in ("result.json", "claim"):
            return True
        return (place.name == "runs" or name == "runs") and self._watch_runs(folder)

    def _watch_runs(self, folder: Path) -> bool:
        """Watch a trial's folder and its runs', as far as they are there; whether any is new."""
        new = self._watch(folder, folder)
        runs = folder / "runs"
        if self._watch(runs, folder) or runs.is_dir():
            for run in runs.iterdir():
                new |= self._watch(run, folder)
        return new

    def _watch(self, place: Path, folder: Path) -> bool:
        """Watch a place in a trial's folder; whether that is new."""
        if not self._watcher.add(place):
            return False
        self._watched.setdefault(folder, []).append(place)
        self._trial_of[place] = folder
        return True

    def close(self) -> None:
        self._watcher.close()

"""Where the hours of devices went, and what pruning saved of them."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from trialfleet.review.report.runs import LOST, Run, slots, submitted
from trialfleet.review.studies import Study
from trialfleet.sweep.study.index import ENDED

# What a run says of its seconds, by what it is for people; other names stay as they are.
PARTS = {
    "train": "training",
    "compile": "compiling",
    "start": "starting",
    "prepare": "starting",
    "restore": "starting",
    "wait for data": "waiting for data",
    "evaluate": "evaluating",
    "save": "saving",
}
REST = "starting"  # what a run that says parts of its time does not say: Python's start, imports, its end
UNTOLD = "running (parts not told)"
FAILED, FAULTS = "in trials that failed", "lost to faults"
SHOWN = 8  # parts with names of the task's own


@dataclass(frozen=True)
class Account:
    """Hours of devices, unless something else is said.

    Attributes:
        devices: that one trial occupies.
        spent: by what it went into, the largest first; `FAILED` and `FAULTS` at the end.
        idle: of places that had no trial while a driver was at work.
        queued: hours that jobs waited, from their submission to their start; None if nobody knows.
        queued_median: seconds that a job waited, in the middle of all.
        saved: that pruned trials would have taken besides, had each run as long as the median complete trial; None
            without a complete trial.
        slots: the most trials that ran at a time in places of their own.
    """

    devices: int
    spent: dict[str, float]
    idle: float
    queued: float | None
    queued_median: float | None
    saved: float | None
    slots: int

    @property
    def total(self) -> float:
        return sum(self.spent.values())


def account_of(study: Study, runs: Sequence[Run]) -> Account:
    """Args:
    runs: all of the study's.
    """
    devices = _devices(study, runs)
    hours = devices / 3600
    spent: dict[str, float] = defaultdict(float)
    with_result = {run.trial: run for run in runs if run.state in ENDED}
    for row in study.rows:
        run = with_result.get(row.number)
        if run is None:
            continue
        seconds = row.seconds if row.seconds is not None else run.seconds
        if row.state == "FAIL":
            spent[FAILED] += seconds
            continue
        for name, part in _split(seconds, row.parts).items():
            spent[name] += part
    lost = [run for run in runs if run.state == LOST]
    spent[FAULTS] = sum(run.wasted for run in lost)
    kept = sum(run.seconds - run.wasted for run in lost)
    going = sum(run.seconds for run in runs if run.state == "RUNNING")
    spent["before an interruption, and kept"] = kept
    spent["in trials that run now"] = going
    last = (FAILED, FAULTS)
    largest = sorted(spent, key=lambda name: -spent[name])
    named = [name for name in largest if name not in last and spent[name] > 0]
    ordered = [*named[:SHOWN], *(name for name in last if spent[name] > 0)]
    shown = {name: spent[name] * hours for name in ordered}
    if rest := sum(spent[name] for name in named[SHOWN:]):
        shown["other"] = rest * hours
    places = len(slots(runs))
    starts: dict[int, float] = {}
    for run in runs:
        starts.setdefault(run.trial, run.start)
    waits = [starts[number] - at for number, at in submitted(study, study.rows).items() if number in starts]
    return Account(
        devices,
        shown,
        _idle(study, runs, places) * hours,
        sum(waits) / 3600 if waits else None,
        statistics.median(waits) if waits else None,
        _saved(study, hours),
        places,
    )


def _devices(study: Study, runs: Sequence[Run]) -> int:
    """Of one trial: what the study's account of devices says over what its trials took; at least 1."""
    ended = {row.number: row.seconds or 0.0 for row in study.rows if row.state in ENDED}
    others = sum(run.seconds for run in runs if run.state == LOST and run.trial in ended)
    seconds, hours = sum(ended.values()) + others, study.used.get("device_hours", 0.0)
    return max(1, round(hours * 3600 / seconds)) if seconds else 1


def _split(seconds: float, parts: dict[str, float]) -> dict[str, float]:
    """A run's seconds by what they went into; the parts never make more than the whole."""
    known = {name: part for name, part in parts.items() if part > 0}
    if not known:
        return {UNTOLD: seconds}
    told = sum(known.values())
    scale = min(1.0, seconds / told)
    found: dict[str, float] = defaultdict(float)
    for name, part in known.items():
        found[PARTS.get(name, name)] += part * scale
    found[REST] += max(0.0, seconds - told)
    return dict(found)


def _idle(study: Study, runs: Sequence[Run], places: int) -> float:
    """Seconds of places without a run, between the first start and the last end, while a driver was at work."""
    if not runs:
        return 0.0
    span = max(run.end for run in runs) - min(run.start for run in runs)
    wall = study.used.get("wall_hours", 0.0) * 3600
    return max(0.0, places * (min(span, wall) if wall else span) - sum(run.seconds for run in runs))


def _saved(study: Study, hours: float) -> float | None:
    """An estimate: the median complete trial's time, less what each pruned one took."""
    complete = [row.seconds for row in study.rows if row.state == "COMPLETE" and row.seconds]
    if not complete:
        return None
    whole = statistics.median(complete)
    pruned = [row.seconds for row in study.rows if row.state == "PRUNED" and row.seconds]
    return sum(max(0.0, whole - seconds) for seconds in pruned) * hours

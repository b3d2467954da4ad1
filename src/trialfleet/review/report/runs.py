"""The runs of all trials, those that brought no result included: where each was, when, and what of it was lost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trialfleet.review.studies import Study
from trialfleet.sweep.study.index import ENDED, RUNNING, TrialRow
from trialfleet.trial import metrics, out_of_memory, transient
from trialfleet.trial.directory import TIME_LIMIT, TrialDir, trial_dir
from trialfleet.trial.sweep_run import PREEMPTED

LOST = "LOST"  # a run that brought no result
WITHOUT_A_WORD = "ended without a word"
_REASONS = {  # files that a run leaves which ends before its trial does
    TIME_LIMIT: "time limit of the job",
    PREEMPTED: "preempted",
    out_of_memory.RECORD: "out of memory",
    transient.RECORD: "full disk or failing file system",
}


@dataclass(frozen=True)
class Run:
    """One run of a trial.

    Attributes:
        state: the trial's if this run brought its result, RUNNING if it goes on, else LOST.
        start, end: Unix seconds; of one that was lost, its last sign of life.
        wasted: seconds of a lost run that no later run went on from.
        reason: why a run was lost.
    """

    trial: int
    label: str
    node: str
    state: str
    start: float
    end: float
    wasted: float = 0.0
    reason: str = ""

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)


def runs_of(study: Study, now: float) -> list[Run]:
    """All runs that are known, by the moment of their start.

    Args:
        now: Unix seconds, at which what goes on is seen.
    """
    found: list[Run] = []
    for row in study.rows:
        if row.started is None:
            continue
        if row.state in ENDED and row.attempt == 1 and row.run == "1.0" and row.ended is not None:
            # Nobody but the newest run commits, so there was this one alone: no need to open its files.
            found.append(Run(row.number, "1.0", row.node, row.state, row.started, max(row.started, row.ended)))
        else:
            found += _runs(study, row, now)
    return sorted(found, key=lambda run: (run.start, run.trial))


def _runs(study: Study, row: TrialRow, now: float) -> Iterator[Run]:
    directory = trial_dir(study.folder, row.number)
    claims = directory.claims()
    begun = [_modified(directory.run_dir(claim.label) / "claim") for claim in claims]
    for place, (claim, start) in enumerate(zip(claims, begun, strict=True)):
        if start is None:
            continue
        last = place == len(claims) - 1
        following = next((later for later in begun[place + 1 :] if later is not None), None)
        state, end = LOST, None
        if row.state in ENDED and (claim.label == row.run or (last and row.run is None)):
            state, end = row.state, row.ended
        elif row.state == RUNNING and last:
            state, end = RUNNING, now if study.driver is not None else None
        if end is None:
            end = _last_sign(directory.run_dir(claim.label)) or start
        end = max(start, min(end, following) if state == LOST and following is not None else end)
        wasted, reason = 0.0, ""
        if state == LOST:
            later = claims[place + 1].label if not last else None
            wasted = _wasted(directory, claim.label, later, start, end)
            reason = _reason(directory.run_dir(claim.label))
        yield Run(row.number, claim.label, claim.node, state, start, end, wasted, reason)


def _wasted(directory: TrialDir, label: str, later: str | None, start: float, end: float) -> float:
    """Seconds of a run behind the last report that the next run did not have to repeat."""
    if later is None:
        return end - start
    first = next(iter(metrics.read_from(directory.run_dir(later) / "metrics.jsonl")[0]), None)
    if first is None:
        return end - start
    before = [
        line.time for line in metrics.read_from(directory.run_dir(label) / "metrics.jsonl")[0] if line.step < first.step
    ]
    return max(0.0, min(end - start, end - max(before))) if before else end - start


def _reason(run: Path) -> str:
    return next((said for name, said in _REASONS.items() if (run / name).exists()), WITHOUT_A_WORD)


def _last_sign(run: Path) -> float | None:
    """When a run last wrote something."""
    times = [_modified(run / name) for name in ("metrics.jsonl", "log")]
    return max((time for time in times if time is not None), default=None)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def submitted(study: Study, rows: Sequence[TrialRow]) -> dict[int, float]:
    """When the newest job of each trial was submitted, in Unix seconds, of those whose only run it was."""
    found = {}
    for row in rows:
        if row.attempt == 1 and row.started is not None:
            at = _modified(trial_dir(study.folder, row.number).trial_json)
            if at is not None and at <= row.started:
                found[row.number] = at
    return found


# -------------------------------------------------------------------- who was where


@dataclass(frozen=True)
class Slot:
    """What ran one after another in one place.

    Attributes:
        node: by the launcher's name for it.
        place: which of the node's, from 0 on.
    """

    node: str
    place: int
    runs: list[Run]


def slots(runs: Sequence[Run]) -> list[Slot]:
    """As few places as hold all runs, those of a node together: a run takes the first that is free when it starts."""
    by_node: dict[str, list[Slot]] = {}
    for run in runs:  # in the order of their starts
        places = by_node.setdefault(run.node, [])
        free = next((slot for slot in places if slot.runs[-1].end <= run.start), None)
        if free is None:
            free = Slot(run.node, len(places), [])
            places.append(free)
        free.runs.append(run)
    return [slot for node in sorted(by_node, key=natural) for slot in by_node[node]]


def natural(name: str) -> list[tuple[int, str]]:
    """n2 before n10."""
    digits = "".join(letter if letter.isdigit() else " " for letter in name).split()
    letters = "".join(" " if letter.isdigit() else letter for letter in name)
    return [(0, letters), *((int(number), "") for number in digits if len(number) < 19)]

"""Failures by their cause: what they have in common is told once, with the last lines of one log."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trialfleet.review.report.runs import LOST, Run
from trialfleet.review.studies import Study
from trialfleet.sweep.study.index import TrialRow
from trialfleet.trial import records, secrets
from trialfleet.trial.directory import TrialDir, trial_dir
from trialfleet.trial.records import Damaged

LINES = 15  # of a log
TAIL = 4000  # bytes of a log
SHOWN = 20  # causes
_SINGULAR = re.compile(r"0x[0-9a-fA-F]+|(?:/[\w.+-]+){2,}/?|'[^']*'|\"[^\"]*\"|\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Cause:
    """Trials that failed for one reason, or runs that were lost for one.

    Attributes:
        what: the error of one of them, or the reason.
        trials: their numbers.
        nodes: where they were, the most frequent first.
        example: the trial that `log` is of.
        log: the last lines of its newest log, or of its traceback.
        tried_again: of lost runs, whose trials went on.
    """

    what: str
    trials: list[int]
    nodes: list[str]
    example: int
    log: str
    tried_again: bool = False


def causes(study: Study, runs: Sequence[Run]) -> list[Cause]:
    """The most frequent ones first: those of failed trials, then those of lost runs."""
    groups: dict[str, list[TrialRow]] = defaultdict(list)
    for row in study.rows:
        if row.state == "FAIL":
            groups[_kind(row.error or "")].append(row)
    found = [_of_failures(study, rows) for rows in groups.values()]
    lost: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.state == LOST:
            lost[run.reason].append(run)
    found += [_of_losses(study, reason, group) for reason, group in lost.items()]
    return sorted(found, key=lambda cause: (cause.tried_again, -len(cause.trials)))


def _kind(error: str) -> str:
    """An error without what differs from one trial to the next: numbers, paths, what is quoted."""
    return _SINGULAR.sub("#", error)


def _of_failures(study: Study, rows: Sequence[TrialRow]) -> Cause:
    newest = max(rows, key=lambda row: (row.ended or 0.0, row.number))
    log = _log(trial_dir(study.folder, newest.number), newest.run)
    nodes = _frequent([row.node for row in rows])
    return Cause(newest.error or "no reason was given", [row.number for row in rows], nodes, newest.number, log)


def _of_losses(study: Study, reason: str, group: Sequence[Run]) -> Cause:
    newest = max(group, key=lambda run: run.end)
    log = _tail(trial_dir(study.folder, newest.trial), newest.label)
    nodes = _frequent([run.node for run in group])
    return Cause(reason, sorted({run.trial for run in group}), nodes, newest.trial, log, tried_again=True)


def _frequent(names: Sequence[str]) -> list[str]:
    counts = Counter(name for name in names if name)
    return sorted(counts, key=lambda name: (-counts[name], name))


def _log(directory: TrialDir, label: str | None) -> str:
    labels = [label] if label is not None else directory.run_labels()[::-1]
    found = next((text for one in labels if (text := _tail(directory, one))), "")
    return found or _traceback(directory)


def _tail(directory: TrialDir, label: str) -> str:
    return _last_lines(records.tail(directory.run_dir(label) / "log", TAIL))


def _traceback(directory: TrialDir) -> str:
    try:
        result = directory.result()
    except (Damaged, OSError):
        return ""
    error: dict[str, Any] = (result and result.error) or {}
    return _last_lines(str(error.get("traceback", "")))


def _last_lines(text: str) -> str:
    lines = [line.rstrip()[:400] for line in text.splitlines() if line.strip()]
    return secrets.masked("\n".join(lines[-LINES:]))

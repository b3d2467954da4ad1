"""Learning curves: what trials reported of a metric, step by step."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trialfleet.review.studies import Study
from trialfleet.sweep.study.index import RUNNING, TrialRow
from trialfleet.trial import metrics, records
from trialfleet.trial.directory import trial_dir

POINTS = 240  # of one run's curve; of more, evenly spaced ones and the last
MOST = 64 << 20  # bytes of one run's reports


@dataclass(frozen=True)
class Curve:
    """What a trial reported of one metric, over all of its runs.

    Attributes:
        state: the trial's.
        steps: in their order, each once.
        values: may be no finite numbers.
    """

    number: int
    state: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def curve_metrics(study: Study, most: int = 2) -> list[str]:
    """The metrics whose curves are shown: objectives that are reported, or what most trials reported."""
    known = Counter(name for row in study.rows for name in row.metrics)
    found = [name for name in study.metrics if known[name]]
    if not found:
        asked = None if study.command is None else study.command.reports
        found = [asked] if asked is not None and known[asked] else [name for name, _ in known.most_common(1)]
    return found[:most]


def curves(study: Study, names: list[str]) -> dict[str, list[Curve]]:
    """The curves of these metrics, by metric, of the trials that reported them."""
    found: dict[str, list[Curve]] = {name: [] for name in names}
    if not names:
        return found
    marks = {name: json.dumps(name, ensure_ascii=False).encode() + b":" for name in names}
    for row in study.rows:
        if row.step is None:
            continue
        points: dict[str, dict[int, float]] = {name: {} for name in names}
        for label in _labels(study, row):
            path = trial_dir(study.folder, row.number).run_dir(label) / "metrics.jsonl"
            for name, several in _reports(path, marks).items():
                for step, value in several:
                    points[name].setdefault(step, value)
        for name, of_metric in points.items():
            if of_metric:
                steps = sorted(of_metric)
                values = [of_metric[step] for step in steps]
                found[name].append(Curve(row.number, row.state, np.array(steps, dtype=float), np.array(values)))
    return found


def _labels(study: Study, row: TrialRow) -> list[str]:
    if row.attempt == 1 and row.run == "1.0" and row.state != RUNNING:
        return ["1.0"]
    return trial_dir(study.folder, row.number).run_labels()


def _reports(path: Path, marks: dict[str, bytes]) -> dict[str, list[tuple[int, float]]]:
    try:
        data = records.read_bytes(path, limit=MOST)
    except OSError:
        return {}
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    found = {}
    parsed: dict[int, metrics.Line | None] = {}  # by the line's number: metrics are mostly reported together
    for name, mark in marks.items():
        places = [place for place, line in enumerate(lines) if mark in line.replace(b'": ', b'":')]
        if len(places) > POINTS:
            evenly = np.linspace(0, len(places) - 1, POINTS).round().astype(int)
            places = [places[at] for at in evenly]
        several = []
        for place in places:
            if place not in parsed:
                parsed[place] = _parsed(lines[place])
            line = parsed[place]
            if line is not None and name in line.values:
                several.append((line.step, line.values[name]))
        found[name] = several
    return found


def _parsed(line: bytes) -> metrics.Line | None:
    try:
        return metrics.parse(line)
    except ValueError:
        return None

"""What scripts get of a study: the fields of JSON and the columns of CSV. They are documented, and stay as they are."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from trialfleet.errors import UserError, nearest
from trialfleet.review.studies import Study
from trialfleet.sweep.study.index import TrialRow
from trialfleet.trial import records

OF_TRIAL = (  # the fields of a trial, in their order
    "number",
    "state",
    "objectives",
    "best",
    "feasible",
    "params",
    "metrics",
    "step",
    "attempt",
    "started",
    "ended",
    "seconds",
    "parts",
    "job",
    "node",
    "error",
    "run",
    "retry_of",
)
NESTED = ("objectives", "params", "metrics", "parts")  # of these CSV has a column for each entry


def trial_fields(study: Study, row: TrialRow) -> dict[str, Any]:
    """A trial as JSON has it. Times are Unix seconds."""
    objectives = dict(zip(study.metrics, row.values or (), strict=False))
    known = {
        **vars(row),
        "objectives": objectives,
        "best": row.number in study.best_numbers,
        "feasible": study.keeps_bounds(row) if row.state == "COMPLETE" else None,
    }
    return {name: known[name] for name in OF_TRIAL}


def study_fields(study: Study) -> dict[str, Any]:
    """A study as JSON has it, without its trials."""
    driver, told = study.driver, study.command
    return {
        "name": study.name,
        "uid": study.record.uid,
        "folder": str(study.folder),
        "state": study.state,
        "created": study.record.created,
        "driver": None if driver is None else {"who": driver.who, "silent": round(driver.silent, 1)},
        "metrics": study.metrics,
        "directions": study.directions,
        "constraints": {} if told is None else told.constraints,
        "n_trials": study.total,
        "finished": study.finished,
        "counts": dict(sorted(study.counts.items())),
        "best": [trial_fields(study, row) for row in study.front],
        "space": {name: json.loads(text) for name, text in study.space.items()},
        "sampler": study.record.sampler,
        "launcher": None if told is None else told.launcher,
        "storage": None if study.record.storage == "null" else study.record.storage,
        "tracking": None if told is None or not told.tracking else told.tracking,
        "code": study.record.code,
        "resume": None if told is None else told.resume,
        **{name: study.used.get(name) for name in ("wall_hours", "device_hours")},
    }


def as_json(value: Any) -> str:
    """JSON for scripts; numbers that it has no word for are texts, as in a study's files."""
    if isinstance(value, list):  # of thousands, maybe: a line each
        return "[\n" + ",\n".join(map(_line, value)) + "\n]"
    return json.dumps(json.loads(records.dumps(value)), indent=2, ensure_ascii=False)


def _line(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError:  # a number that JSON has no word for
        return records.dumps(value)


def columns(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of a table of trials: those of `NESTED` are spread out, each entry that any trial has."""
    found = []
    for name in OF_TRIAL:
        if name in NESTED:
            entries = dict.fromkeys(entry for trial in trials for entry in trial[name])
            found += [f"{name}.{entry}" for entry in entries]
        else:
            found.append(name)
    return found


def flat(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A trial by the columns of a table."""
    cells: dict[str, Any] = {}
    for name, value in trial.items():
        if name in NESTED:
            cells |= {f"{name}.{entry}": one for entry, one in value.items()}
        else:
            cells[name] = value
    return cells


def ordered(study: Study, rows: Sequence[TrialRow], by: str, reverse: bool = False) -> list[TrialRow]:
    """Trials by a field: an objective with the best first, all else with the least; numbers come before texts.

    Those that have no such field, or NaN in it, come last either way.

    Args:
        reverse: the others the other way round.

    Raises:
        UserError: no trial has such a field.
    """
    trials = [trial_fields(study, row) for row in rows]
    known = columns(trials)
    names = [prefix + by for prefix in ("objectives.", "params.", "metrics.", "parts.", "")]
    name = next((name for name in names if name in known), None)
    if name is None:
        plain = [name.partition(".")[2] or name for name in known]
        raise UserError(f"--sort {by}: no trial has such a field{nearest(by, plain)}", f"it has {', '.join(known)}")
    cells = {row.number: flat(trial).get(name) for row, trial in zip(rows, trials, strict=True)}
    ways = {f"objectives.{metric}": way for metric, way in zip(study.metrics, study.directions, strict=False)}
    having = [row for row in rows if cells[row.number] is not None and cells[row.number] == cells[row.number]]
    having.sort(key=lambda row: _rank(cells[row.number]), reverse=(ways.get(name) == "maximize") != reverse)
    there = {row.number for row in having}
    return having + [row for row in rows if row.number not in there]


def _rank(cell: Any) -> tuple[bool, Any]:
    number = isinstance(cell, int | float)
    return not number, cell if number else str(cell)


def as_csv(trials: Sequence[Mapping[str, Any]]) -> str:
    """A line a trial below a line of names; what a trial does not have is empty."""
    return table_as_csv(columns(trials), (flat(trial) for trial in trials))


def table_as_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if cell is None else cell for name, cell in row.items()} for row in rows)
    return text.getvalue()


_OF_STUDY = ("name", "state", "finished", "n_trials", "created", "wall_hours", "device_hours", "folder", "uid")


def studies_as_csv(studies: Sequence[Mapping[str, Any]]) -> str:
    """A line a study: what of it is no list; the best values, and the trials by state."""
    rows = []
    for study in studies:
        best = study["best"][0]["objectives"] if len(study["best"]) == 1 else {}
        row = {name: study[name] for name in _OF_STUDY}
        row |= {f"counts.{state}": count for state, count in study["counts"].items()}
        row |= {f"best.{name}": value for name, value in best.items()}
        rows.append(row)
    names = dict.fromkeys([*_OF_STUDY, *(name for row in rows for name in row)])
    return table_as_csv(list(names), rows)


def at(seconds: float | None) -> str:
    """A time for people, in UTC as study.yaml has it."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")[:19]

"""MLflow's tables, read as SQLite has them, compared with the study and with what the metrics are by arithmetic."""

import contextlib
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from benchmarks.faults.case import Case, Problem
from benchmarks.faults.parabola import undisturbed


def judged(case: Case, trials: Sequence[FrozenTrial], uids: Sequence[str]) -> Iterator[Problem]:
    """What MLflow says other than the study, or than arithmetic."""
    with contextlib.closing(sqlite3.connect(case.tracking)) as database:
        runs = _runs(database, uids)
        rows = defaultdict(list)
        for run, *row in database.execute("SELECT run_uuid, key, step, value, is_nan FROM metrics"):
            rows[run].append(tuple(row))
    studies = [run for run in runs if run["kind"] == "study"]
    if len(studies) != 1:
        yield Problem("doubled" if studies else "lost", f"MLflow has {len(studies)} runs of the study")
    of_trial = defaultdict(list)
    for run in runs:
        if run["end"] is not None and run["end"] < run["start"]:
            yield Problem("wrong", f"MLflow: run {run['id']} ends before it starts")
        if run["kind"] == "trial":
            of_trial[run["trial"]].append(run)
        if run["status"] == "RUNNING":
            yield Problem("left running", f"MLflow: the run of {run['kind']} {run['trial']} is RUNNING")
    for trial in trials:
        mine = of_trial.pop(str(trial.number), [])
        if len(mine) != 1:
            yield Problem("doubled" if mine else "lost", f"MLflow has {len(mine)} runs of trial {trial.number}")
            continue
        yield from _trial(case, trial, mine[0], rows[mine[0]["id"]])
    for number in of_trial:
        yield Problem("doubled", f"MLflow has a run of trial {number}, which is not in the study")


def _trial(case: Case, trial: FrozenTrial, run: dict[str, Any], rows: Sequence[tuple[Any, ...]]) -> Iterator[Problem]:
    who = f"MLflow: trial {trial.number}"
    if run["state"] != trial.state.name:
        yield Problem("wrong", f"{who} is {run['state']}, in the study {trial.state.name}")
    if "x" not in trial.params:
        return
    points = Counter((key, step) for key, step, _, _ in rows)
    for point, number in points.items():
        if number > 1:
            yield Problem("doubled", f"{who} has {point} {number} times")
    wanted: dict[tuple[str, int], float] = {}
    for step, (loss, position) in enumerate(undisturbed(trial.params["x"], trial.params["y"], case.steps), 1):
        wanted |= {("loss", step): loss, ("position", step): position}
    if trial.state.name == "COMPLETE":
        wanted["objective", 0] = wanted["loss", case.steps]
        for key, step in wanted.keys() - points.keys():
            yield Problem("lost", f"{who} has no {key} of step {step}")
    for key, step, value, is_nan in rows:
        if (key, step) in wanted and (is_nan or not math.isclose(value, wanted[key, step], rel_tol=1e-12)):
            yield Problem("wrong", f"{who} has {key} {value} at step {step}, not {wanted[key, step]}")


def _runs(database: sqlite3.Connection, uids: Sequence[str]) -> list[dict[str, Any]]:
    """The active runs of the study, and of its trials."""
    tags: dict[str, dict[str, str]] = defaultdict(dict)
    for run, key, value in database.execute("SELECT run_uuid, key, value FROM tags WHERE key LIKE 'trialfleet.%'"):
        tags[run][key.removeprefix("trialfleet.")] = value
    query = "SELECT run_uuid, status, start_time, end_time FROM runs WHERE lifecycle_stage = 'active'"
    return [
        {"id": run, "status": status, "start": start, "end": end}
        | {key: tags[run].get(key, "") for key in ("kind", "trial", "state")}
        for run, status, start, end in database.execute(query)
        if tags[run].get("study_uid") in uids
    ]

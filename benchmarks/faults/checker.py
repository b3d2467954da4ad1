"""What came of a study, judged from outside: plain Optuna, JSON, SQLite and /proc, and nothing of the product's.

Five sources must agree: the Optuna study, the files of its trials, MLflow's tables, the side file in which each step
of the task left a line, and what the objective is by arithmetic.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from benchmarks.faults import mlflow_tables, survivors
from benchmarks.faults.case import Case, Problem
from benchmarks.faults.parabola import MISDEEDS, misdeed, undisturbed


def judge(case: Case) -> list[Problem]:
    """All that is not as it should be."""
    found = list(survivors.still_there(case))
    try:
        trials = _trials(case)
    except Exception as error:  # noqa: BLE001  # whatever is wrong with it, nobody else can open it either
        return [*found, Problem("lost", f"the Optuna study cannot be opened: {error!r}")]
    record = yaml.safe_load((case.folder / "study.yaml").read_text())
    uids = [record["uid"], *record["former_uids"]]
    found += _counted(case, trials)
    for trial in trials:
        found += _trial(case, trial, uids)
    found += _side(case, trials)
    found += mlflow_tables.judged(case, trials, uids)
    found += _files(case, trials)
    found += _said(case)
    found += _budget(case)
    return found


# -------------------------------------------------------------------- the study


def _trials(case: Case) -> list[FrozenTrial]:
    if case.storage is None:
        backend = JournalFileBackend(str(case.folder / "optuna_journal.log"))
        study = optuna.load_study(study_name=case.name, storage=optuna.storages.JournalStorage(backend))
        return study.get_trials()
    storage = optuna.storages.RDBStorage(case.storage)
    try:
        return optuna.load_study(study_name=case.name, storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _counted(case: Case, trials: Sequence[FrozenTrial]) -> Iterator[Problem]:
    if len(trials) < case.n_trials:
        yield Problem("lost", f"the study has {len(trials)} trials, not {case.n_trials}")
    if len(trials) > case.n_trials:
        yield Problem("doubled", f"the study has {len(trials)} trials, not {case.n_trials}")
    for params, number in Counter(json.dumps(trial.params, sort_keys=True) for trial in trials).items():
        if number > 1:
            yield Problem("doubled", f"{number} trials have the parameters {params}")
    if case.storage is None:
        told: Counter[int] = Counter()
        for line in (case.folder / "optuna_journal.log").read_text().splitlines():
            entry = json.loads(line)
            if entry["op_code"] == 6 and entry["state"] in (1, 2, 3):  # SET_TRIAL_STATE_VALUES, an end
                told[entry["trial_id"]] += 1
        for trial, number in told.items():
            if number > 1:
                yield Problem("doubled", f"trial id {trial} was told {number} times")


def _trial(case: Case, trial: FrozenTrial, uids: Sequence[str]) -> Iterator[Problem]:
    """The study and the trial's files."""
    who, state, folder = f"trial {trial.number}", trial.state.name, _folder(case, trial.number)
    if not trial.state.is_finished():
        yield Problem("left running", f"{who} is {state} in the study")
        return
    record, result = _json(folder / "trial.json"), _json(folder / "result.json")
    if record is None or result is None:
        yield Problem("lost", f"{who}: trial.json or result.json cannot be read")
        return
    error = (result.get("error") or {}).get("type", "")
    expected = (state, error) if error in case.forgives and state == "FAIL" else None
    if "x" in trial.params:
        expected = expected or MISDEEDS.get(misdeed(trial.params["x"], case.misdeeds), ("COMPLETE", ""))
    if (state, error) != expected:
        yield Problem("wrong", f"{who}: {state} {error}, should be {expected}: {result.get('error')}")
    if record["params"] != trial.params:
        yield Problem("wrong", f"{who}: parameters {trial.params} in the study, {record['params']} in trial.json")
    if result["study"] not in uids or result["params"] != _digest(record["params"]):
        yield Problem("wrong", f"{who}: result.json is of {result['study']} {result['params']}")
    if result["state"] != state:
        yield Problem("wrong", f"{who}: {state} in the study, {result['state']} in result.json")
    if state == "COMPLETE":
        wanted = undisturbed(trial.params["x"], trial.params["y"], case.steps)[-1][0]
        if trial.values != [wanted] or result["objectives"] != [wanted]:
            yield Problem(
                "wrong", f"{who}: {trial.values} in the study, {result['objectives']} in result.json, not {wanted}"
            )
    if result["run"] is not None:
        config = yaml.safe_load((folder / "runs" / result["run"] / ".hydra" / "config.yaml").read_text())
        if {"x": config["x"], "y": config["y"]} != trial.params:
            yield Problem("wrong", f"{who}: its run had x={config['x']}, y={config['y']}, not {trial.params}")


def _files(case: Case, trials: Sequence[FrozenTrial]) -> Iterator[Problem]:
    numbers = {trial.number for trial in trials}
    for folder in (case.folder / "trials").iterdir():
        if re.fullmatch(r"[0-9]{5,}", folder.name) and int(folder.name) not in numbers and any(folder.iterdir()):
            yield Problem("lost", f"{folder.name} is a trial's folder, and the study has no such trial")


def _folder(case: Case, number: int) -> Path:
    return case.folder / "trials" / f"{number:05d}"


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _digest(params: dict[str, Any]) -> str:
    """As records name parameters: the first letters of the SHA-256 of their JSON."""
    text = json.dumps(params, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -------------------------------------------------------------------- the work


def _side(case: Case, trials: Sequence[FrozenTrial]) -> Iterator[Problem]:
    """Each step of each complete trial was really done, and no work was done for a trial that nobody knows."""
    steps: dict[tuple[float, float], set[int]] = defaultdict(set)
    lines = case.side.read_text().splitlines() if case.side.exists() else []
    for line in map(json.loads, lines):
        steps[line["x"], line["y"]].add(line["step"])
    known = {(trial.params["x"], trial.params["y"]): trial for trial in trials if "x" in trial.params}
    for point, trial in known.items():
        missing = set(range(1, case.steps + 1)) - steps[point]
        if trial.state.name == "COMPLETE" and missing:
            yield Problem("wrong", f"trial {trial.number} is complete, but nobody did its steps {sorted(missing)}")
    for point in steps.keys() - known.keys():
        if not case.began_anew and not case.forgives:
            yield Problem("lost", f"work was done for x, y = {point}, which are no trial's of the study")


def _budget(case: Case) -> Iterator[Problem]:
    """No more device time is booked than there was: the trials that run at a time, for as long as it took."""
    record = _json(case.folder / "budget.json")
    if record is None:
        yield Problem("lost", "budget.json cannot be read")
        return
    slots = 3
    for key, most in (("wall_seconds", case.seconds), ("device_seconds", slots * case.seconds)):
        if not 0 <= record[key] <= most:
            yield Problem("wrong", f"budget.json: {key} is {record[key]:.0f}, of {most:.0f} at most")


def _said(case: Case) -> Iterator[Problem]:
    for part in case.said.split("\n$ "):
        if "Traceback (most recent call last)" in part:
            yield Problem("wrong", f"a driver ended with a traceback: …{part.strip()[-700:]}")

"""A trial repeated from its folder, apart from its study, and compared with what it was."""

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from trialfleet.errors import UserError
from trialfleet.review.studies import Study
from trialfleet.sweep.fleets.base import PYTHON_OPTIONS, WORKER
from trialfleet.sweep.fleets.code_version import digest_of, lock_of
from trialfleet.sweep.fleets.payload import code_of
from trialfleet.sweep.study import study_record
from trialfleet.sweep.study.index import TrialRow
from trialfleet.sweep.ui.command_line import override
from trialfleet.trial import metrics, records
from trialfleet.trial.directory import TrialDir, composed_config, trial_dir
from trialfleet.trial.records import Damaged
from trialfleet.trial.result import Result
from trialfleet.trial.submission import Assignment, Submission, TrialRecord
from trialfleet.trial.worker_folder import WorkerFolder

FIX = "write its config by `export`, and run that"  # of a trial that cannot be repeated
OF_LAUNCHERS = ("SLURM_", "SUBMITIT_", "TRIALFLEET_", "PMI_", "OMPI_")  # variables that say whose job a process is
SHOWN = 12  # differences
Curves = dict[str, dict[int, float]]  # by metric and step


@dataclass(frozen=True)
class Repeated:
    """What came of it.

    Attributes:
        folder: of the new run.
        same: whether the objectives, and what was reported of them, are equal bit for bit.
        outcome: a sentence for each objective, and for what was reported.
        differences: of code, lock, device and what else the two runs say of themselves.
    """

    folder: Path
    same: bool
    outcome: list[str]
    differences: list[str]


def repeat(study: Study, row: TrialRow, target: Path | None) -> Repeated:
    """Run a trial again as its job ran it: the study's copy of the code and of the config, its overrides, its seeds.

    One process of this machine does it, in a folder of its own: the study is not touched.

    Args:
        target: the folder; by default one in outputs/rerun.

    Raises:
        UserError: what the jobs of the study ran is not there any more, or never was.
    """
    directory = trial_dir(study.folder, row.number)
    record, submission = _submitted(study, directory)
    code = code_of(Path(submission.payload)) or str(study.record.code.get("digest"))
    copy = _copy(study, code)
    if not copy.is_dir():
        raise UserError(
            f"{copy}: the copy of the code that trial {row.number} ran is not there", f"put it back, or {FIX}"
        )
    folder = _folder(study, row, target)
    copied = TrialDir(folder / "trials" / f"{row.number:05d}")
    uuid = uuid4().hex
    overrides = [*record.overrides, override("hydra.sweep.dir", str(folder))]
    assignment = Assignment(row.number, 1, str(copied.path), str(record.identity.params), overrides)
    file = folder / ".submitit" / f"{uuid}.json"
    replace(submission, uuid=uuid, sweep_dir=str(folder), trials=[assignment]).write(file)
    replace(record, attempt=1, submission=uuid, launcher="", index=0, job=None).write(copied.trial_json, synced=False)
    place = _place(directory, row)
    command = [sys.executable, *PYTHON_OPTIONS, "-m", WORKER, str(file)]
    subprocess.run(command, env=_environment(study, code), cwd=place, check=False)
    return _compared(study, row, directory, copied, folder, code)


def _submitted(study: Study, directory: TrialDir) -> tuple[TrialRecord, Submission]:
    """What the trial's job was told.

    Raises:
        UserError: it was told nothing, or that is lost.
    """
    try:
        record = TrialRecord.read(directory.trial_json)
        if record is None or record.submission is None:
            raise UserError(f"{directory.trial_json}: names no job: the trial ran in its driver's process", FIX)
        # A job's process that went on to this trial was given it by another file than the job.
        given = record.worker and WorkerFolder(study.folder, record.worker).given(record.submission)
        submission = given or Submission.read(study.folder / ".submitit" / f"{record.submission}.json")
    except Damaged as damage:
        raise UserError(str(damage), FIX) from None
    payload = study.folder / ".submitit" / Path(submission.payload).name  # wherever the study lies by now
    if not payload.is_file():
        raise UserError(f"{payload}: is not there, which the study's jobs ran", FIX)
    return record, replace(submission, payload=str(payload))


def _folder(study: Study, row: TrialRow, target: Path | None) -> Path:
    if target is None:
        target = Path("outputs", "rerun", study.folder.name, f"{row.number:05d}", f"{datetime.now():%Y%m%d-%H%M%S-%f}")
    fix = "name another folder with --to"
    try:
        target.mkdir(parents=True, exist_ok=True)
        empty = not any(target.iterdir())
    except OSError as error:
        raise UserError(f"{target}: is no folder that could be written: {error.strerror}", fix) from None
    if not empty:
        raise UserError(f"{target}: is not empty", fix)
    return target.absolute()


def _copy(study: Study, code: str) -> Path:
    """The study's copy of the code of this digest."""
    return study.folder / "code" / code


def _place(directory: TrialDir, row: TrialRow) -> Path | None:
    """Where the trial's job was started: paths in its config are as seen from there."""
    config = None if row.run is None else composed_config(directory.run_dir(row.run))
    if config is None or not config.with_name("hydra.yaml").exists():
        return None
    hydra = yaml.safe_load(config.with_name("hydra.yaml").read_text())["hydra"]
    place = Path(hydra["runtime"]["cwd"])
    return place if place.is_dir() else None


def _environment(study: Study, code: str) -> dict[str, str]:
    """That of a job of this machine, which imports from the copy of the code of this digest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_LAUNCHERS)}
    path = "" if study.command is None else study.command.python_path
    # A study that was moved has its copy of the code with it.
    path = path.replace(f"{study.record.folder}{os.sep}", f"{study.folder}{os.sep}")
    # A study that went on with later code has the trial's own beside it.
    path = path.replace(str(_copy(study, str(study.record.code.get("digest")))), str(_copy(study, code)))
    return {**kept, "TRIALFLEET_ELEMENT": "0", **({"PYTHONPATH": path} if path else {})}


# -------------------------------------------------------------------- then and now


def _compared(study: Study, row: TrialRow, then: TrialDir, now: TrialDir, folder: Path, code: str) -> Repeated:
    try:
        result = now.result()
    except Damaged as damage:
        raise UserError(str(damage), "repeat it again") from None
    runs = now.run_labels()
    log = now.run_dir(runs[-1]) / "log" if runs else None
    if result is None:
        said = records.tail(log, 2000) if log is not None else ""
        raise UserError(f"trial {row.number} did not come to an end: {said.strip()[-1000:] or 'it left no word'}", "")
    outcome, same = [], row.state == result.state.value
    if not same:
        said = "" if result.error is None else f" ({result.error['type']}: {result.error['message']})"
        outcome.append(f"it was {row.state}, and is {result.state.value} now{said}")
    for name, old, new in zip(study.metrics, row.values or (), result.objectives or (), strict=False):
        equal = repr(old) == repr(new)
        same &= equal
        outcome.append(f"{name}: {old!r}, the same bits" if equal else f"{name}: {old!r} then, {new!r} now")
    before, after = _reports(then), _reports(now)
    for name in study.metrics:
        step, count = _first_other(before.get(name, {}), after.get(name, {}))
        same &= step is None
        word = "the same" if step is None else f"others from step {step} on"
        outcome += [f"{name} was reported at {count} steps in both: {word}"] if count else []
    outcome += of_other_metrics(before, after, study.metrics)
    return Repeated(folder, bool(same), outcome, _differences(study, then, result, code, bool(same)))


def of_other_metrics(then: Curves, now: Curves, but_for: Sequence[str]) -> Iterator[str]:
    """What was reported besides the objectives. It decides nothing: who can tell a loss from a number of seconds?"""
    both = sorted(then.keys() & now.keys() - set(but_for))
    others = [name for name in both if _first_other(then[name], now[name])[0] is not None]
    if both:
        named = f"; others: {', '.join(others[:SHOWN])}{', …' if len(others) > SHOWN else ''}" if others else ""
        yield f"of {len(both)} more metrics {len(both) - len(others)} are the same at all steps{named}"


def _reports(directory: TrialDir) -> Curves:
    """The first value of each metric at each step, over all runs."""
    found: Curves = defaultdict(dict)
    for label in directory.run_labels():
        path, offset = directory.run_dir(label) / "metrics.jsonl", 0
        while True:
            lines, end = metrics.read_from(path, offset)
            for line in lines:
                for name, value in line.values.items():
                    found[name].setdefault(line.step, value)
            if end == offset:
                break
            offset = end
    return found


def _first_other(then: Mapping[int, float], now: Mapping[int, float]) -> tuple[int | None, int]:
    """The first step that both reported with other values, if there is one; and how many both reported."""
    both = sorted(then.keys() & now.keys())
    return next((step for step in both if repr(then[step]) != repr(now[step])), None), len(both)


def _differences(study: Study, then: TrialDir, now: Result, code: str, same: bool) -> list[str]:
    """What differs besides the results, as far as the runs and the study say: these may be the same by chance."""
    found = [*_of_code(study, code), *_of_runs(then, now)]
    if found or same:
        return found
    return [
        "what differs is not known: not the copy of the code, the lock, nor what the runs note of themselves; data, "
        "variables and the machine are what they are today"
    ]


def _of_code(study: Study, code: str) -> Iterator[str]:
    copy = _copy(study, code)
    files = sorted(path.relative_to(copy) for path in copy.rglob("*") if path.is_file() and path.suffix != ".pyc")
    if (today := digest_of(files, copy)) != code:
        yield f"code: {copy} was edited: {code} → {today}"
    if code != study.record.code.get("digest"):
        return  # the lock is that of the code with which the study went on
    script = Path(str(study.record.code.get("script", "")))
    lock = next((lock for parent in script.parents if (lock := lock_of(parent)) is not None), None)
    if study.record.code.get("lock") != lock:
        yield f"lock: {study.record.code.get('lock', 'none')} → {lock or 'none'}"


def _of_runs(then: TrialDir, now: Result) -> Iterator[str]:
    try:
        before = then.result()
    except Damaged:
        before = None
    if before is not None:
        sides = (study_record.flat(_told(before.notes)), study_record.flat(_told(now.notes)))
        changed = study_record.differences(*sides)
        yield from (f"{key}: {sides[0].get(key)} → {sides[1].get(key)}" for key in changed[:SHOWN])
        if len(changed) > SHOWN:
            yield f"… and {len(changed) - SHOWN} more"


# What two runs of the same training say differently of themselves, and what does not bear on its bits.
_OF_A_RUN = ("compilations", "checkpoints", "resumed_from")


def _told(notes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in notes.items() if key not in _OF_A_RUN}

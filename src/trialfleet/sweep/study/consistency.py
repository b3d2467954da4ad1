"""The study and its folder, compared at each start: what differs is said, and what the files prove is mended.

A disk that loses what it had acknowledged, a storage that was exchanged, a file that was damaged: whatever it was,
no result may be told to a trial that it was not made for, and one damaged trial is in nobody's way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from trialfleet.errors import UserError
from trialfleet.sweep.active_trial import job_of
from trialfleet.sweep.study.progress import FAILURE
from trialfleet.sweep.study.projection import Files, Projector, agrees, read_files
from trialfleet.sweep.study.storage import OWNER, StudyStorage, marks_of
from trialfleet.trial import records, transient
from trialfleet.trial.directory import TrialDir, trial_dir, trial_numbers
from trialfleet.trial.identity import Identity
from trialfleet.trial.result import Result
from trialfleet.trial.result import TrialState as Ended
from trialfleet.trial.submission import JobRef, TrialRecord

PATIENCE = 1.0  # seconds for which errors of one trial's files are waited for, if they are of a kind that passes
MAX_UNREADABLE = 3  # trials; if there are more, it is the file system
SHOWN = 10  # differences that are named one by one
FIX = (
    "make the study anew from its folder with hydra.sweeper.study.rebuild=true, or restore the missing files or "
    "database"
)

Notice = Callable[[str], None]


@dataclass
class Found:
    """What a comparison brought to light.

    Attributes:
        missing: trials that have a folder and are not in the study.
        differing: trials whose files say another thing than the study, and what.
        ended_jobs: jobs of trials that have ended, which may still run.
        seconds: that ended trials took, by what their results say.
        unreadable: trials whose files cannot be read.
    """

    missing: list[Files] = field(default_factory=list)
    differing: dict[int, str] = field(default_factory=dict)
    ended_jobs: list[tuple[int, JobRef]] = field(default_factory=list)
    seconds: float = 0.0
    unreadable: list[int] = field(default_factory=list)


def refuse_empty(store: StudyStorage, folder: Path, uids: Sequence[str]) -> None:
    """A storage that knows nothing of the study whose trials lie in the folder is not the study's, or lost it.

    Raises:
        UserError: it is so.
    """
    if store.study.user_attrs.get(OWNER) in uids or any(one.user_attrs.get(OWNER) in uids for one in store.trials()):
        return
    taken = [number for number in trial_numbers(folder) if trial_dir(folder, number).is_taken()]
    if taken:
        raise UserError(f"{store.shown}: knows nothing of this study, and {folder} has {len(taken)} trials of it", FIX)


def compare(
    store: StudyStorage,
    folder: Path,
    uids: Sequence[str],
    overrides: Callable[[Mapping[str, Any]], list[str]],
    notice: Notice,
) -> Found:
    """Compare the study with the folder; files that are damaged are set aside, and made again where the study knows.

    Args:
        uids: the study's uid, and those that it had before.
        overrides: of a job with the given parameters.
        notice: tells the user what was found and done.
    """
    found, trials = Found(), store.trials()
    for number in trial_numbers(folder):
        trial = trials[number] if number < len(trials) else None
        ours = trial is not None and trial.user_attrs.get(OWNER) in uids
        params = trial.params if trial is not None and ours else None
        files = _read(trial_dir(folder, number), number, uids, params, found, notice)
        if files is None:
            continue
        if trial is None:
            if files.dir.is_taken():
                found.missing.append(files)
            continue
        if not ours:
            if files.record is not None:
                found.differing[number] = "in the storage this number is that of another study's trial"
            continue
        incomplete = trial.state.is_finished() and (files.record is None or files.result is None)
        if files.damage or (incomplete and files.dir.is_taken()):
            files = _mended(files, trial, uids[0], overrides, notice)
        difference = _difference(trial, files)
        if difference:
            found.differing[number] = difference
        if files.record is not None and trial.state.is_finished():
            if files.record.job is not None:
                found.ended_jobs.append((number, files.record.job))
            found.seconds += 0.0 if files.result is None else files.result.seconds.get("total", 0.0)
    return found


def _read(
    directory: TrialDir,
    number: int,
    uids: Sequence[str],
    params: Mapping[str, Any] | None,
    found: Found,
    notice: Notice,
) -> Files | None:
    """A trial's files; None if they cannot be read, and are left as they are.

    Raises:
        OSError: the disk is full, or so many trials cannot be read that it is no fault of theirs.
    """

    def waiting(error: OSError) -> None:
        notice(f"{error}: waiting until it passes, for {PATIENCE:.0f} s at most")

    try:
        return transient.patiently(lambda: read_files(directory, number, uids, params), PATIENCE, waiting=waiting)
    except OSError as error:
        if transient.is_full(error) or len(found.unreadable) >= MAX_UNREADABLE:
            raise
        found.unreadable.append(number)
        notice(f"{error}: trial {number} cannot be compared with the study, and is left as it is")
        return None


def _difference(trial: FrozenTrial, files: Files) -> str:
    """What the study says of a trial other than its files; empty if they agree."""
    record, result = files.record, files.result
    if record is not None and records.digest(record.params) != records.digest(trial.params):
        return f"the study has the parameters {trial.params}, trial.json has {record.params}"
    if result is not None and trial.state.is_finished() and not agrees(trial, result):
        if trial.state is TrialState.PRUNED and result.state is Ended.PRUNED:
            return f"the study has PRUNED {trial.values}, and {trial.intermediate_values} for its reports"
        return f"the study has {trial.state.name} {trial.values}, result.json has {result.state} {result.objectives}"
    return ""


def _mended(
    files: Files,
    trial: FrozenTrial,
    uid: str,
    overrides: Callable[[Mapping[str, Any]], list[str]],
    notice: Notice,
) -> Files:
    """The files of a trial that the study has, after what is damaged was set aside and made again."""
    for damage in files.damage:
        aside = records.set_aside(damage.path)
        notice(f"{damage}: renamed to {aside.name}; {_what_then(trial, damage.path.name)}")
    record, result = files.record, files.result
    if record is None and (files.damage or trial.state.is_finished()):
        if not any(damage.path == files.dir.trial_json for damage in files.damage):
            notice(f"{files.dir.trial_json}: was empty or missing, and is made again from the study")
        texts = {name: optuna.distributions.distribution_to_json(one) for name, one in trial.distributions.items()}
        marks = marks_of(trial)
        record = TrialRecord(trial.number, overrides(trial.params), dict(trial.params), texts, uid, **marks)
        record = with_claims(record, files.dir)
        record.write(files.dir.trial_json)
    if trial.state.is_finished() and result is None and record is not None:
        result = _result(trial)
        files.dir.commit(result, Identity(uid, record.identity.params))
        if not files.damage:
            notice(f"{files.dir.result_json}: was missing, and is made again from what the study says of the trial")
    return replace(files, record=record, result=result)


def _what_then(trial: FrozenTrial, name: str) -> str:
    if trial.state.is_finished() or name == "trial.json":
        return f"made again from what the study says of trial {trial.number}"
    return f"its result is lost, trial {trial.number} goes on from its newest checkpoint"


def with_claims(record: TrialRecord, directory: TrialDir) -> TrialRecord:
    """A trial.json that had to be made again, with what the claims say of the attempt and its job."""
    claims = [claim for claim in directory.claims() if not claim.damaged]
    if not claims:
        return record
    if claims[-1].identity.study is None:  # an earlier version's job runs it, whose result will not say either
        record = replace(record, study=None)
    job = job_of(claims[-1], record)
    return replace(record, attempt=claims[-1].attempt, submission="lost", launcher=job.launcher, job=job)


def _result(trial: FrozenTrial) -> Result:
    """result.json as far as the study knows it."""
    text = str(trial.user_attrs.get(FAILURE, ""))
    kind, _, message = text.partition(": ")
    error = {"type": kind or "Unknown", "message": message, "traceback": ""}
    complete = trial.state is TrialState.COMPLETE
    return Result(
        Ended.COMPLETE if complete else Ended.PRUNED if trial.state is TrialState.PRUNED and not text else Ended.FAIL,
        list(trial.values) if complete else None,
        error if trial.state is TrialState.FAIL or text else None,
        {},
        None,
        {"restored": "from the study"},
    )


def put_right(store: StudyStorage, found: Found, projector: Projector, notice: Notice) -> bool:
    """Add to the study, which is surely the folder's own, what only the folder has.

    Returns:
        False if the study must be made anew from the folder, which its own journal may be without asking.

    Raises:
        UserError: a storage elsewhere says something that the files contradict.
    """
    if not found.missing and not found.differing:
        return True
    lines = [f"trial {number}: {text}" for number, text in sorted(found.differing.items())]
    lines += [f"trial {files.number}: is not in the study" for files in found.missing]
    listed = "\n".join([f"    {line}" for line in lines[:SHOWN]] + (["    …"] if len(lines) > SHOWN else []))
    following = range(len(store.trials()), len(store.trials()) + len(found.missing))
    in_line = [files.number for files in found.missing] == list(following)
    can_be_added = not found.differing and in_line and all(files.record is not None for files in found.missing)
    if not can_be_added and not store.in_folder:
        raise UserError(f"{store.shown}: the study differs from its folder:\n{listed}", FIX)
    notice(f"the study differs from its folder, and is put right by the files:\n{listed}")
    if can_be_added:
        for files in found.missing:
            store.add(projector.trial(files))
    return can_be_added

"""What of a study cannot change: its objectives, and of each parameter what Optuna lets no later trial contradict.

Optuna holds each parameter of a study to the kind of its first distribution, and a categorical one to its choices.
It says so where a trial takes the parameter, in the middle of the study. So a command that would come to that is
refused at once, whatever changes it allows.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility, json_to_distribution

from trialfleet.errors import UserError
from trialfleet.sweep.study import study_record
from trialfleet.sweep.study.storage import distribution_texts
from trialfleet.sweep.study.study_record import SPACE, StudyRecord
from trialfleet.trial.directory import TrialDir, trial_dir, trial_numbers
from trialfleet.trial.records import Damaged
from trialfleet.trial.result import TrialState
from trialfleet.trial.submission import TrialRecord

_OBJECTIVES = "direction"  # the key that says how many objectives there are, and which way each of them goes


def check(
    record: StudyRecord, folder: Path, space: Mapping[str, BaseDistribution], directions: Sequence[str]
) -> StudyRecord:
    """The record, once it is sure that a command wants nothing that the study can never have.

    Where study.yaml contradicts the study's own trials, an earlier version wrote what it should have refused: there
    the record has what the trials say, and the command that fits them goes on.

    Args:
        folder: of the study.
        space: that of the command.
        directions: those of the command.

    Raises:
        UserError: the command wants such a thing; it shows each.
    """
    trials = [trial_dir(folder, number) for number in reversed(trial_numbers(folder))]
    identity = {**record.identity, **_parameters_that_study_yaml_has_wrong(record, trials, set(space))}
    wanted = {f"{SPACE}{name}": text for name, text in distribution_texts(space).items()}
    refused = {
        key: (study_record.shown(key, identity[key]), study_record.shown(key, text))
        for key, text in wanted.items()
        if key in identity and not _go_together(identity[key], text)
    }
    objectives = ",".join(directions)
    was = _objectives(str(identity.get(_OBJECTIVES, objectives)), objectives, trials, record.uids)
    if was != objectives:
        refused[_OBJECTIVES] = (was, objectives)
    if refused:
        lines = [f"    {key}: {old} → {new}" for key, (old, new) in refused.items()]
        raise UserError(
            f"study {record.name!r} cannot have other objectives, nor parameters of another kind or with other "
            "choices, than it has had so far:\n" + "\n".join(lines),
            "give them as they were; or begin another study, with hydra.sweeper.study.fresh=true or another "
            "hydra.sweeper.study_name",
        )
    return replace(record, identity={**identity, _OBJECTIVES: was})


def has_values(folder: Path, uids: Collection[str]) -> bool:
    """Whether any trial of the study has ended with a value of its objectives, or was pruned for one."""
    for number in trial_numbers(folder):
        with contextlib.suppress(Damaged, OSError):
            result = trial_dir(folder, number).result()
            if result is not None and result.state is not TrialState.FAIL and result.identity.study in (None, *uids):
                return True
    return False


def _parameters_that_study_yaml_has_wrong(
    record: StudyRecord, trials: Iterable[TrialDir], names: Collection[str]
) -> dict[str, str]:
    """Entries of the study's identity as its trials prove them, where study.yaml says what cannot be."""
    found: dict[str, str] = {}
    for trial in trials:
        if len(found) == len(names):
            break
        with contextlib.suppress(Damaged, OSError):
            there = TrialRecord.read(trial.trial_json)
            if there is not None and there.study in record.uids:
                found = {**{name: text for name, text in there.distributions.items() if name in names}, **found}
    proved = {f"{SPACE}{name}": text for name, text in found.items()}
    return {key: text for key, text in proved.items() if not _go_together(record.identity.get(key), text)}


def _go_together(old: Any, new: Any) -> bool:
    """Whether one study can have both distributions, in Optuna's JSON, of one parameter; also if one says nothing."""
    try:
        before, after = json_to_distribution(old), json_to_distribution(new)
    except (ValueError, KeyError, TypeError):
        return True
    try:
        check_distribution_compatibility(before, after)
    except ValueError:
        return False
    return True


def _objectives(recorded: str, wanted: str, trials: Iterable[TrialDir], uids: Collection[str]) -> str:
    """The study's objectives, as directions: those of study.yaml, unless each complete trial has another number."""
    count = recorded.count(",") + 1
    found: int | None = None
    for trial in trials:
        with contextlib.suppress(Damaged, OSError):
            result = trial.result()
            if result is not None and result.objectives is not None and result.identity.study in (None, *uids):
                found = len(result.objectives)
                if found == count:
                    return recorded
    if found is None:
        return recorded
    return wanted if found == wanted.count(",") + 1 else f"{found} in each trial's result"

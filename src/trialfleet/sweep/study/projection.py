"""What a trial's files say, as Optuna has it: the study is a projection of them, and can be made again from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from trialfleet.sweep.study.constraints import Constraint
from trialfleet.sweep.study.progress import FAILURE
from trialfleet.sweep.study.storage import OWNER, REQUEST, RETRY_OF, Told, values_when_pruned
from trialfleet.trial import metrics, records
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.identity import Identity
from trialfleet.trial.records import Damaged
from trialfleet.trial.result import OUT_OF_MEMORY, Result
from trialfleet.trial.result import TrialState as Ended
from trialfleet.trial.submission import TrialRecord

MEMORY_CONSTRAINT = "out of memory"  # the constraint that a trial violates which needs more memory than there is


def told(result: Result, takes_constraints: bool, violations: Mapping[str, float]) -> Told:
    """What to tell of a result.

    Samplers learn nothing from FAIL. So a trial that needs more memory than there is counts, for those that know
    constraints, as pruned with a violated one: its neighbourhood is avoided.

    Args:
        takes_constraints: whether the study's sampler does.
        violations: of the constraints that the user set, by a complete trial.
    """
    error = None if result.error is None else f"{result.error['type']}: {result.error['message']}"[:2000]
    if result.state is Ended.COMPLETE:
        return Told(TrialState.COMPLETE, list(result.objectives or []), dict(violations), error)
    no_memory = result.error is not None and result.error["type"] == OUT_OF_MEMORY
    if no_memory and takes_constraints:
        return Told(TrialState.PRUNED, None, {MEMORY_CONSTRAINT: 1.0}, error)
    return Told(TrialState[result.state.value], None, {}, error)


def agrees(trial: FrozenTrial, result: Result) -> bool:
    """Whether a finished trial of the study was told this result, by this sampler or by another one.

    A pruned trial has the value of its last report, which is not in the result.
    """
    if trial.state is TrialState.PRUNED and trial.values != values_when_pruned(trial.intermediate_values):
        return False
    for takes_constraints in (False, True):
        wanted = told(result, takes_constraints, {})
        if trial.state is wanted.state and (wanted.values is None or trial.values == wanted.values):
            return True
    return False


@dataclass(frozen=True)
class Files:
    """What a trial's folder says of it.

    Attributes:
        record: trial.json, if it is there and whole.
        result: result.json, if it is there, whole, and this trial's.
        damage: what of the two is there, and is not what it should be.
    """

    number: int
    dir: TrialDir
    record: TrialRecord | None
    result: Result | None
    damage: tuple[Damaged, ...]


def read_files(directory: TrialDir, number: int, uids: Sequence[str], params: Mapping[str, Any] | None = None) -> Files:
    """The files of one trial.

    Args:
        uids: the study's, the present one first.
        params: the trial's parameters as the study has them, if it has the trial.
    """
    damage: list[Damaged] = []
    record = result = None
    try:
        record = TrialRecord.read(directory.trial_json)
        if record is not None and record.number != number:
            raise Damaged(directory.trial_json, f"is the record of trial {record.number}")
    except Damaged as found:
        record = None
        damage.append(found)
    try:
        result = directory.result()
    except Damaged as found:
        damage.append(found)
    known = None if params is None else Identity(uids[0], records.digest(params))
    if record is not None and known is not None and _is_contradicted(record, known, directory, result):
        damage.append(Damaged(directory.trial_json, "has other parameters than the study, and than its runs"))
        record = None
    wanted = known if record is None else record.identity
    if result is not None and wanted is not None and not result.identity.is_of(wanted, uids):
        damage.append(Damaged(directory.result_json, "is the result of another trial, or of another study"))
        result = None
    return Files(number, directory, record, result, tuple(damage))


def _is_contradicted(record: TrialRecord, known: Identity, directory: TrialDir, result: Result | None) -> bool:
    """Whether trial.json alone has other parameters than the study: what its runs left agrees with the study."""
    if record.identity.params == known.params:
        return False
    witnesses = [claim.identity for claim in directory.claims()] + ([] if result is None else [result.identity])
    return any(witness.params == known.params for witness in witnesses)


@dataclass(frozen=True)
class Projector:
    """Makes trials of the study from their files.

    Args:
        uid: of the study.
        distributions: of the parameters, for trials of format 1, which do not say.
        metric: whose reports the pruner wants; None for none.
    """

    uid: str
    distributions: Mapping[str, BaseDistribution]
    metric: str | None
    takes_constraints: bool
    constraints: Sequence[Constraint]

    def trial(self, files: Files) -> FrozenTrial:
        """The trial that a folder with a whole trial.json describes; RUNNING if it has no result."""
        assert files.record is not None
        known = {name: json_to_distribution(text) for name, text in files.record.distributions.items()}
        known = {**self.distributions, **known}
        params = {name: _stored(known[name], value) for name, value in files.record.params.items() if name in known}
        latest, reports = self.metrics_of(files)
        marks = {OWNER: self.uid, REQUEST: files.record.request, RETRY_OF: files.record.retry_of}
        attributes: dict[str, Any] = {key: value for key, value in marks.items() if value is not None}
        state, values, violations = TrialState.RUNNING, None, {}
        if files.result is not None:
            wanted = {one.metric: one.violation(latest) for one in self.constraints}
            end = told(files.result, self.takes_constraints, wanted)
            state, values, violations = end.state, end.values, end.violations
            if state is TrialState.PRUNED:
                values = values_when_pruned(reports)
            attributes |= {} if end.error is None else {FAILURE: end.error}
        trial = optuna.trial.create_trial(
            state=state,
            values=values,
            params=params,
            distributions={name: known[name] for name in params},
            user_attrs=attributes,
            intermediate_values=reports,
            constraints=violations or None,
        )
        _date(trial, files)
        return trial

    def metrics_of(self, files: Files) -> tuple[dict[str, float], dict[int, float]]:
        """The last value of each metric, and the first one that the objective had at each step up to the verdict."""
        latest: dict[str, float] = {}
        reports: dict[int, float] = {}
        if self.metric is None and not self.constraints:
            return latest, reports
        assert files.record is not None
        verdict = (files.dir.verdict() or {}).get("prune_at")
        judged = False  # whether the pruner has had its say: the driver tells the study of no report that comes later
        for claim in files.dir.claims_of(files.record.identity):
            path, offset = files.dir.run_dir(claim.label) / "metrics.jsonl", 0
            while True:
                lines, end = metrics.read_from(path, offset)
                for line in lines:
                    latest.update(line.values)
                    if self.metric in line.values and not judged:
                        reports.setdefault(line.step, line.values[self.metric])
                        judged = line.step == verdict
                if end == offset:
                    break
                offset = end
        return latest, reports if self.metric is not None else {}


def placeholder(reason: str, owner: str | None) -> FrozenTrial:
    """A failed trial in the place of one of which nothing is known, so that the numbers of the others stay.

    Args:
        owner: uid of the study that the trial counts for; None for nobody's.
    """
    attributes = {FAILURE: reason} if owner is None else {FAILURE: reason, OWNER: owner}
    return optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attributes)


def _stored(distribution: BaseDistribution, value: Any) -> Any:
    """A parameter's value as the study has it, from what JSON made of it."""
    if not isinstance(distribution, CategoricalDistribution):
        return records.number(value) if isinstance(value, str) else value
    text = records.dumps(value)
    return next((choice for choice in distribution.choices if records.dumps(choice) == text), value)


def _date(trial: FrozenTrial, files: Files) -> None:
    """Give the trial the times of its files."""
    begun = [_time(files.dir.run_dir(claim.label) / "claim") for claim in files.dir.claims()[:1]]
    start = next((time for time in begun if time is not None), _time(files.dir.trial_json))
    trial.datetime_start = start or trial.datetime_start
    if trial.state.is_finished():
        trial.datetime_complete = _time(files.dir.result_json) or trial.datetime_complete


def _time(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime)
    except OSError:
        return None

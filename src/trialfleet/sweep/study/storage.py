"""The Optuna study: opening its storage, creating trials in it, telling it how they ended.

One driver writes, and one that was suspended and woken cannot write into a study that another took over: see
`journal` for the file in the study's folder and `fencing` for databases. Into a storage of the user's own that is
neither (a `_target_` of Optuna's, `JournalStorage` or `GrpcStorageProxy` say) a window remains: the lease is looked
at before each write, and a driver that is suspended between that look and the write's arrival still writes once
when it wakes.
"""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast
from uuid import uuid4

import optuna
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from trialfleet.compat.optuna import FIXED_PARAMS, backend_of, forget_trials, storage_of, study_id
from trialfleet.errors import UserError
from trialfleet.sweep.study import study_record
from trialfleet.sweep.study.databases import open_database
from trialfleet.sweep.study.fencing import TOKEN, Fence, database_of
from trialfleet.sweep.study.journal import OwnJournal, open_journal
from trialfleet.sweep.study.judged import JudgedStudy
from trialfleet.sweep.study.progress import FAILURE
from trialfleet.sweep.study.study_ahead import Ready
from trialfleet.sweep.study.trusted import trusted
from trialfleet.trial import secrets

JOURNAL = "optuna_journal.log"  # in the study's folder: its storage where the user names none
OWNER = "trialfleet:study"  # user attribute of our studies and trials: the study's uid
REQUEST = "trialfleet:request"  # user attribute of a trial that a person asked for: the request's id
RETRY_OF = "trialfleet:retry_of"  # and the number of the trial that it tries again, if it does
FOLDER = "trialfleet:folder"  # user attribute of our studies: the sweep folder that they belong to

_INTEGER = range(-(2**31), 2**31)  # the steps that a database's INTEGER holds
_ANY_STEP = range(-(2**63), 2**63)  # whatever metrics.jsonl holds

Direction = Literal["minimize", "maximize"]


def open_storage(storage: Any, journal: Path, lease_check: Callable[[], None]) -> BaseStorage:
    """The storage that `hydra.sweeper.storage` names; the journal in the study's folder if it names none.

    Args:
        storage: None, an Optuna URL, or an instantiated storage.
        journal: path of the default journal file.
        lease_check: raises if this driver may not write any more.

    Raises:
        UserError: the storage cannot be opened, or is damaged; then it is left as it is.
        LeaseLost: another driver took the study over.
        OSError: the journal's file system refuses; a full disk, say.
    """
    if storage is None:
        return open_journal(journal, lease_check)
    return storage if isinstance(storage, BaseStorage) else open_database(str(storage))


def close(storage: BaseStorage) -> None:
    """Give back the connections of a storage that is not used any more."""
    database = database_of(storage)
    if database is not None:
        database.remove_session()
        database.engine.dispose()


def described(storage: Any) -> str:
    """What `hydra.sweeper.storage` names, as it may be shown, recorded and compared: without passwords, whatever the
    folder that the command is typed in."""
    if storage is None:
        return "null"
    if isinstance(storage, str):
        file = storage.removeprefix("sqlite:///")
        relative = file != storage and file and not file.startswith((":", "/", "file:"))
        return secrets.masked(f"sqlite:///{Path(file).absolute()}" if relative else storage)
    if isinstance(storage, DictConfig | dict):
        plain = OmegaConf.to_container(storage, resolve=True) if isinstance(storage, DictConfig) else storage
        return secrets.masked(json.dumps(plain, sort_keys=True, default=str))
    return type(storage).__name__


@dataclass(frozen=True)
class Told:
    """How a trial's end is told to the study.

    Attributes:
        values: of the objectives; None unless COMPLETE.
        violations: by constraint, by how much it is missed; zero or less if it is kept.
        error: what went wrong, or None.
    """

    state: TrialState
    values: list[float] | None
    violations: dict[str, float]
    error: str | None


class StudyStorage:
    """One study in a storage: what the driver asks of it and tells it.

    Attributes:
        study: Optuna's.
        judged: the same, for pruners.
        results: that this driver has told.

    Args:
        lease_check: raises if this driver may not write any more; called before each write.
        token: tells this driver from any other, `Lease.token`; one of its own if None.
        shown: what to call the storage in messages.
        notice: tells the user what the storage cannot hold; a line of the log if None.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        directions: Sequence[str],
        lease_check: Callable[[], None],
        token: str | None = None,
        shown: str = "the study's storage",
        notice: Callable[[str], None] | None = None,
    ) -> None:
        """Opens the study, or creates it; `belong` takes it.

        Raises:
            UserError: the study is there with other directions.
        """
        self._lease_check = lease_check
        self.shown = shown
        self._notice = notice or logging.getLogger(__name__).warning
        self._steps = _steps_of(storage)
        self._told_of_steps = False
        self.results = 0
        self._count = 0  # trials that are known to be there
        self._ended = 0  # of these, the first ones, up to one that had not ended when it was last looked at
        if name in {study.study_name for study in storage.get_all_studies()}:
            self.study = optuna.load_study(study_name=name, storage=storage)
        else:
            wanted = cast(Sequence[Direction], list(directions))
            self.study = optuna.create_study(study_name=name, storage=storage, directions=wanted, load_if_exists=True)
        self.judged = JudgedStudy(self.study)
        backend, database = backend_of(storage), database_of(storage)
        self._journal = backend if isinstance(backend, OwnJournal) else None
        there = [direction.name.lower() for direction in self.study.directions]
        if there != list(directions):
            fix = "give hydra.sweeper.direction as it was, or another hydra.sweeper.study_name"
            if self.in_folder:
                fix += "; or if the folder's trials have these, make the study anew from them with "
                fix += "hydra.sweeper.study.rebuild=true"
            raise UserError(
                f"study {name!r} is there with direction {', '.join(there)}, not {', '.join(directions)}", fix
            )
        self._fence: Fence | None = None
        if database is not None:
            self._fence = Fence(database, study_id(self.study), token or uuid4().hex, lease_check)

    def check_lease(self) -> None:
        """Raises:
        LeaseLost: this driver may not write any more, neither here nor in the study's folder.
        """
        self._lease_check()

    def mend(self) -> None:
        """After a write that failed half-way (a full disk): drop the half, so that the study can be read."""
        if self._journal is not None:
            self._journal.mend()

    def grouped(self) -> AbstractContextManager[None]:
        """A block whose writes to the folder's journal are synced together: at its end, or by `sync`."""
        return nullcontext() if self._journal is None else self._journal.grouped()

    def sync(self) -> None:
        """Return when all that was written would survive a power cut. Databases see to that at each write."""
        if self._journal is not None:
            self._journal.sync()

    @property
    def in_folder(self) -> bool:
        """Whether the study is in a journal of its own, in its folder."""
        return self._journal is not None

    @property
    def storage(self) -> BaseStorage:
        return storage_of(self.study)

    def belong(self, uid: str, folder: Path) -> None:
        """Make the study the sweep folder's own and this driver's: no other that had it before can write any more.

        Raises:
            UserError: it belongs to another folder that is still there.
            LeaseLost: another driver took the study over.
        """
        attributes = self.study.user_attrs
        owner, other = attributes.get(OWNER), attributes.get(FOLDER)
        foreign = owner not in (None, uid) and other is not None and not study_record.same_folder(Path(other), folder)
        foreign = foreign and study_record.is_of(Path(str(other)), str(owner))
        if foreign and self._journal is None:  # the journal is in the folder: copied along with it, it is the copy's
            raise UserError(
                f"study {self.study.study_name!r} in this storage belongs to the sweep folder {other}",
                "resume it there (hydra.sweep.dir), or give another hydra.sweeper.study_name",
            )
        if self._fence is not None:
            self._fence.take()
        if owner != uid:
            self.study.set_user_attr(OWNER, uid)
        if other != str(folder):
            self.study.set_user_attr(FOLDER, str(folder))

    def trials(self) -> list[FrozenTrial]:
        """All trials in order of their number. Not copies: do not change them."""
        return self.study.get_trials(deepcopy=False)

    def id_of(self, trial: FrozenTrial) -> int:
        """The storage id of one of the study's trials."""
        return self.storage.get_trial_id_from_study_id_trial_number(study_id(self.study), trial.number)

    def create(
        self,
        uid: str,
        fixed_params: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> int:
        """A new RUNNING trial that bears our mark from its first moment on; its storage id.

        Args:
            fixed_params: values that the trial must take where its space has them.
            attributes: user attributes that it bears from then on, too.
        """
        self._lease_check()
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        for trial in waiting:  # enqueued with plain Optuna: these come first, as in Study.ask
            trial_id = self.id_of(trial)
            self.storage.set_trial_user_attr(trial_id, OWNER, uid)
            if self.storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                return trial_id
        system = {FIXED_PARAMS: dict(fixed_params)} if fixed_params else None
        marks = {OWNER: uid, **(attributes or {})}
        template = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=marks, system_attrs=system)
        return self.storage.create_new_trial(study_id(self.study), template_trial=template)

    def create_ready(self, ready: Ready) -> int:
        """The trial of a proposal that was made ahead, RUNNING and whole from its first moment on; its storage id.

        What its sampler noted of the study is stored first: if this is cut off in between, a point of a sequence may be
        left out, and none is used twice.
        """
        self._lease_check()
        known = self.storage.get_study_system_attrs(study_id(self.study))
        for key, value in ready.study_attrs.items():
            if key not in known or known[key] != value:
                self.storage.set_study_system_attr(study_id(self.study), key, value)
        one = ready.trial
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=one.params,
            distributions=one.distributions,
            user_attrs=one.user_attrs,
            system_attrs=one.system_attrs,
        )
        return self.storage.create_new_trial(study_id(self.study), template_trial=template)

    def next_number(self) -> int:
        """The number that the next trial of `create` gets."""
        trials = self.trials()
        while self._ended < len(trials) and trials[self._ended].state.is_finished():
            self._ended += 1  # and stays so: it is not looked at again
        open_trials = islice(trials, self._ended, None)
        return next((trial.number for trial in open_trials if trial.state is TrialState.WAITING), len(trials))

    def count(self) -> int:
        """Trials of the study. Those that are known already are not listed again."""
        self._count = self._count or len(self.trials())
        with contextlib.suppress(KeyError):
            while True:
                self.storage.get_trial_id_from_study_id_trial_number(study_id(self.study), self._count)
                self._count += 1
        return self._count

    def add(self, trial: FrozenTrial) -> int:
        """A trial as it is, with whatever it has already, behind the study's last one; its storage id.

        Reports that the storage cannot hold are left out.
        """
        self._lease_check()
        reports = trial.intermediate_values
        held = {step: value for step, value in reports.items() if self._holds(trial.number, step)}
        if len(held) < len(reports):
            trial = copy(trial)
            trial.intermediate_values = held
            if trial.state is TrialState.PRUNED:
                trial.values = values_when_pruned(held)
        self.judged.forget()
        return self.storage.create_new_trial(study_id(self.study), template_trial=trial)

    def trial(self, trial_id: int) -> Trial:
        """The live trial object, through which the sampler proposes. Uses the study's current sampler."""
        forget_trials(self.study)
        return Trial(self.study, trial_id)

    def frozen(self, trial_id: int) -> FrozenTrial:
        return self.storage.get_trial(trial_id)

    def report(self, trial_id: int, step: int, value: float) -> bool:
        """Store the objective's value at a step. The first value of a step stays.

        Returns:
            False if nothing was stored: there was one, or the storage cannot hold such a step.
        """
        if self._journal is None:  # of all writes the most frequent; the journal's lock checks the lease itself
            self._lease_check()
        there = self.storage.get_trial(trial_id)
        if step in there.intermediate_values or not self._holds(there.number, step):
            return False
        self.storage.set_trial_intermediate_value(trial_id, step, value)
        return True

    def _holds(self, number: int, step: int) -> bool:
        """Whether the storage can hold a report of this step; the first one that it cannot is told of."""
        if step in self._steps:
            return True
        if not self._told_of_steps:
            self._notice(
                f"trial {number} reports step {step}, and {self.shown} holds steps from {self._steps.start} to "
                f"{self._steps.stop - 1} only: reports of others stay in the trials' files and in MLflow, and "
                "the pruner does not see them"
            )
        self._told_of_steps = True
        return False

    def tell(self, trial_id: int, told: Told) -> None:
        """Tell the study how the trial ended. A trial that is told already stays as it is."""
        self._lease_check()
        there = self.storage.get_trial(trial_id)
        if there.state.is_finished():
            return
        if told.error is not None:
            self.storage.set_trial_user_attr(trial_id, FAILURE, told.error)
        for name, value in told.violations.items():
            if name not in there.constraints:  # it may have been set before an error cut this off
                self.trial(trial_id).set_constraint(name, value)
        try:
            self.study.tell(there.number, values=told.values, state=told.state, skip_if_finished=True)
        except RuntimeError as error:
            if "Study.stop" not in str(error):  # the grid sampler's way to end an optimize(); the trial is told
                raise
        finally:
            self.results += 1
            self.judged.forget()


def marks_of(trial: FrozenTrial) -> dict[str, Any]:
    """What trial.json says of the request by which a person asked for the trial."""
    return {"request": trial.user_attrs.get(REQUEST), "retry_of": trial.user_attrs.get(RETRY_OF)}


def values_when_pruned(reports: Mapping[int, float]) -> list[float] | None:
    """The values of a pruned trial: as `Study.tell` has it, its report at the last step, if that is a number."""
    last = reports[max(reports)] if reports else math.nan
    return None if math.isnan(last) else [last]


def _steps_of(storage: BaseStorage) -> range:
    """The steps that a storage can hold; of one that cannot be known, a server of Optuna's say, those of a database."""
    database = database_of(storage)
    sqlite = database is not None and database.engine.dialect.name == "sqlite"
    return _ANY_STEP if sqlite or isinstance(storage, JournalStorage | InMemoryStorage) else _INTEGER


def put_study_aside(storage: BaseStorage, name: str, aside_name: str) -> None:
    """Give a study another name: copy it whole, then delete the old one.

    Where a driver still writes the study, it cannot any more once this began. Whatever this died of, the same call
    finishes it, and does nothing if there is nothing left to do.

    Raises:
        UserError: there is another study of the new name.
    """
    names = [study.study_name for study in storage.get_all_studies()]
    if name not in names:
        return
    old = optuna.load_study(study_name=name, storage=storage)
    mark = str(old.user_attrs.get(TOKEN))
    if not mark.startswith(_ASIDE):
        mark = f"{_ASIDE}{uuid4().hex}"
        old.set_user_attr(TOKEN, mark)
    if aside_name in names:
        _delete_half_copy(storage, aside_name, mark)
    new = optuna.create_study(study_name=aside_name, storage=storage, directions=old.directions)
    new.set_user_attr(TOKEN, mark)  # first of all: it tells a half copy from anything else
    for key, value in storage.get_study_system_attrs(study_id(old)).items():
        storage.set_study_system_attr(study_id(new), key, value)
    for key, value in old.user_attrs.items():
        new.set_user_attr(key, value)
    for trial in old.get_trials(deepcopy=False):
        storage.create_new_trial(study_id(new), template_trial=trial)
    optuna.delete_study(study_name=name, storage=storage)


_ASIDE = "aside:"  # begins the token of a study that is being put aside


def _delete_half_copy(storage: BaseStorage, name: str, mark: str) -> None:
    copy = optuna.load_study(study_name=name, storage=storage)
    begun = not copy.user_attrs and not copy.get_trials(deepcopy=False)
    if not begun and copy.user_attrs.get(TOKEN) != mark:
        raise UserError(f"there is a study {name!r} in this storage already", "delete or rename that study first")
    optuna.delete_study(study_name=name, storage=storage)


def distribution_texts(distributions: Mapping[str, Any]) -> dict[str, str]:
    """Each parameter's distribution in Optuna's own JSON, as study.yaml records it."""
    return {name: optuna.distributions.distribution_to_json(value) for name, value in distributions.items()}


def instantiated(storage: Any) -> Any:
    """A storage given as `_target_` node, built; anything else as it is.

    Raises:
        UserError: it cannot be built.
    """
    if not (isinstance(storage, DictConfig | dict) and "_target_" in storage):
        return storage
    try:
        return instantiate(storage, _execution_whitelist_=trusted(storage))
    except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
        reason = secrets.masked(str(error.__cause__ or error).splitlines()[0])
        raise UserError(f"hydra.sweeper.storage: {reason}", "correct its settings") from error

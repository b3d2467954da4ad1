"""The Optuna study: opening its storage, creating trials in it, telling it how they ended.

One driver writes. Every write of ours first makes sure, inside the journal's own lock, that the lease is
still held, so that a driver that was suspended and woken cannot write into a study that another took over.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import optuna
from omegaconf import DictConfig
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._file import get_lock_file
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from trialfleet.errors import UserError
from trialfleet.tracking import secrets
from trialfleet.tracking.trial_dir import Result
from trialfleet.tracking.trial_dir import TrialState as Ended

OWNER = "trialfleet:study"  # user attribute of our studies and trials: the study's uid
FOLDER = "trialfleet:folder"  # user attribute of our studies: the sweep folder that they belong to
FAILURE = "trialfleet:error"  # user attribute of a failed trial: what went wrong

Direction = Literal["minimize", "maximize"]


def open_storage(storage: Any, journal: Path, lease_check: Callable[[], None]) -> BaseStorage:
    """The storage that `hydra.sweeper.storage` names; the journal in the study's folder if it names none.

    Args:
        storage: None, an Optuna URL, or an instantiated storage.
        journal: path of the default journal file.
        lease_check: raises if this driver may not write any more.

    Raises:
        UserError: the storage cannot be opened.
    """
    if storage is None:
        path = journal.absolute()  # with a relative path Optuna's lock hangs after a change of directory
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _LeasedLock(str(path), lease_check)
        with get_lock_file(lock):
            cut_torn_tail(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    if isinstance(storage, BaseStorage):
        return storage
    try:
        return optuna.storages.get_storage(str(storage))
    except (SQLAlchemyError, ValueError, ImportError, OSError) as error:
        reason = secrets.masked(str(getattr(error, "orig", None) or error).splitlines()[0])
        raise UserError(
            f"hydra.sweeper.storage={mask_password(storage)}: cannot be opened: {reason}",
            "check the URL and that its folder or server can be written, or leave the key out for a journal file",
        ) from None


LEFT_BEHIND = 3  # seconds after which a lock that nobody gave back is taken for that of a killed driver


class _LeasedLock(JournalFileOpenLock):
    """The journal's lock, which is only granted to the driver that holds the lease."""

    def __init__(self, path: str, lease_check: Callable[[], None]) -> None:
        super().__init__(path, grace_period=LEFT_BEHIND)
        self._lease_check = lease_check

    def acquire(self) -> bool:
        acquired = super().acquire()
        try:
            self._lease_check()
        except BaseException:
            self.release()
            raise
        return acquired


def cut_torn_tail(journal: Path) -> int:
    """Drop what follows the journal's last newline: the record that a killed driver did not finish.

    Without this the next append succeeds and every later opening of the study fails.

    Returns:
        the number of bytes cut.
    """
    if not journal.exists():
        return 0
    with open(journal, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        keep = size
        while keep > 0:
            start = max(0, keep - 65536)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < size:
            file.truncate(keep)
        return size - keep


def mask_password(storage: Any) -> str:
    """The storage's URL as it may be shown and recorded."""
    if not isinstance(storage, str):
        return "null" if storage is None else type(storage).__name__
    return secrets.masked(storage)


class StudyStore:
    """One study in a storage: what the driver asks of it and tells it.

    Args:
        lease_check: raises if this driver may not write any more; called before each write.
        journal: the journal's path if the storage is the one in the study's folder.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        directions: Sequence[str],
        lease_check: Callable[[], None],
        journal: Path | None = None,
    ) -> None:
        """Opens the study, or creates it.

        Raises:
            UserError: the study is there with other directions.
        """
        self._lease_check = lease_check
        self._journal = journal
        names = {study.study_name for study in storage.get_all_studies()}
        if name in names:
            self.study = optuna.load_study(study_name=name, storage=storage)
            there = [direction.name.lower() for direction in self.study.directions]
            if there != list(directions):
                raise UserError(
                    f"study {name!r} is there with direction {', '.join(there)}, not {', '.join(directions)}",
                    "give objective.direction as it was, or another hydra.sweeper.study_name",
                )
        else:
            self.study = optuna.create_study(
                study_name=name, storage=storage, directions=cast(Sequence[Direction], list(directions))
            )

    def check_lease(self) -> None:
        """Raises:
        LeaseLost: this driver may not write any more, neither here nor in the study's folder.
        """
        self._lease_check()

    def mend(self) -> None:
        """After a write that failed half-way (a full disk): drop the half, so that the study can be read."""
        if self._journal is not None:
            with get_lock_file(_LeasedLock(str(self._journal.absolute()), self._lease_check)):
                cut_torn_tail(self._journal)

    @property
    def storage(self) -> BaseStorage:
        return self.study._storage

    def belong(self, uid: str, folder: Path) -> None:
        """Make the study the sweep folder's own.

        Raises:
            UserError: it belongs to another folder that is still there.
        """
        attributes = self.study.user_attrs
        owner, other = attributes.get(OWNER), attributes.get(FOLDER)
        foreign = owner is not None and owner != uid and other is not None and Path(other).is_dir()
        if foreign and self._journal is None:  # the journal is in the folder: copied along with it, it is the copy's
            raise UserError(
                f"study {self.study.study_name!r} in this storage belongs to the sweep folder {other}",
                "resume it there (hydra.sweep.dir), or give another hydra.sweeper.study_name",
            )
        if owner != uid:
            self.study.set_user_attr(OWNER, uid)
        if other != str(folder):
            self.study.set_user_attr(FOLDER, str(folder))

    def trials(self) -> list[FrozenTrial]:
        """All trials in order of their number. Not copies: do not change them."""
        return self.storage.get_all_trials(self.study._study_id, deepcopy=False)

    def create(self, uid: str, fixed_params: Mapping[str, Any] | None = None) -> int:
        """A new RUNNING trial that bears our mark from its first moment on; its storage id.

        Args:
            fixed_params: values that the trial must take where its space has them.
        """
        self._lease_check()
        waiting = self.storage.get_all_trials(self.study._study_id, deepcopy=False, states=(TrialState.WAITING,))
        for trial in waiting:  # enqueued with plain Optuna: these come first, as in Study.ask
            self.storage.set_trial_user_attr(trial._trial_id, OWNER, uid)
            if self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return trial._trial_id
        system = {"fixed_params": dict(fixed_params)} if fixed_params else None
        template = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={OWNER: uid}, system_attrs=system)
        return self.storage.create_new_trial(self.study._study_id, template_trial=template)

    def trial(self, trial_id: int) -> Trial:
        """The live trial object, through which the sampler proposes. Uses the study's current sampler."""
        self.study._thread_local.cached_all_trials = None
        return Trial(self.study, trial_id)

    def frozen(self, trial_id: int) -> FrozenTrial:
        return self.storage.get_trial(trial_id)

    def report(self, trial_id: int, step: int, value: float) -> bool:
        """Store the objective's value at a step. The first value of a step stays. False if there was one."""
        if self._journal is None:  # of all writes the most frequent; the journal's lock checks the lease itself
            self._lease_check()
        if step in self.storage.get_trial(trial_id).intermediate_values:
            return False
        self.storage.set_trial_intermediate_value(trial_id, step, value)
        return True

    def tell(self, trial_id: int, result: Result, violations: Mapping[str, float] | None = None) -> None:
        """Tell the study how the trial ended. A trial that is told already stays as it is.

        Args:
            violations: by constraint, by how much it is missed; zero or less if it is kept.
        """
        self._lease_check()
        if self.storage.get_trial(trial_id).state.is_finished():
            return
        if result.error is not None:
            text = f"{result.error['type']}: {result.error['message']}"
            self.storage.set_trial_user_attr(trial_id, FAILURE, text[:2000])
        for name, value in (violations or {}).items():
            self.trial(trial_id).set_constraint(name, value)
        state = TrialState[result.state.value]
        values = list(result.objectives or []) if result.state is Ended.COMPLETE else None
        number = self.storage.get_trial(trial_id).number
        try:
            self.study.tell(number, values=values, state=state, skip_if_finished=True)
        except RuntimeError as error:
            if "Study.stop" not in str(error):  # the grid sampler's way to end an optimize(); the trial is told
                raise


def distribution_texts(distributions: Mapping[str, Any]) -> dict[str, str]:
    """Each parameter's distribution in Optuna's own JSON, as study.yaml records it."""
    return {name: optuna.distributions.distribution_to_json(value) for name, value in distributions.items()}


def instantiated(storage: Any) -> Any:
    """A storage given as `_target_` node, built; anything else as it is."""
    if not (isinstance(storage, DictConfig | dict) and "_target_" in storage):
        return storage
    from hydra.utils import instantiate

    return instantiate(storage, _execution_whitelist_=("optuna.storages.*",))

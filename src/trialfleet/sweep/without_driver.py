"""A study made to agree with its folder while nobody drives it: what ended meanwhile is told, or all is made anew.

It takes the lease, as a driver does. It submits nothing and follows no job: that needs the application's command.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import json_to_distribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from trialfleet.errors import UserError
from trialfleet.sweep.study import command, consistency, constraints, index, rebuild, study_record
from trialfleet.sweep.study.command import Command
from trialfleet.sweep.study.databases import would_be_made
from trialfleet.sweep.study.lease import Lease, slurm_job_ended
from trialfleet.sweep.study.progress import Finished, StudyProgress, write_results
from trialfleet.sweep.study.projection import Projector, read_files, told
from trialfleet.sweep.study.rebuild import IN_FOLDER, Rebuild
from trialfleet.sweep.study.search_space import quoted
from trialfleet.sweep.study.storage import JOURNAL, OWNER, StudyStorage, close, described, open_storage
from trialfleet.sweep.study.study_record import SPACE, StudyRecord
from trialfleet.sweep.sweeper_settings import defaults
from trialfleet.trial.directory import trial_dir

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Agreed:
    """How a study stands after it was made to agree with its folder.

    Attributes:
        told: trials whose results the study did not have.
        states: trials by state.
        under_way: trials that have begun and not ended; the next driver sees to them.
    """

    told: list[int]
    states: Mapping[str, int]
    under_way: list[int]


def reconcile(folder: Path, storage: str | None, notice: Notice) -> Agreed:
    """Tell the study what ended while nobody drove it, and put right where it differs from its folder.

    Args:
        folder: the study's.
        storage: its address, where study.yaml has none that can be used: one with a password.
        notice: tells the user what was found and done.

    Raises:
        UserError: it has a driver, its storage cannot be opened, or differs in a way that only its user can judge.
    """
    with held(folder, notice) as lease:
        study = Undriven.read(folder, storage, lease, notice)
        store = study.opened()
        try:
            return study.agree(store)
        finally:
            close(store.storage)


def make_anew(folder: Path, storage: str | None, notice: Notice) -> Agreed:
    """Make the study anew from its folder; the one that was there is kept under another name. See `reconcile`."""
    with held(folder, notice) as lease:
        study = Undriven.read(folder, storage, lease, notice)
        study.refuse_counted_points()
        store = study.made_anew()
        try:
            return study.agree(store)
        finally:
            close(store.storage)


@contextmanager
def held(folder: Path, notice: Notice) -> Iterator[Lease]:
    """The lease of the study in `folder`, for the length of a block.

    Raises:
        UserError: the study has a driver.
    """
    times = defaults()["lease"]
    lease = Lease(folder / "driver.lock", times["stale_after"], times["beat"], slurm_job_ended)
    lease.acquire(notice)
    try:
        yield lease
    finally:
        lease.release()


@dataclass
class Undriven:
    """A study that this process may write for a while.

    Attributes:
        address: of its storage; None for the journal in its folder.
        told: what its last driver was told.
    """

    folder: Path
    record: StudyRecord
    address: str | None
    told: Command
    lease: Lease
    notice: Notice
    projector: Projector = field(init=False)

    def __post_init__(self) -> None:
        known = self.record.identity.items()
        self.projector = Projector(
            self.record.uid,
            {key.removeprefix(SPACE): json_to_distribution(text) for key, text in known if key.startswith(SPACE)},
            self.told.reports,
            self.told.takes_constraints,
            constraints.parse(self.told.constraints),
        )

    @classmethod
    def read(cls, folder: Path, storage: str | None, lease: Lease, notice: Notice) -> "Undriven":
        """Raises:
        UserError: the folder does not say enough to write the study without its command.
        """
        record, told_to_driver = study_record.read(folder / "study.yaml"), command.read(folder)
        if record is None or told_to_driver is None:
            raise UserError(
                f"{folder / command.NAME}: is missing: an earlier version began this study, or somebody deleted it",
                "resume the study with its own command, which does all of this",
            )
        if rebuild.is_begun(folder):
            notice("the study was being made anew from its folder when that died: the same is to be done again")
        record = study_record.at_home(record, folder)
        return cls(folder, record, address_of(record, storage), told_to_driver, lease, notice)

    # ---------------------------------------------------------------- the storage

    def opened(self) -> StudyStorage:
        """The study in its storage, taken; made anew if it was being made anew, or is one that only the files know."""
        if rebuild.is_begun(self.folder):
            return self.made_anew()
        store = self._open_study()
        consistency.refuse_empty(store, self.folder, self.record.uids)
        store.belong(self.record.uid, self.folder)
        found = self._compared(store)
        if (found.missing or found.differing) and not consistency.put_right(store, found, self.projector, self.notice):
            self.refuse_counted_points()
            return self.made_anew()
        return store

    def made_anew(self) -> StudyStorage:
        recorded = self.record.storage
        store = Rebuild(
            folder=self.folder,
            name=self.record.name,
            uids=self.record.uids,
            recorded=recorded,
            in_folder=self.address is None,
            open_recorded=lambda address: self._open() if address == recorded else None,
            open_storage=self._open,
            open_study=self._open_study,
            lease_check=self.lease.check,
            projector=self.projector,
            notice=self.notice,
        ).run()
        study_record.write(self.folder / "study.yaml", self.record)
        rebuild.end(self.folder)
        return store

    def refuse_counted_points(self) -> None:
        """A sampler that counts its points in the study has to be there when the study is made anew.

        Raises:
            UserError: the study has such a one.
        """
        if self.told.sampler.endswith("QMCSampler"):
            raise UserError(
                f"study {self.record.name!r} is sampled by {self.told.sampler}, which counts its points in the study",
                "make it anew by its own command, with hydra.sweeper.study.rebuild=true",
            )

    def _open(self) -> BaseStorage:
        return open_storage(self.address, self.folder / JOURNAL, self.lease.check)

    def _open_study(self) -> StudyStorage:
        shown = self.record.storage if self.address is not None else str(self.folder / JOURNAL)
        directions = str(self.record.identity["direction"]).split(",")
        check, token = self.lease.check, self.lease.token
        return StudyStorage(self._open(), self.record.name, directions, check, token, shown, self.notice)

    def _compared(self, store: StudyStorage) -> consistency.Found:
        return consistency.compare(store, self.folder, self.record.uids, self._overrides, self.notice)

    def _overrides(self, params: Mapping[str, Any]) -> list[str]:
        return [*self.told.fixed, *(f"{name}={quoted(name, value)}" for name, value in params.items())]

    # ---------------------------------------------------------------- what it is told

    def agree(self, store: StudyStorage) -> Agreed:
        """Tell what ended, and write what is made from the study: the results, the index."""
        ours = [trial for trial in store.trials() if trial.user_attrs.get(OWNER) in self.record.uids]
        begun = [trial for trial in ours if trial.state is TrialState.RUNNING]
        ended = [trial.number for trial in begun if self._tell(store, trial)]
        study_record.write(self.folder / "study.yaml", self.record)
        progress = StudyProgress(self.told.directions)
        states: Counter[str] = Counter()
        for trial in store.trials():
            if trial.user_attrs.get(OWNER) in self.record.uids:
                states[trial.state.name] += 1
                if trial.state.is_finished():
                    progress.add(Finished.of(trial, None))
        write_results(self.folder / "optimization_results.yaml", progress)
        writer = index.IndexWriter(self.folder, self.record.uids, list(self.told.constraints))
        writer.open()
        writer.close()
        return Agreed(ended, states, [trial.number for trial in begun if trial.number not in ended])

    def _tell(self, store: StudyStorage, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether the trial has ended; if so the study is told."""
        directory = trial_dir(self.folder, trial.number)
        files = read_files(directory, trial.number, self.record.uids, trial.params)
        if files.record is None or files.result is None:
            return False
        latest, reports = self.projector.metrics_of(files)
        trial_id = store.id_of(trial)
        for step, value in reports.items():
            store.report(trial_id, step, value)
        complete = files.result.objectives is not None
        missed = {one.metric: one.violation(latest) for one in self.projector.constraints} if complete else {}
        store.tell(trial_id, told(files.result, self.told.takes_constraints, missed))
        return True


def address_of(record: StudyRecord, given: str | None) -> str | None:
    """What to open: the storage that study.yaml names, unless its password is needed, or it is no address.

    Raises:
        UserError: it cannot be opened without being told more.
    """
    if given is not None:
        study_record.check_storage(record, described(given), allowed=False)
        return given
    recorded = record.storage
    if recorded == IN_FOLDER:
        return None
    if "***" in recorded:
        raise UserError(f"{recorded}: study.yaml records no password", "give the whole address: --storage URL")
    if recorded.startswith("{") or "://" not in recorded:
        raise UserError(
            f"study {record.name!r} is in a storage of its user's own ({recorded}), which its command alone can build",
            "resume the study with its own command, which does all of this",
        )
    if would_be_made(recorded):
        raise UserError(f"{recorded}: is not there", "restore it, or make the study anew elsewhere by its own command")
    return recorded

"""A study made anew from its folder.

The study that was there before is put aside, and read for what the files do not say: trials that have no files,
and what samplers keep in the study for themselves. `.rebuild.json` in the folder tells, from before the first
change to after the last one, that a rebuild has begun and how the old study is called now. A driver that dies in
between leaves it there, and the next one does all of it again, from the same old study.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from trialfleet.compat.optuna import study_id
from trialfleet.errors import UserError
from trialfleet.sweep.study.fencing import TOKEN
from trialfleet.sweep.study.journal import open_journal
from trialfleet.sweep.study.projection import Projector, placeholder, read_files
from trialfleet.sweep.study.storage import (
    FAILURE,
    FOLDER,
    JOURNAL,
    OWNER,
    StudyStorage,
    close,
    put_study_aside,
    values_when_pruned,
)
from trialfleet.trial import records
from trialfleet.trial.directory import trial_dir, trial_numbers
from trialfleet.trial.records import Damaged

MADE_FROM = "trialfleet:made_from"  # user attribute of a study made anew: what the one before it is called now
MAX_GAP = 10_000  # numbers of other people's trials, in a shared storage, between two of ours

_OURS = (OWNER, FOLDER, TOKEN, MADE_FROM)  # user attributes of a study that say whose it is now

Notice = Callable[[str], None]


@dataclass(frozen=True)
class OldStudy:
    """A study before it was made anew, as far as it can be read."""

    trials: Sequence[FrozenTrial] = ()
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    system_attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rebuild:
    """How to make one study anew.

    Attributes:
        folder: of the study.
        name: of the study in its storage.
        uids: of the study: the present one, and those that it had before.
        in_folder: whether the study is in the journal in its folder.
        open_storage: opens the storage that the study is to be in.
        open_study: opens the study there, or creates it.
        lease_check: raises if this driver may not write any more.
    """

    folder: Path
    name: str
    uids: Sequence[str]
    in_folder: bool
    open_storage: Callable[[], BaseStorage]
    open_study: Callable[[], StudyStorage]
    lease_check: Callable[[], None]
    projector: Projector
    notice: Notice

    def run(self) -> StudyStorage:
        """Put aside what there is, and fill a new study.

        The order is important: what is to be done is on the disk first, and the new study bears its mark before
        anything else, so that a rebuild which is done again can tell it from the old one.
        """
        stamp = _begin(self.folder, self.notice)
        aside = f"{self.name}.before-{stamp}"
        old = OldStudy() if self.in_folder else self._put_aside_in_storage(aside)
        if not old.trials:  # also if the study moves from its folder to a database
            old = self._put_journal_aside(self.folder / f"{JOURNAL}.before-{stamp}")
        store = self.open_study()
        store.study.set_user_attr(MADE_FROM, aside)
        store.belong(self.uids[0], self.folder)
        self._fill(store, old)
        _note(self.folder).unlink()
        return store

    # ---------------------------------------------------------------- put the old study aside

    def _put_journal_aside(self, aside: Path) -> OldStudy:
        journal = self.folder / JOURNAL
        if aside.exists():
            if self.in_folder:
                journal.unlink(missing_ok=True)  # what an earlier driver had made of the new one
        elif journal.exists():
            journal.rename(aside)
            self.notice(f"{journal}: what was there is kept as {aside.name}")
        else:
            return OldStudy()
        try:
            return _read(open_journal(aside, self.lease_check), self.name)
        except UserError as damage:
            self.notice(f"{damage.message}: the study is made anew without it")
            return OldStudy()

    def _put_aside_in_storage(self, aside: str) -> OldStudy:
        """Raises:
        UserError: the study in the storage belongs to another folder.
        """
        storage = self.open_storage()
        names = {study.study_name for study in storage.get_all_studies()}
        if self.name in names:
            there = optuna.load_study(study_name=self.name, storage=storage)
            blank = not there.user_attrs and not there.get_trials(deepcopy=False)
            if there.user_attrs.get(MADE_FROM) == aside:  # what an earlier driver had made of the new one
                self.lease_check()
                optuna.delete_study(study_name=self.name, storage=storage)
            elif not blank:
                self._take()
                if aside in names:  # half of a copy: the study itself is deleted last
                    optuna.delete_study(study_name=aside, storage=storage)
                put_study_aside(storage, self.name, aside)
                self.notice(f"the study that was in the storage is kept as {aside!r}")
        old = _read(storage, aside)
        close(storage)
        return old

    def _take(self) -> None:
        """Make the study in the storage this driver's, so that no other one writes it any more."""
        store = self.open_study()
        store.belong(self.uids[0], self.folder)
        close(store.storage)

    # ---------------------------------------------------------------- fill the new one

    def _fill(self, store: StudyStorage, old: OldStudy) -> None:
        self.lease_check()
        study = store.study
        for key, value in old.system_attrs.items():
            store.storage.set_study_system_attr(study_id(study), key, value)
        for key, value in old.user_attrs.items():
            if key not in _OURS:
                study.set_user_attr(key, value)
        counts = {"from their files": 0, "from the study as it was": 0, "of which nothing is known": 0}
        for kind, trial in self._trials(old.trials):
            store.add(trial)
            counts[kind] += 1
        found = ", ".join(f"{count} trials {kind}" for kind, count in counts.items() if count)
        self.notice(f"the study was made anew: {found}")

    def _trials(self, old: Sequence[FrozenTrial]) -> Iterator[tuple[str, FrozenTrial]]:
        """Each number's trial: its files are the truth, then what the study said, then a gap that keeps the number.

        Raises:
            UserError: there is a folder whose number cannot be one of the study's.
        """
        folder = self.folder
        numbers = [number for number in trial_numbers(folder) if trial_dir(folder, number).is_taken()]
        if numbers and numbers[-1] > len(old) + len(numbers) + MAX_GAP:
            raise UserError(
                f"{trial_dir(folder, numbers[-1]).path}: its number is far beyond the study's {len(numbers)} trials",
                "move that folder elsewhere if it is none of the study's",
            )
        for number in range(max([len(old), *(one + 1 for one in numbers)], default=0)):
            files = read_files(trial_dir(folder, number), number, self.uids)
            for damage in files.damage:
                aside = records.set_aside(damage.path)
                self.notice(f"{damage}: renamed to {aside.name}")
            if files.record is not None:
                trial = self.projector.trial(files)
                yield "from their files", _with_what_was_known(trial, old[number]) if number < len(old) else trial
            elif number < len(old):
                yield "from the study as it was", old[number]
            else:
                lost = files.dir.is_taken()
                reason = (
                    "Damaged: its trial.json was lost" if lost else "Unknown: the study that had this trial is lost"
                )
                yield "of which nothing is known", placeholder(reason, self.uids[0] if lost else None)


def is_begun(folder: Path) -> bool:
    """Whether a rebuild was begun and not finished."""
    return _note(folder).exists()


def _note(folder: Path) -> Path:
    return folder / ".rebuild.json"


def _begin(folder: Path, notice: Notice) -> str:
    """Note that the study is being made anew.

    Returns:
        what the names of the old study, and of its journal, end in: as it was noted first.
    """
    stamp = f"{datetime.now():%Y%m%d-%H%M%S-%f}"
    records.create(_note(folder), {"aside": stamp})
    try:
        noted = records.read(_note(folder))
    except Damaged as damage:
        notice(f"{damage}: renamed to {records.set_aside(damage.path).name}; the rebuild begins anew")
        return _begin(folder, notice)
    if noted is None:  # a power cut left nothing of it
        records.write(_note(folder), {"aside": stamp})
        return stamp
    return str(noted["aside"])


def _read(storage: BaseStorage, name: str) -> OldStudy:
    """The study of this name; an empty one if there is none."""
    if name not in {study.study_name for study in storage.get_all_studies()}:
        return OldStudy()
    study = optuna.load_study(study_name=name, storage=storage)
    system_attrs = storage.get_study_system_attrs(study_id(study))
    return OldStudy(study.get_trials(deepcopy=False), study.user_attrs, system_attrs)


def _with_what_was_known(trial: FrozenTrial, old: FrozenTrial) -> FrozenTrial:
    """A trial made from its files, with what samplers and users had noted of it in the study, and its reports there.

    Both are the same trial if they have the same parameters.
    """
    if records.digest(trial.params) == records.digest(old.params):
        noted = {key: value for key, value in old.user_attrs.items() if key not in (OWNER, FAILURE)}
        trial.user_attrs = {**noted, **trial.user_attrs}
        trial.system_attrs = {**old.system_attrs, **trial.system_attrs}
        if not trial.intermediate_values and trial.state is old.state:  # without a pruner its files are not asked
            trial.intermediate_values = dict(old.intermediate_values)
            if trial.state is TrialState.PRUNED:
                trial.values = values_when_pruned(old.intermediate_values)
    return trial

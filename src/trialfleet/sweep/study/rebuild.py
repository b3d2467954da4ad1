"""A study made anew from its folder.

The study that was there before is put aside, and read for what the files do not say: trials that have no files,
and what samplers keep in the study for themselves. It is in the storage that study.yaml names, wherever the new one
is to be; what else has the study's name there was left behind when the study moved. `.rebuild.json` in the folder
tells, from before the first change to after the last one, that a rebuild has begun, where the old study is and how it
is called now. A driver that dies in between leaves it there, and the next one does all of it again, from the same old
study.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from trialfleet.sweep.study.progress import FAILURE
from trialfleet.sweep.study.projection import Projector, placeholder, read_files
from trialfleet.sweep.study.storage import (
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

IN_FOLDER = "null"  # the storage that study.yaml names where the study is in the journal in its folder
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
        recorded: the storage that study.yaml names, where the study is that is made anew.
        in_folder: whether it is to be in the journal in its folder.
        open_recorded: opens the storage that was recorded, given as text; None if there is no such thing any more.
        open_storage: opens the storage that the study is to be in.
        open_study: opens the study there, or creates it.
        lease_check: raises if this driver may not write any more.
    """

    folder: Path
    name: str
    uids: Sequence[str]
    recorded: str
    in_folder: bool
    open_recorded: Callable[[str], BaseStorage | None]
    open_storage: Callable[[], BaseStorage]
    open_study: Callable[[], StudyStorage]
    lease_check: Callable[[], None]
    projector: Projector
    notice: Notice

    def run(self) -> StudyStorage:
        """Put aside what there is, and fill a new study. The caller ends it with `end` once study.yaml names it.

        The order is important. What can be refused is refused first. Then what is to be done is on the disk before
        anything is changed, and the new study bears its mark before anything else, so that a rebuild which is done
        again can tell it from the old one.
        """
        if not self.in_folder:
            self._take()
        begun = _noted(self.folder, self.recorded, self.notice)
        move = begun or _Move(f"{datetime.now():%Y%m%d-%H%M%S-%f}", self.recorded)
        aside = f"{self.name}.before-{move.aside}"
        old = self._old(move, aside)
        self._check_numbers(len(old.trials))
        _begin(self.folder, move)
        self._put_journal_aside(move)
        if not self.in_folder:
            self._put_aside_in_storage(aside)
        store = self.open_study()
        store.study.set_user_attr(MADE_FROM, aside)
        store.belong(self.uids[0], self.folder)
        self._fill(store, old)
        return store

    def _take(self) -> None:
        """Make the study in the new storage this driver's, if there is one, so that no other one writes it any more.

        Raises:
            UserError: it belongs to another folder.
        """
        storage = self.open_storage()
        there = _loaded(storage, self.name)
        close(storage)
        if there is not None:
            store = self.open_study()
            store.belong(self.uids[0], self.folder)
            close(store.storage)

    # ---------------------------------------------------------------- read the old study

    def _old(self, move: "_Move", aside: str) -> OldStudy:
        """The study before it was made anew, by whatever name it has now; empty if it cannot be read."""
        try:
            if move.old == IN_FOLDER:
                journals = (self._journal_aside(move), self.folder / JOURNAL)
                journal = next((path for path in journals if path.exists()), None)
                if journal is None:
                    return OldStudy()
                return _read(open_journal(journal, self.lease_check), self.name, aside)
            storage = self.open_recorded(move.old)
            if storage is None:
                return OldStudy()
            old = _read(storage, self.name, aside)
            close(storage)
            # Another one's is that of the folder from which this one was copied.
            return old if old.user_attrs.get(OWNER) in (None, self.uids[0]) else OldStudy()
        except UserError as damage:
            self.notice(f"{damage.message}: the study is made anew without it")
            return OldStudy()

    def _journal_aside(self, move: "_Move") -> Path:
        return self.folder / f"{JOURNAL}.before-{move.aside}"

    def _check_numbers(self, count: int) -> None:
        """Raises:
        UserError: there is a folder whose number cannot be one of the study's.
        """
        numbers = self._numbers()
        if numbers and numbers[-1] > count + len(numbers) + MAX_GAP:
            raise UserError(
                f"{trial_dir(self.folder, numbers[-1]).path}: its number is far beyond the study's {len(numbers)} "
                "trials",
                "move that folder elsewhere if it is none of the study's",
            )

    def _numbers(self) -> list[int]:
        return [number for number in trial_numbers(self.folder) if trial_dir(self.folder, number).is_taken()]

    # ---------------------------------------------------------------- put aside what there is

    def _put_journal_aside(self, move: "_Move") -> None:
        """Rename the journal in the folder if the study was in it, or is to be."""
        journal, aside = self.folder / JOURNAL, self._journal_aside(move)
        if not journal.exists() or not (move.old == IN_FOLDER or self.in_folder):
            return
        if not aside.exists():
            journal.rename(aside)
            self.notice(f"{journal}: what was there is kept as {aside.name}")
        elif self.in_folder:
            journal.unlink()  # what an earlier driver had made of the new one

    def _put_aside_in_storage(self, aside: str) -> None:
        storage = self.open_storage()
        there = _loaded(storage, self.name)
        if (
            there is not None and there.user_attrs.get(MADE_FROM) == aside
        ):  # what an earlier driver had made of the new one
            self.lease_check()
            optuna.delete_study(study_name=self.name, storage=storage)
        elif there is not None:
            if aside in _names(storage):  # half of a copy: the study itself is deleted last
                optuna.delete_study(study_name=aside, storage=storage)
            put_study_aside(storage, self.name, aside)
            self.notice(f"the study that was in the storage is kept as {aside!r}")
        close(storage)

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
        """Each number's trial: its files are the truth, then what the study said, then a gap that keeps the number."""
        folder = self.folder
        for number in range(max([len(old), *(one + 1 for one in self._numbers())], default=0)):
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


# -------------------------------------------------------------------- what is noted in the folder


@dataclass(frozen=True)
class _Move:
    """A rebuild that was begun.

    Attributes:
        aside: what the names of the old study, and of its journal, end in.
        old: the storage that the study was in, as study.yaml had it: that may name the new one already.
    """

    aside: str
    old: str


def is_begun(folder: Path) -> bool:
    """Whether a rebuild was begun and not finished."""
    return _note(folder).exists()


def end(folder: Path) -> None:
    """A rebuild is finished: the new study is whole, and study.yaml names it."""
    _note(folder).unlink(missing_ok=True)


def _note(folder: Path) -> Path:
    return folder / ".rebuild.json"


def _begin(folder: Path, move: _Move) -> None:
    """Note that the study is being made anew."""
    records.write(_note(folder), asdict(move))


def _noted(folder: Path, recorded: str, notice: Notice) -> _Move | None:
    """The rebuild that was begun; None if there is none, or nothing is left of its note.

    Args:
        recorded: the storage that study.yaml names; an earlier version noted none.
    """
    try:
        noted = records.read(_note(folder))
    except Damaged as damage:
        notice(f"{damage}: renamed to {records.set_aside(damage.path).name}; the rebuild begins anew")
        return None
    if noted is None or not isinstance(noted.get("aside"), str):
        return None
    return _Move(noted["aside"], str(noted.get("old", recorded)))


# -------------------------------------------------------------------- studies in a storage


def _names(storage: BaseStorage) -> set[str]:
    return {study.study_name for study in storage.get_all_studies()}


def _loaded(storage: BaseStorage, name: str) -> optuna.Study | None:
    """The study of this name; None if there is none, or nothing in it yet."""
    if name not in _names(storage):
        return None
    study = optuna.load_study(study_name=name, storage=storage)
    return study if study.user_attrs or study.get_trials(deepcopy=False) else None


def _read(storage: BaseStorage, name: str, aside: str) -> OldStudy:
    """The old study, by its own name or by the one under which it was put aside; an empty one if there is none."""
    study = _loaded(storage, name)
    if study is None or study.user_attrs.get(MADE_FROM) == aside:  # that is what was made of the new one
        study = _loaded(storage, aside)
    if study is None:
        return OldStudy()
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

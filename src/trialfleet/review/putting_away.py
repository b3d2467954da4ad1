"""A study archived, or deleted: what is touched is said before, and nothing is while a driver is at work."""

import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from trialfleet.errors import UserError
from trialfleet.review.studies import Study, under_way
from trialfleet.sweep.study.study_record import archive_of
from trialfleet.trial.records import sync_path

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Touched:
    """What putting a study away does, a sentence each.

    Attributes:
        folder: to its folder.
        storage: to the Optuna study.
        tracking: to what is in MLflow.
        jobs: to jobs that may run; empty if there can be none.
    """

    folder: str
    storage: str
    tracking: str
    jobs: str

    def lines(self) -> list[str]:
        return [line for line in (self.folder, self.storage, self.tracking, self.jobs) if line]


def archive_path(study: Study, target: Path | None) -> Path:
    """Where an archive goes: beside the folder, unless a file or a folder is named.

    Raises:
        UserError: there is such a file already.
    """
    path = archive_of(study.folder) if target is None else target.expanduser()
    if path.is_dir():
        path = path / archive_of(study.folder).name
    if path.exists():
        raise UserError(f"{path}: is there already", "name another file with --to, or move that one away")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: is no folder", "make it, or name another one with --to")
    return path


def touched_by_archive(study: Study, path: Path) -> Touched:
    return Touched(
        f"folder: {study.folder} is packed into {path} and removed; unpacked there again, it goes on as before",
        _storage(study, "is in its folder, and goes along", "stays in {}"),
        _tracking(study),
        _jobs(study),
    )


def touched_by_delete(study: Study) -> Touched:
    return Touched(
        f"folder: {study.folder} is deleted, with {len(study.rows)} trials, their checkpoints and logs",
        _storage(study, "is in its folder, and goes along", "is deleted from {}"),
        _tracking(study),
        _jobs(study),
    )


def _storage(study: Study, here: str, elsewhere: str) -> str:
    recorded = study.record.storage
    return f"storage: the Optuna study {here if recorded == 'null' else elsewhere.format(recorded)}"


def _tracking(study: Study) -> str:
    told = study.command
    if told is None or not told.tracking:
        return "MLflow: is not touched"
    return (
        f"MLflow: its runs stay in {told.tracking['uri']}, experiment {told.tracking['experiment']}, "
        f"with the tag trialfleet.study_uid={study.record.uid}"
    )


def _jobs(study: Study) -> str:
    left = under_way(study)
    if not left:
        return ""
    begun = "1 trial has" if len(left) == 1 else f"{len(left)} trials have"
    return f"jobs: {begun} begun and not ended; a job that still runs loses its folder"


def archive(study: Study, path: Path, notice: Notice) -> None:
    """Pack the study's folder into a file, look whether all of it is in there, and remove the folder.

    Raises:
        UserError: the study has a driver.
    """
    from trialfleet.sweep.without_driver import held

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with held(study.folder, notice):
            with tarfile.open(temporary, "w:gz") as packed:
                packed.add(study.folder, study.folder.name, filter=_but_the_lease)
            with tarfile.open(temporary) as packed:
                names = set(packed.getnames())
            missing = [one for one in _files(study.folder) if one not in names]
            if missing:
                raise UserError(
                    f"{study.folder / missing[0]}: came while the study was packed, which so is left as it is",
                    "end the jobs that still write there, and archive it again",
                )
            sync_path(temporary)
            temporary.rename(path)
            _remove(study.folder)
    finally:
        temporary.unlink(missing_ok=True)


def _but_the_lease(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "/driver.lock/" in entry.name else entry


def _files(folder: Path) -> list[str]:
    """Everything in a folder, by its names in the archive, without what the lease has there."""
    found = []
    for place, _, names in os.walk(folder):
        if Path(place).name != "driver.lock":
            inside = Path(place).relative_to(folder.parent)
            found += [str(inside / name) for name in names]
    return found


def delete(study: Study, storage: str | None, notice: Notice) -> None:
    """Delete the study's folder, and the Optuna study where that is in a storage elsewhere.

    Args:
        storage: its address, where study.yaml has none that can be used: one with a password.

    Raises:
        UserError: the study has a driver, or its storage cannot be opened; then nothing is deleted.
    """
    from trialfleet.sweep.without_driver import held

    with held(study.folder, notice):
        if study.record.storage != "null":
            _delete_from_storage(study, storage)
        _remove(study.folder)


def _delete_from_storage(study: Study, given: str | None) -> None:
    import optuna

    from trialfleet.sweep.study.storage import JOURNAL, OWNER, close, open_storage
    from trialfleet.sweep.without_driver import address_of

    storage = open_storage(address_of(study.record, given), study.folder / JOURNAL, lambda: None)
    try:
        names = [one.study_name for one in storage.get_all_studies()]
        if study.name in names:
            there = optuna.load_study(study_name=study.name, storage=storage)
            if there.user_attrs.get(OWNER) in study.record.uids:  # else it is another folder's
                optuna.delete_study(study_name=study.name, storage=storage)
    finally:
        close(storage)


def _remove(folder: Path) -> None:
    """Take a folder's name away first, so that what a killed removal leaves is no study any more."""
    aside = folder.with_name(f".{folder.name}.removed-{datetime.now():%Y%m%d-%H%M%S-%f}")
    folder.rename(aside)
    shutil.rmtree(aside)

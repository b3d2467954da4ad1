"""A study put aside for a fresh one: its folder, and what its storage has of it.

Two places cannot be changed at once. So a file beside the folder says what is to be done before it is begun, and
whichever command comes next finishes what one that died left half done.
"""

import contextlib
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from optuna.storages import BaseStorage

from trialfleet.errors import UserError
from trialfleet.sweep.study.storage import FOLDER, JOURNAL, OWNER, put_study_aside
from trialfleet.trial import records
from trialfleet.trial.records import Damaged


@dataclass(frozen=True)
class _Move:
    """What is to be done.

    Attributes:
        folder: the new name of the study's folder, beside the old one; empty if there is no study in it.
        study: the study's name in its storage.
        study_aside: the name that it gets there.
    """

    folder: str
    study: str
    study_aside: str


def begin(folder: Path, study: str) -> None:
    """Decide to put the study aside; `finish` does it. The caller holds the folder's lease, if there is a folder.

    Raises:
        UserError: the folder is in use by more than the study.
    """
    if not folder.exists() and _note(folder).exists():
        return
    if holds_study(folder) and Path.cwd().resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"hydra.sweeper.study.fresh: {folder} would be renamed, and this command is run inside of it",
            "run it from another folder, or delete the study's files there",
        )
    now = datetime.now()
    stamp = f"{now:%Y%m%d-%H%M%S}"
    name = f"{folder.name}.before-{stamp}"
    taken = len(list(folder.parent.glob(f"{name}*")))
    aside = (f"{name}-{taken}" if taken else name) if holds_study(folder) else ""
    records.create(_note(folder), asdict(_Move(aside, study, f"{study}.before-{stamp}-{now:%f}")))


def holds_study(folder: Path) -> bool:
    """Whether there is a study in the folder, or what is left of one; else what lies there is somebody's own."""
    return any((folder / name).exists() for name in ("study.yaml", JOURNAL, "trials", ".submitit"))


def is_begun(folder: Path) -> bool:
    """Whether a fresh start was decided and not finished."""
    return _note(folder).exists()


def finish(folder: Path, storage: BaseStorage | None) -> str | None:
    """Put aside what is not yet; does nothing if none was begun. The caller holds the lease, as for `begin`.

    Args:
        storage: where the study is, if not in its folder.

    Returns:
        the name that the folder has now; None if there was nothing to do.

    Raises:
        UserError: the study in the storage belongs to another folder.
    """
    move = _read(folder)
    if move is None:
        return None
    if storage is not None:
        _make_sure_it_is_ours(storage, move.study, folder)
        put_study_aside(storage, move.study, move.study_aside)
    # If there is one aside already, what is here now came later: a job of the old study wrote it.
    aside = folder.with_name(move.folder) if move.folder else None
    if (
        aside is not None and folder.exists() and not aside.exists()
    ):  # else what is there now came later: a job of the old study wrote it
        folder.rename(aside)
    _note(folder).unlink(missing_ok=True)
    return move.folder or None


def _make_sure_it_is_ours(storage: BaseStorage, name: str, folder: Path) -> None:
    """Raises:
    UserError: the study of this name belongs to another folder, which is still there.
    """
    from trialfleet.sweep.study import study_record

    with contextlib.suppress(KeyError):  # there is none
        study = storage.get_study_id_from_name(name)
        attributes = storage.get_study_user_attrs(study)
        owner, other = attributes.get(OWNER), attributes.get(FOLDER)
        if not owner or not other or study_record.same_folder(Path(other), folder):
            return
        if study_record.is_of(Path(other), owner):
            raise UserError(
                f"study {name!r} in this storage belongs to the sweep folder {other}",
                "start it anew there (hydra.sweep.dir), or give another hydra.sweeper.study_name",
            )


def _note(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.fresh.json")


def _read(folder: Path) -> _Move | None:
    try:
        record = records.read(_note(folder))
        return None if record is None else _Move(**record)
    except (Damaged, TypeError) as damage:
        raise UserError(
            f"{_note(folder)}: says no more which study was to be put aside ({damage})",
            f"look whether {folder} is the old study, rename it if it is, and delete that file",
        ) from None

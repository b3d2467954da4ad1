"""Whether `hydra.sweeper.storage` opens. A study that is there is only read."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trialfleet.doctor import databases
from trialfleet.doctor.asked import Asked
from trialfleet.doctor.findings import Finding, fail, note, ok
from trialfleet.doctor.folders import PREFIX
from trialfleet.trial import secrets

_NAME = "storage"
_KEY = "hydra.sweeper.storage"


def look(asked: Asked) -> Iterator[Finding]:
    if asked.storage is None:
        yield from _journal(asked)
    elif not isinstance(asked.storage, str):
        target = asked.storage.get("_target_") if hasattr(asked.storage, "get") else type(asked.storage).__name__
        found = f"{target}: a storage of your own, which is not opened here, since that might make it"
        yield note(
            _NAME, found, "see whether the sweep opens it: the same command with --dry-run (hydra.sweeper.dry_run=true)"
        )
    else:
        yield from _database(asked, asked.storage)


def _journal(asked: Asked) -> Iterator[Finding]:
    """The study's own journal: its operations on a scratch one beside the studies, its records on a copy."""
    from optuna.study import StudyDirection

    from trialfleet.sweep.study.journal import open_journal
    from trialfleet.sweep.study.storage import JOURNAL

    if not _writable(asked.place):
        yield fail(
            _NAME,
            f"a journal in each study's folder: {asked.place} cannot be written",
            "make it writable, or choose another one with hydra.sweep.dir",
        )
        return
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=asked.place) as folder:
        open_journal(Path(folder) / JOURNAL, lambda: None).create_new_study([StudyDirection.MINIMIZE], "doctor")
    if asked.study_name is None:
        yield ok(_NAME, f"a journal in each study's folder, in {asked.folder}")
        return
    journal = asked.study / JOURNAL
    if not journal.exists():
        yield ok(_NAME, f"a journal in the study's folder, which is to be made: {journal}")
        return
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        copy = Path(shutil.copyfile(journal, Path(folder) / JOURNAL))
        said = _studies(open_journal(copy, lambda: None), asked.study_name)
    yield ok(_NAME, f"{journal}: {said}")


def _database(asked: Asked, address: str) -> Iterator[Finding]:
    from trialfleet.sweep.study.databases import would_be_made

    shown = secrets.masked(address)
    file = databases.sqlite_file(address)
    if file is not None and would_be_made(address):
        if _writable(file.parent):
            yield ok(_NAME, f"{shown}: is to be made")
        else:
            yield fail(
                _NAME, f"{shown}: {file.parent} cannot be written", f"make it writable, or set {_KEY} to another"
            )
    elif file is not None and file.exists() and (refusal := databases.sqlite_refusal(file)) is not None:
        yield fail(_NAME, f"{shown}: {refusal}", "end what holds it, or make it writable")
    else:
        yield from _existing(asked, address, shown)


def _existing(asked: Asked, address: str, shown: str) -> Iterator[Finding]:
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import make_url

    from trialfleet.sweep.study.databases import check_file, refusals_told
    from trialfleet.sweep.study.storage import close

    with refusals_told(address):
        check_file(make_url(address))
        with databases.connected(address) as connection:
            refused = databases.read_only(connection)
            # Optuna writes its version where there is none, so it is let in only where there is one.
            made = databases.tables(connection) >= _TABLES and all(
                databases.value(connection, f"SELECT 1 FROM {table}") for table in _TABLES - {"studies"}
            )
        if refused:
            yield fail(_NAME, f"{shown}: is read-only, a standby for example", "name the server that takes writes")
        elif not made:
            yield ok(_NAME, f"{shown}: opens; Optuna's tables are to be made")
        else:
            storage = RDBStorage(address, skip_table_creation=True)
            try:
                yield ok(_NAME, f"{shown}: opens; {_studies(storage, asked.study_name)}")
            finally:
                close(storage)


_TABLES = {"studies", "version_info", "alembic_version"}


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _studies(storage: Any, name: str | None) -> str:
    """Whether the study is there, in words."""
    named = {study.study_name for study in storage.get_all_studies()}
    if name is None:
        return f"{len(named)} studies are there"
    if name not in named:
        others = f" beside {len(named)} others" if named else ""
        return f"study {name!r} is to be made{others}"
    trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    return f"study {name!r} is there with {len(trials)} trials"

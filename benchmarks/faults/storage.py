"""The Optuna storage: cut, garbled, forgotten, exchanged, deleted, locked, restarted; and a fresh start that dies."""

import signal
import sqlite3
import time
from pathlib import Path

from benchmarks.faults.fault import fault
from benchmarks.faults.study import PATIENCE, Study

CLASS = "storage"


# -------------------------------------------------------------------- the journal


@fault(CLASS, "journal", between=True)
def lose_the_tail_of_the_journal(study: Study) -> bool:
    """A disk loses lines that it had acknowledged."""
    lines = study.journal.read_bytes().splitlines(keepends=True) if study.journal.exists() else []
    lost = study.chance.randint(1, 4)
    if len(lines) < 10 + lost:
        return False
    study.journal.write_bytes(b"".join(lines[:-lost]))
    study.may_rebuild = True
    return True


@fault(CLASS, "journal", between=True)
def cut_the_last_line_of_the_journal(study: Study) -> bool:
    data = study.journal.read_bytes() if study.journal.exists() else b""
    if len(data) < 2000:
        return False
    study.journal.write_bytes(data[: -study.chance.randint(1, 60)])
    return True


@fault(CLASS, "journal", between=True)
def garble_a_line_of_the_journal(study: Study) -> bool:
    lines = study.journal.read_bytes().splitlines(keepends=True) if study.journal.exists() else []
    if len(lines) < 10:
        return False
    at = study.chance.randrange(3, len(lines) - 1)
    lines[at] = bytes(study.chance.randrange(128, 256) for _ in lines[at][:-1]) + b"\n"
    study.journal.write_bytes(b"".join(lines))
    study.may_rebuild = True
    return True


@fault(CLASS, "journal", between=True)
def delete_the_journal(study: Study) -> bool:
    if not study.journal.exists() or not study.trials():
        return False
    study.journal.unlink()
    study.may_rebuild = True
    return True


# -------------------------------------------------------------------- another storage


@fault(CLASS, between=True)
def name_another_storage(study: Study) -> bool:
    """The key is added, changed or forgotten: the command is refused, and changes nothing."""
    if not (study.folder / "study.yaml").exists():
        return False
    other = f"sqlite:///{study.place}/another.db"
    wrong = study.launch(storage=None if study.storage and study.chance.random() < 0.5 else other)
    code = wrong.wait(PATIENCE)
    if code != 2 or "is in the storage" not in study.last_said():
        study.notes.append(("wrong", f"another storage was not refused, the driver left with {code}"))
        wrong.send(9)
    return True


# -------------------------------------------------------------------- databases


@fault(CLASS, "sqlite", between=True)
def delete_the_database(study: Study) -> bool:
    assert study.storage is not None
    path = study.place / "optuna.db"
    if not path.exists() or not study.trials():
        return False
    path.unlink()
    study.may_rebuild = True
    return True


@fault(CLASS, "sqlite")
def lock_the_database(study: Study) -> bool:
    path = study.place / "optuna.db"
    if not path.exists():
        return False
    return held_for_a_moment(study, path)


def held_for_a_moment(study: Study, database: Path) -> bool:
    """Somebody else writes in an SQLite file, and takes his time."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(study.chance.uniform(0.1, 2.0))
        connection.execute("ROLLBACK")
    except sqlite3.DatabaseError:  # the study was quicker, or another fault damaged it
        return False
    finally:
        connection.close()
    return True


@fault(CLASS, "postgres")
def restart_postgresql(study: Study) -> bool:
    study.server.stop()
    study.pause(study.chance.uniform(0.0, 2.0))
    study.server.start()
    return True


@fault(CLASS, "postgres")
def throw_out_the_sessions(study: Study) -> bool:
    import psycopg

    with psycopg.connect(study.server.url.replace("+psycopg", "")) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    return True


@fault(CLASS, "postgres", between=True)
def delete_the_study(study: Study) -> bool:
    import optuna

    assert study.storage is not None
    storage = optuna.storages.RDBStorage(study.storage)
    try:
        optuna.delete_study(study_name=study.name, storage=storage)
    except KeyError:
        return False
    finally:
        storage.remove_session()
        storage.engine.dispose()
    study.may_rebuild = True
    return bool(study.trials())


@fault(CLASS, between=True)
def kill_a_rebuild(study: Study) -> bool:
    """The study is made anew from its folder, and the driver that does it is killed."""
    if not study.trials():
        return False
    study.driver = study.launch("study.rebuild=true")
    study.may_rebuild = True
    study.pause(study.chance.uniform(0.1, 0.6))
    study.driver.send(signal.SIGKILL)
    study.driver.wait(PATIENCE)
    return True


# -------------------------------------------------------------------- a fresh start


@fault(CLASS, between=True)
def kill_a_fresh_start(study: Study) -> bool:
    """study.fresh=true, whose driver dies at one of its first changes. The next command finishes that, or undoes it."""
    if not (study.folder / "study.yaml").exists():
        return False
    study.began_anew = True
    driver = study.launch("study.fresh=true", first=DIE.format(at=study.chance.randint(1, 12)))
    study.driver = driver
    study.wait_for(lambda: driver.poll() is not None, 3.0)
    return True


DIE = """
import os, sqlite3
count = 0
def fateful(real):
    def call(*arguments, **named):
        global count
        count += 1
        if count == {at}:
            os._exit(9)
        return real(*arguments, **named)
    return call
for name in ("rename", "replace", "link", "unlink"):
    setattr(os, name, fateful(getattr(os, name)))
"""

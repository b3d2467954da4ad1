"""Whether folders can do what the study and the compilation cache ask of them. What is made for it is removed."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from trialfleet.doctor.asked import Asked, existing
from trialfleet.doctor.findings import Finding, fail, note, ok
from trialfleet.trial.records import create, sync_path

PREFIX = ".trialfleet-doctor-"  # begins the names of what is made here
_COUNTED = 200_000  # files of a cache whose size is added up


def study_folder(asked: Asked) -> Iterator[Finding]:
    """The acts by which driver and jobs agree: exclusive creation, link, rename, sync, and locks."""
    where = f"{asked.folder}" + ("" if asked.place == asked.folder else f" (is to be made in {asked.place})")
    fix = "choose a folder on another file system with hydra.sweep.dir"
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=asked.place) as folder:
            missing, without_lock = _try_out(Path(folder))
    except PermissionError:
        yield fail(
            "folder", f"{where}: cannot be written", "make it writable, or choose another one with hydra.sweep.dir"
        )
        return
    except OSError as error:
        yield fail("folder", f"{where}: {error.strerror}", fix)
        return
    if missing:
        yield fail("folder", f"{where}: {missing}", fix)
    elif without_lock:
        lock_fix = "nothing for studies; keep SQLite files (tracking.uri, hydra.sweeper.storage) on another one"
        yield note("folder", f"{where}: links, renames and syncs, but knows no file locks", lock_fix)
    else:
        yield ok("folder", f"{where}: creates, links, renames, syncs and locks files")


def _try_out(folder: Path) -> tuple[str, bool]:
    """What the file system refuses of what every study needs, in words; and whether it has no locks."""
    first, linked, renamed = folder / "first", folder / "linked", folder / "renamed"
    first.write_text("first")
    renamed.write_text("renamed")
    acts: dict[str, Callable[[], None]] = {
        "hard links (link(2)), by which results are committed": lambda: os.link(first, linked),
        "renaming over a file": lambda: os.replace(linked, renamed),
        "fsync of a file": lambda: sync_path(first),
        "fsync of a folder": lambda: sync_path(folder),
    }
    for name, act in acts.items():
        try:
            act()
        except OSError as error:
            return f"refuses {name}: {error.strerror}", False
    record = folder / "record"
    if not create(record, {"value": 1}) or create(record, {"value": 2}):
        return "lets a file that is there be created again, so that two jobs could claim one trial", False
    try:
        with first.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return "", True
    return "", False


def cache(root: str | None) -> Iterator[Finding]:
    """The folder in which JAX keeps what it compiled."""
    if root is None:
        fix = "if trials use JAX, set runtime.compilation_cache (or JAX_COMPILATION_CACHE_DIR): else each compiles anew"
        yield note("cache", "no compilation cache is configured", fix)
        return
    folder = Path(root).expanduser().absolute()
    place = existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        fix = "make it writable, or name another folder with runtime.compilation_cache (JAX_COMPILATION_CACHE_DIR)"
        yield fail("cache", f"{place}: cannot be written: {error.strerror}", fix)
        return
    size = _size(folder) if place == folder else "is to be made"
    yield ok("cache", f"{folder}: {size}, writable")


def _size(folder: Path) -> str:
    total, files = 0, 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:  # somebody trims it meanwhile
            continue
        files += 1
        if files >= _COUNTED:
            return f"more than {total / 1e6:.0f} MB in more than {files} files"
    return f"{total / 1e6:.0f} MB in {files} files"

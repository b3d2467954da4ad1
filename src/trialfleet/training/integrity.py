"""Whether a checkpoint is whole: the sizes and digests of its files, noted by who wrote them, checked by parts.

No process reads what another wrote to note it, and of several processes each reads its own part to check it.
"""

import contextlib
import errno
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trialfleet.training import distributed
from trialfleet.trial import records

MANIFEST = "manifest.json"  # size and digest of every other file; written last: without it there is no checkpoint
LATE = 60.0  # seconds: for so long, by default, a network file system may hide from one host what another wrote there
SLOW = 600.0  # seconds for which process 0 waits for what the others have to note

Digests = dict[str, list[Any]]  # by the file's path in the folder: its size in bytes, and its SHA-256


def commit(folder: Path, meta: dict[str, Any]) -> bool:
    """Make a checkpoint of what all processes wrote into a folder; each calls this once its part is written.

    Args:
        meta: what process 0 says of it.

    Returns:
        Whether this process brought it into being: process 0 does.

    Raises:
        OSError: a file system refuses, or what the other processes noted does not appear.
    """
    index, count = distributed.place()
    if index:
        _wait_for(folder / "state", SLOW)
        records.write(_part(folder, index), dict(_digests(folder, index)))
        return False
    records.write(folder / "meta.json", meta)
    found: Digests = dict(_digests(folder, index))
    parts = [_part(folder, other) for other in range(1, count)]
    for part in parts:
        _wait_for(part, SLOW, within=folder)
        found.update(records.read(part) or {})
    records.write(folder / MANIFEST, found)
    for part in parts:
        part.unlink()
    return True


def damage(folder: Path, verify: bool = True) -> str | None:
    """What is wrong with a checkpoint, or None if it is whole; of several processes all must ask, and get one answer.

    Args:
        verify: read the files and compare their digests. Without it what is missing or has another size is found.
    """
    if not distributed.agreed_json((folder / MANIFEST).exists()):
        return f"it has no {MANIFEST}" if distributed.agreed_json(folder.is_dir()) else "there is no such folder"
    said: list[str | None] = distributed.all_json(_damage_of_part(folder, *distributed.place(), verify))
    return next((wrong for wrong in said if wrong), None)


def _damage_of_part(folder: Path, index: int, count: int, verify: bool) -> str | None:
    try:
        patience = LATE if index else 0.0  # process 0 has seen it
        _wait_for(folder / MANIFEST, patience)
        manifest = records.read(folder / MANIFEST) or {}
        if "meta.json" not in manifest:  # of a power cut, or another program's
            return f"{MANIFEST} is not what was written"
        for place, (name, (size, digest)) in enumerate(sorted(manifest.items())):
            _wait_for(folder / name, patience)
            right = (folder / name).stat().st_size == size
            if not right or (verify and place % count == index and _digest(folder / name) != [size, digest]):
                return f"{name} is not what was written"
    except (OSError, records.Damaged) as error:
        return str(error)
    except (ValueError, TypeError, AttributeError):  # JSON of another form
        return f"{MANIFEST} is not what was written"
    return None


def _part(folder: Path, index: int) -> Path:
    """What a process other than the first notes of its files, until the manifest has it."""
    return folder / f"manifest.{index}.json"


def _digests(folder: Path, index: int) -> Iterator[tuple[str, list[Any]]]:
    """Of the files that this process wrote; process 0 speaks for all that are nobody's own."""
    common = [folder / "meta.json"] if index == 0 else []
    for path in [*common, *sorted((folder / "state").rglob("*"))]:
        if path.is_file() and _writer(path) == index:
            yield str(path.relative_to(folder)), _digest(path)


def _writer(path: Path) -> int:
    """The process whose shards a file has: Orbax gives each a folder."""
    owners = [part.removeprefix(_OWN) for part in path.parts if part.startswith(_OWN)]
    return int(owners[0]) if owners and owners[0].isdigit() else 0


_OWN = "ocdbt.process_"


def _digest(path: Path) -> list[Any]:
    with open(path, "rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _wait_for(path: Path, patience: float, within: Path | None = None) -> None:
    """Until a file that another process wrote can be seen here.

    Args:
        patience: seconds.
        within: a folder that must be there meanwhile.

    Raises:
        OSError: it does not appear.
    """
    end = time.monotonic() + patience
    while not path.exists():
        if within is not None and not within.exists():
            raise FileNotFoundError(errno.ENOENT, "was taken away by a process that could not write its part", within)
        if time.monotonic() > end:
            waited = f" after {patience:.0f} s" if patience else ""
            raise FileNotFoundError(errno.ENOENT, f"is not there{waited}", path)
        with contextlib.suppress(OSError):  # to list a folder makes a network file system ask its server again
            next(path.parent.iterdir(), None)
        time.sleep(0.05)

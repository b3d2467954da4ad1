"""What caches in folders have in common: entries behind their own digest, put there whole, and one writer at a time."""

import contextlib
import fcntl
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

DIGEST = 16  # bytes that stand before the content of an entry


def sealed(content: bytes) -> bytes:
    """An entry of that content."""
    return hashlib.blake2b(content, digest_size=DIGEST).digest() + content


def opened(path: Path) -> bytes | None:
    """The content of an entry; None if it is not there or damaged, which is logged."""
    try:
        entry = path.read_bytes()
    except OSError:
        return None
    content = entry[DIGEST:]
    if sealed(content) != entry:
        log.warning("%s is damaged, and made anew", path)
        return None
    return content


def put(path: Path, beside: Path, entry: bytes) -> None:
    """Writes an entry beside its place, and puts it there; what found no room leaves nothing behind.

    Raises:
        OSError: it could not be written.
    """
    try:
        beside.write_bytes(entry)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until nobody else writes into a folder, and keeps others from it."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

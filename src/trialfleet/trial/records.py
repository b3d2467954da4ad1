"""Small JSON records that are whole or absent, whoever dies and whenever.

Every record is JSON, so that a person can read it and reading it runs no code. Numbers that JSON has no
word for (nan, inf) are written as the strings "NaN", "Infinity" and "-Infinity"; `number` reads them back.
Each record says which version of its format it has.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

FORMAT = 2  # of the records that this version writes; those of version 1 do not say so
MAX_BYTES = 64 << 20  # of a record; whatever is larger was not written here

_PIECE = 1 << 16  # bytes
_DEEP = 20  # levels of a value that are kept where it is not JSON
_LARGE = 10**4000  # Python writes no longer numbers as text
_SMALL = 1000  # elements of an array of numpy's or jax's that is kept as numbers
Json = Any  # what json.loads can return


class Damaged(Exception):
    """A record that cannot be what it should be: it names the file and says what is wrong with it.

    Attributes:
        path: the file.
        reason: what is wrong, in words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def dumps(value: Json) -> str:
    """One line of strict JSON that UTF-8 can hold; numbers that are not finite become strings.

    Whatever JSON has no form for becomes its text, so that no record is lost for an odd value in it.
    """
    try:
        return _text(json.dumps(_plain(value), allow_nan=False, ensure_ascii=False))
    except Exception:  # noqa: BLE001  # raised by JSON, or by the code of whatever is in the value
        return _text(json.dumps(_plain(_printable(value)), allow_nan=False, ensure_ascii=False))


def plain(value: Mapping[str, Any]) -> dict[str, Json]:
    """A copy in which whatever JSON has no form for is its text."""
    found: dict[str, Json] = json.loads(dumps(value))
    return found


def digest(value: Json) -> str:
    """A short name of a JSON value: equal for equal values, whatever the order of their keys."""
    text = json.dumps(_plain(value), allow_nan=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def number(value: Json) -> float:
    """The float that `dumps` wrote, strings for non-finite numbers included."""
    return float(value)


def read(path: Path) -> dict[str, Any] | None:
    """The record at `path`, or None if there is none (yet), or a power cut left nothing of one that was not synced.

    Raises:
        Damaged: the file holds something else.
    """
    try:
        data = read_bytes(path, limit=MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise Damaged(path, "is a folder, and should be a file") from None
    if not data.strip(b"\0"):
        return None
    if len(data) > MAX_BYTES:
        raise Damaged(path, f"is larger than {MAX_BYTES >> 20} MiB: no record that was written here")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise Damaged(path, "is no JSON object")
    found = record.pop("format", 1)
    if not isinstance(found, int) or not 1 <= found <= FORMAT:
        raise Damaged(path, f"has format {found!r}, and this version reads 1 to {FORMAT}: a newer one wrote it")
    return record


def read_bytes(path: Path, offset: int = 0, limit: int | None = None) -> bytes:
    """What a file holds from `offset` on, with few system calls: the driver asks all the time, mostly for nothing.

    Args:
        limit: read about so many bytes at most; what a job writes may be of any size.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = bytearray()
        while (limit is None or len(data) < limit) and (part := os.pread(descriptor, _PIECE, offset + len(data))):
            data += part
        return bytes(data)
    finally:
        os.close(descriptor)


def tail(path: Path, size: int) -> str:
    """The last `size` bytes of a text file, however long it is; empty if there is none."""
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - size))
            return file.read(size).decode(errors="replace")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ""


def set_aside(path: Path) -> Path:
    """Give a damaged file another name, so that it is in nobody's way and nothing of it is lost.

    Returns:
        the new name.
    """
    aside = path.with_name(f"{path.name}.damaged-{uuid4().hex[:8]}")
    path.rename(aside)
    return aside


def write(
    path: Path, value: Mapping[str, Json], synced: bool = True, form: int = FORMAT, make_folder: bool = True
) -> None:
    """Replace the record at `path`: a reader sees the old one or the new one, never a part.

    After a power cut it may be the old one, whole. What must not be undone is brought into being by `create`; the
    directory is not synced here, since that would cost a trial half of its time on the disk.

    Args:
        synced: False for what can be done without after a power cut; it may be empty then.
        form: version of the format that `value` has; records of version 1 do not say so.
        make_folder: False if the record is to be written only where its folder is there.
    """
    whole = value if form == 1 else {"format": form, **value}
    with _complete_file(path, whole, synced, make_folder) as temporary:
        os.replace(temporary, path)


def create(path: Path, value: Mapping[str, Json], synced: bool = True) -> bool:
    """Bring the record into being, once, by link(2) of a complete file.

    Args:
        synced: whether it outlives a power cut.

    Returns:
        False if somebody else's record was there first; it is left as it is.
    """
    with _complete_file(path, {"format": FORMAT, **value}, synced) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)  # noqa: PTH108  # called very often
        if synced:
            sync_path(path.parent)
        return True


@contextlib.contextmanager
def _complete_file(path: Path, value: Mapping[str, Json], synced: bool, make_folder: bool = True) -> Iterator[Path]:
    """A complete file beside `path`, which the block gives its name or takes away."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        descriptor = _opened(temporary, make_folder)
        try:
            data = f"{dumps(value)}\n".encode()
            while data:  # a signal or a nearly full disk may cut a write short
                data = data[os.write(descriptor, data) :]
            if synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _opened(path: Path, make_folder: bool) -> int:
    """A new file's descriptor. Nearly always the folder is there: it is made only when the file cannot be."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        if not make_folder:
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o666)


def sync_path(path: Path) -> None:
    """Make a file, or the names in a folder, outlive a power cut.

    Raises:
        OSError: the file system cannot, or is away.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Json) -> Json:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _text(line: str) -> str:
    """`line` in characters that UTF-8 can hold: half of a pair of surrogates is none."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return line.encode(errors="surrogatepass").decode(errors="replace")
    return line


def _printable(value: Json, inside: tuple[int, ...] = ()) -> Json:
    """`value` with the text of whatever JSON has no form for: objects, arrays of other libraries, cycles.

    Args:
        inside: identities of the values that this one is in.
    """
    if value is None or isinstance(value, str | bool | float) or (isinstance(value, int) and abs(value) < _LARGE):
        return value
    if id(value) in inside:
        return f"<{type(value).__name__} that holds itself>"
    within = (*inside, id(value))
    try:
        if len(inside) < _DEEP and isinstance(value, Mapping):
            return {str(key): _printable(item, within) for key, item in value.items()}
        if len(inside) < _DEEP and isinstance(value, list | tuple | set | frozenset):
            return [_printable(item, within) for item in value]
        if hasattr(value, "tolist") and isinstance(getattr(value, "size", None), int) and value.size <= _SMALL:
            return _printable(value.tolist(), within)
        return str(value)[:2000]
    except Exception:  # noqa: BLE001  # raised by the value's own code
        return f"<{type(value).__name__}>"

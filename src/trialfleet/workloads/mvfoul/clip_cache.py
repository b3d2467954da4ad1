"""Decoded clips that are kept: in this process's memory, and in a folder that trials share; both are bounded."""

import contextlib
import hashlib
import io
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trialfleet.workloads import kept_files

_KIND = ".clip"
# what a process that was killed has not finished, and entries without a digest, as they once were
_LEFT_OVER = re.compile(r"[0-9a-f]{32}\.([0-9a-f]{16}|npy)")


class ClipCache:
    """Clips by file. A file that has changed is another one.

    What has been kept stays: in training all clips come again as often, so that one is worth as much as another.
    """

    def __init__(self, kind: str, memory_mb: int, folder: Path | None, folder_mb: int) -> None:
        """
        Args:
            kind: all that decides what becomes of a file: which frames, how large.
            folder: for what later processes find; None: there is none.
        """
        self._kind, self._folder, self._folder_bytes = kind, folder, folder_mb * 1_000_000
        self._room = memory_mb * 1_000_000
        self._kept: dict[Path, np.ndarray] = {}

    def get(self, path: Path, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The clip of a file, decoded only if it is not kept; nobody may write into it."""
        found = self._kept.get(path)
        if found is None:
            found = self._from_folder(path, decode) if self._folder is not None else decode()
            found.flags.writeable = False
            if found.nbytes <= self._room:
                self._kept[path] = found
                self._room -= found.nbytes
        return found

    def _from_folder(self, path: Path, decode: Callable[[], np.ndarray]) -> np.ndarray:
        assert self._folder is not None
        try:
            state = path.stat()
        except OSError:
            return decode()  # which says what is wrong
        name = f"{self._kind} {path.absolute()} {state.st_size} {state.st_mtime_ns}"
        own = self._folder / f"{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}{_KIND}"
        content = kept_files.opened(own)
        if content is not None:
            return np.asarray(np.load(io.BytesIO(content)))
        found = decode()
        with contextlib.suppress(OSError):  # a full disk costs time alone
            self._write(own, found)
        return found

    def _write(self, own: Path, found: np.ndarray) -> None:
        content = io.BytesIO()
        np.save(content, found)
        entry = kept_files.sealed(content.getvalue())
        # without locks, as on some network file systems, processes of two machines may have one number
        beside = own.with_suffix(f".{secrets.token_hex(8)}")
        own.parent.mkdir(parents=True, exist_ok=True)
        with kept_files.locked(own.parent):
            if self._taken(own) + len(entry) <= self._folder_bytes:
                kept_files.put(own, beside, entry)

    @staticmethod
    def _taken(own: Path) -> int:
        """Bytes of all that is kept beside an entry; what is left over goes."""
        taken = 0
        with os.scandir(own.parent) as there:
            for one in there:
                if _LEFT_OVER.fullmatch(one.name):
                    Path(one).unlink(missing_ok=True)
                elif one.name != own.name:
                    with contextlib.suppress(FileNotFoundError):
                        taken += one.stat().st_size
        return taken

    def __getstate__(self) -> dict[str, Any]:
        """A process that decodes begins with an empty memory."""
        room = self._room + sum(clip.nbytes for clip in self._kept.values())
        return {**self.__dict__, "_kept": {}, "_room": room}

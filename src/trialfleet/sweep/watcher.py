"""Waiting until something happens: to files in folders, by inotify where there is any, and to processes.

inotify tells of what this machine does. On a network file system others write as well: whoever waits looks again after
a while in any case. It is called by ctypes, since Python has no module for it.
"""

import contextlib
import ctypes
import os
import select
import struct
from collections.abc import Sequence
from pathlib import Path

_MODIFY, _MOVED_TO, _CREATE, _ONLY_FOLDERS = 0x2, 0x80, 0x100, 0x1000000
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_HEAD = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_MOST = 1 << 16  # bytes of events that one read takes


class Watcher:
    """Folders that are watched. Where the kernel watches no more, or has no inotify, it hears nothing of them."""

    def __init__(self) -> None:
        self._watches: dict[int, Path] = {}
        self._numbers: dict[Path, int] = {}
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._file = int(self._libc.inotify_init1(_NONBLOCK | _CLOEXEC))
        except (OSError, AttributeError):
            self._file = -1

    def add(self, folder: Path) -> bool:
        """Watch a folder: what is created in it, moved into it, or written. Of no effect if it is watched.

        Returns:
            whether it was not watched before and is now: what happened before is not told.
        """
        if self._file < 0 or folder in self._numbers:
            return False
        mask = _MODIFY | _MOVED_TO | _CREATE | _ONLY_FOLDERS
        number = int(self._libc.inotify_add_watch(self._file, os.fsencode(folder), mask))
        if number < 0:  # it is not there, or there are more watches than a user may have
            return False
        self._watches[number], self._numbers[folder] = folder, number
        return True

    def remove(self, folder: Path) -> None:
        """Watch a folder no longer."""
        number = self._numbers.pop(folder, None)
        if number is not None:
            self._watches.pop(number, None)  # a link to a folder has the number of that one
            self._libc.inotify_rm_watch(self._file, number)

    def wait(self, seconds: float, handles: Sequence[int] = ()) -> tuple[list[tuple[Path, str]], bool]:
        """Wait until something happens in a folder, a handle can be read, or the time is over.

        Returns:
            files of which something is new, as far as it is known: the folder, and the name in it; and whether a handle
            can be read.
        """
        poll = select.poll()
        for handle in (*handles, *([self._file] if self._file >= 0 else [])):
            poll.register(handle, select.POLLIN)
        ready = {handle for handle, _ in poll.poll(1000.0 * seconds)}
        return self._read() if self._file in ready else [], bool(ready - {self._file})

    def _read(self) -> list[tuple[Path, str]]:
        found: dict[tuple[int, bytes], None] = {}
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._file, _MOST)
            place = 0
            while place < len(data):
                number, _, _, length = _HEAD.unpack_from(data, place)
                place += _HEAD.size
                found[number, data[place : place + length].rstrip(b"\0")] = None
                place += length
        return [(self._watches[number], os.fsdecode(name)) for number, name in found if number in self._watches]

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

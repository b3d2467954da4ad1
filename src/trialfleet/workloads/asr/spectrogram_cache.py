"""Spectrograms kept in a folder, for all trainings that hear the same recordings.

    <folder>/3f/3fa0…   an entry: the digest of what follows, frames and bands, and the numbers
    <folder>/bytes      how much there is of it, at least
    <folder>/lock       held by whoever writes

An entry is named by what is in the recording's file and by what a spectrogram depends on besides. A file that is moved
or copied keeps its entry, whatever its path and its time on this machine; one that is changed has another.

Several processes may use a folder. An entry is written beside its place and put there whole; what was damaged all the
same has another digest, and is made anew. Beyond its size the cache gives up what was not used for longest.
"""

import contextlib
import hashlib
import logging
import os
import struct
from pathlib import Path

import numpy as np

from trialfleet.config.location import expanded
from trialfleet.workloads import kept_files

log = logging.getLogger(__name__)

FORM = 1  # of the spectrograms: raised whenever features.log_mel gives other numbers
_HEAD = 8  # bytes before the numbers: how many frames and bands
_AFTER = 0.9  # the share of the size that is left when entries are given up, so that it is not done each time


class SpectrogramCache:
    """See the module.

    Args:
        most: bytes that all entries may take together.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = expanded(folder).absolute(), most
        self._writes = True

    @staticmethod
    def key(content: bytes, bands: int, speed: float = 1.0) -> str:
        """The name of the spectrogram of a recording.

        Args:
            content: of its file.
            speed: at which it is heard.
        """
        salt, person = f"{FORM}-{bands}".encode(), b"" if speed == 1 else struct.pack("<d", speed)
        return hashlib.blake2b(content, digest_size=20, salt=salt, person=person).hexdigest()

    def get(self, key: str) -> np.ndarray | None:
        """A spectrogram (F, bands); None if it is not there."""
        path = self._path(key)
        content = kept_files.opened(path)
        if content is None:
            return None
        with contextlib.suppress(OSError):  # what can be read alone may be used all the same
            os.utime(path)
        shape = np.frombuffer(content, np.uint32, 2)
        return np.frombuffer(content, np.float32, offset=_HEAD).reshape(shape)

    def put(self, key: str, spectrogram: np.ndarray) -> None:
        """Keeps a spectrogram (F, bands), float32, if there is room on the disk: if not, this is said once."""
        shape = np.asarray(spectrogram.shape, np.uint32)
        content = kept_files.sealed(shape.tobytes() + np.ascontiguousarray(spectrogram).tobytes())
        path = self._path(key)
        if not self._writes or len(content) > self._most:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with kept_files.locked(self._folder):
                self._make_room(len(content))
                kept_files.put(path, path.with_name(f"{key}.new"), content)
        except OSError as error:
            self._writes = False
            log.warning("dataset.disk_cache: nothing more is kept in %s: %s", self._folder, error)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _make_room(self, more: int) -> None:
        """Notes that so many bytes will come, and gives up entries if they are too many."""
        note = self._folder / "bytes"
        try:
            held = int(note.read_text())
        except (OSError, ValueError):
            held = self._most  # nobody knows: they are counted
        if held + more > self._most:
            held = self._left(int(self._most * _AFTER) - more)
        note.write_text(str(held + more))

    def _left(self, most: int) -> int:
        """How many bytes are left once the entries that were not used for longest are gone."""
        entries = []
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):  # somebody else may take it away
                stat = path.stat()
                entries.append((stat.st_mtime, stat.st_size, path))
        held = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if held <= most:
                break
            path.unlink(missing_ok=True)
            held -= size
        return held

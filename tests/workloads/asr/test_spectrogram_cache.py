"""Spectrograms on disk: what is found again, what goes, and what becomes of damage."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from trialfleet.workloads.asr.spectrogram_cache import SpectrogramCache

ONE = np.arange(40, dtype=np.float32).reshape(4, 10)
SIZE = 24 + ONE.nbytes  # of its entry


def kept(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("??/*")}


def key(number: int) -> str:
    return SpectrogramCache.key(str(number).encode(), 10)


def test_what_was_put_is_found_by_what_is_in_the_file_and_by_the_settings(tmp_path: Path) -> None:
    SpectrogramCache(tmp_path / "new" / "folder", 10_000).put(SpectrogramCache.key(b"sound", 80), ONE)
    other = SpectrogramCache(tmp_path / "new" / "folder", 10_000)
    found = other.get(SpectrogramCache.key(b"sound", 80))
    assert found is not None
    np.testing.assert_array_equal(found, ONE)
    assert other.get(SpectrogramCache.key(b"sound", 128)) is None
    assert other.get(SpectrogramCache.key(b"other", 80)) is None
    assert other.get(SpectrogramCache.key(b"sound", 80, 1.1)) is None


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * SIZE])
def test_a_damaged_entry_is_as_none_and_made_anew(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    cache = SpectrogramCache(tmp_path, 10_000)
    cache.put(key(0), ONE)
    kept(tmp_path)[key(0)].write_bytes(damage)
    assert cache.get(key(0)) is None
    assert "is damaged, and made anew" in caplog.text
    cache.put(key(0), ONE)
    assert cache.get(key(0)) is not None


def test_a_cache_that_can_only_be_read_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SpectrogramCache(tmp_path, 10_000).put(key(0), ONE)

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refused)
    assert SpectrogramCache(tmp_path, 10_000).get(key(0)) is not None


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = SpectrogramCache(tmp_path, 4 * SIZE)
    for number in range(4):
        cache.put(key(number), ONE)
        os.utime(kept(tmp_path)[key(number)], (number, number))
    assert cache.get(key(0)) is not None  # so it was used last
    cache.put(key(4), ONE)
    assert set(kept(tmp_path)) == {key(0), key(3), key(4)}
    cache.put(key(5), np.zeros((1000, 10), np.float32))
    assert key(5) not in kept(tmp_path)  # alone it is more than all may be


def test_several_processes_keep_to_the_size_together(tmp_path: Path) -> None:
    """Each with a lock of its own, as processes have them."""

    def fill(process: int) -> None:
        cache = SpectrogramCache(tmp_path, 10 * SIZE)
        for number in range(25):
            cache.put(key(100 * process + number), ONE)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(4)))
    left = kept(tmp_path)
    assert 5 <= len(left) <= 10
    assert all(path.stat().st_size == SIZE for path in left.values())
    assert int((tmp_path / "bytes").read_text()) >= SIZE * len(left)


def test_a_note_that_is_lost_is_made_by_counting(tmp_path: Path) -> None:
    cache = SpectrogramCache(tmp_path, 10 * SIZE)
    for number in range(5):
        cache.put(key(number), ONE)
    (tmp_path / "bytes").write_text("damaged")
    cache.put(key(5), ONE)
    assert int((tmp_path / "bytes").read_text()) == 6 * SIZE
    assert len(kept(tmp_path)) == 6


def test_without_room_a_training_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = SpectrogramCache(tmp_path / "file", 10_000)
    cache.put(key(0), ONE)
    cache.put(key(1), ONE)
    assert cache.get(key(0)) is None
    assert caplog.text.count("dataset.disk_cache: nothing more is kept") == 1


def test_what_finds_no_room_on_the_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        whole(path, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    SpectrogramCache(tmp_path, 10_000).put(key(0), ONE)
    assert not kept(tmp_path)

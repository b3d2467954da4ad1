"""Memory, room and folders: enough of them, too little, and file systems that refuse."""

import errno
import fcntl
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest

from trialfleet.doctor import folders, host

from .conftest import AskedFor

Usage = namedtuple("Usage", "total used free")


def test_this_machine(asked: AskedFor) -> None:
    for look in (host.machine, host.shared_memory, lambda: host.disk(asked())):
        (found,) = look()
        assert found.status in ("ok", "note")
        assert "GiB" in found.found


@pytest.mark.parametrize(("free", "status"), [(50 * 2**20, "FAIL"), (2**30, "note"), (2**40, "ok")])
def test_little_room(asked: AskedFor, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**41, 2**40, free))
    (found,) = host.disk(asked())
    assert found.status == status


def test_little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Memory = namedtuple("Memory", "available total")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(2**28, 2**34))
    (tmp_path / "memory.max").write_text(f"{2**33}\n")
    monkeypatch.setattr(host, "_LIMITS", (tmp_path / "absent", tmp_path / "memory.max"))
    (found,) = host.machine()
    assert found.status == "note"
    assert "limit is 8.0 GiB" in found.found


@pytest.mark.parametrize(("free", "status"), [(60 * 2**20, "note"), (2**30, "ok")])
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**30, 0, free))
    monkeypatch.setattr(host, "_SHARED", tmp_path)
    assert [one.status for one in host.shared_memory()] == [status]
    monkeypatch.setattr(host, "_SHARED", tmp_path / "absent")
    assert [one.status for one in host.shared_memory()] == ["note"]


def test_a_folder_that_can_do_all_and_keeps_nothing(asked: AskedFor) -> None:
    (found,) = folders.study_folder(asked())
    assert (found.status, list(Path("sweeps").iterdir())) == ("ok", [])
    (found,) = folders.study_folder(asked("hydra.sweep.dir=far/away/study"))
    assert found.status == "ok"
    assert f"is to be made in {Path.cwd()}" in found.found
    assert not Path("far").exists()


@pytest.mark.parametrize("act", ["link", "replace", "fsync"])
def test_a_file_system_that_refuses(asked: AskedFor, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, act, refuse)
    (found,) = folders.study_folder(asked())
    assert found.status == "FAIL"
    assert "refuses" in found.found
    assert "hydra.sweep.dir" in found.fix
    assert list(Path("sweeps").iterdir()) == []


def test_a_file_system_without_locks(asked: AskedFor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (found,) = folders.study_folder(asked())
    assert found.status == "note"
    assert "knows no file locks" in found.found


def test_a_folder_that_cannot_be_written(asked: AskedFor) -> None:
    (found,) = folders.study_folder(asked("hydra.sweep.dir=/proc/1/study"))
    assert found.status == "FAIL"


def test_the_cache(tmp_path: Path) -> None:
    assert [one.status for one in folders.cache(None)] == ["note"]
    (found,) = folders.cache(str(tmp_path / "xla"))
    assert (found.status, list(tmp_path.iterdir())) == ("ok", [])
    (tmp_path / "xla" / "deep").mkdir(parents=True)
    (tmp_path / "xla" / "deep" / "program-cache").write_bytes(bytes(3_000_000))
    (found,) = folders.cache(str(tmp_path / "xla"))
    assert found.status == "ok"
    assert ": 3 MB in 2 files, writable" in found.found
    (found,) = folders.cache("/proc/1/xla")
    assert found.status == "FAIL"
    assert "runtime.compilation_cache" in found.fix

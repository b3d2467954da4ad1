"""The exporter's memory survives torn tails, compaction, moves and full disks."""

import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialfleet.tracking import delivery_log as note
from trialfleet.tracking.delivery_log import DeliveryLog, Range
from trialfleet.trial import records


def opened(path: Path) -> DeliveryLog:
    cursor = DeliveryLog(path)
    cursor.close()
    return cursor


def known(cursor: DeliveryLog) -> tuple[Any, ...]:
    study = (cursor.parent, cursor.experiment_id, cursor.study_state, cursor.study_tags, cursor.columns)
    return cursor.trials, cursor.finished, study, cursor.best, cursor.maybe_best


def story(folder: Path) -> list[note.Record]:
    """A study's events, trial by trial, as they come."""
    events = [note.study("1", "parent"), {"event": "view", "params": ["lr"]}]
    for number in range(4):
        events.append(note.create(number, 1e9 + number, {"lr": repr(0.1 * number)}, {"a": "b"}))
        events.append(note.follow(number, "1.0", folder / f"trials/{number:05d}/runs/1.0", folder))
        if number:
            run = note.created(number, f"run{number}", 1e9 + number, number == 2)
            events += [run, {"event": "ready", "trial": number}]
            events += [note.sending(number, Range("1.0", 0, 10)), note.sending(number, Range("1.0", 10, 30))]
            events += [note.follow(number, "2.0", folder / f"trials/{number:05d}/runs/2.0", folder)]
            events += [note.sending(number, Range("2.0", 0, 7)), note.sending(number, Range("1.0", 30, 40))]
    ended = {"event": "ended", "trial": 3, "state": "FAIL", "at": 2.0, "objectives": {"x": float("nan")}}
    ended |= {"error": None, "tags": {}, "artifacts": {}}
    events += [ended, note.done(3, "run3"), note.marking([3], []), note.marking([], [3, 1])]
    return [*events, {"event": "study_tags", "tags": {"n": "x"}}, {"event": "study_state", "state": "STOPPED"}]


def test_what_was_noted_is_known_after_opening(tmp_path: Path) -> None:
    cursor = DeliveryLog(tmp_path / "c.jsonl")
    cursor.note(*story(tmp_path))
    cursor.close()
    again = opened(cursor.path)
    assert known(again) == known(cursor)
    assert again.finished == {3: "run3"}
    trial = again.trials[1]
    assert (trial.offset("1.0"), trial.offset("2.0"), trial.offset("3.0")) == (40, 7, 0)
    assert trial.sent == [Range("1.0", 0, 30), Range("2.0", 0, 7)]  # neighbours are joined
    assert trial.last == Range("1.0", 30, 40)
    assert trial.runs["2.0"] == tmp_path / "trials/00001/runs/2.0"


def test_compaction_changes_nothing_that_is_known(tmp_path: Path) -> None:
    cursor = DeliveryLog(tmp_path / "c.jsonl")
    cursor.note(*story(tmp_path))
    before = known(cursor)
    cursor._compact()
    cursor.note(note.sending(1, Range("1.0", 40, 50)))
    assert cursor.trials[1].offset("1.0") == 50
    cursor.close()
    again = opened(cursor.path)
    assert known(again) == known(cursor)
    assert known(again)[1:] == before[1:]
    assert again.trials[2] == before[0][2]


def test_a_cursor_that_grows_is_compacted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(note, "COMPACT_BYTES", 10_000)
    cursor = DeliveryLog(tmp_path / "c.jsonl")
    cursor.note(note.create(0, 1.0, {}, {}), note.follow(0, "1.0", tmp_path, tmp_path))
    for start in range(0, 50_000, 10):
        cursor.note(note.sending(0, Range("1.0", start, start + 10)))
    assert cursor.path.stat().st_size < 12_000
    cursor.close()
    assert opened(cursor.path).trials[0].offset("1.0") == 50_000


def test_a_study_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    cursor = DeliveryLog(tmp_path / "old" / "c.jsonl")
    cursor.note(*story(tmp_path / "old"))
    cursor.close()
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert opened(tmp_path / "new" / "c.jsonl").trials[0].runs["1.0"] == tmp_path / "new/trials/00000/runs/1.0"


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 4000), rubbish=st.binary(max_size=30))
def test_a_torn_tail_is_cut_off(tmp_path_factory: pytest.TempPathFactory, cut: int, rubbish: bytes) -> None:
    folder = tmp_path_factory.mktemp("torn")
    lines = [(records.dumps(event) + "\n").encode() for event in story(folder)]
    data = b"".join(lines)
    torn = data[: min(cut, len(data))]
    whole = torn[: torn.rfind(b"\n") + 1]
    (folder / "c.jsonl").write_bytes(torn + rubbish.replace(b"\n", b""))
    (folder / "whole.jsonl").write_bytes(whole)
    cursor = DeliveryLog(folder / "c.jsonl")
    assert known(cursor) == known(opened(folder / "whole.jsonl"))
    cursor.note({"event": "study_state", "state": "COMPLETE"})  # goes on behind the cut
    cursor.close()
    assert (folder / "c.jsonl").read_bytes().startswith(whole)
    assert opened(folder / "c.jsonl").study_state == "COMPLETE"
    shutil.rmtree(folder)


@pytest.mark.parametrize("end", [b"\0" * 100, b'{"event": "cre' + b"\0" * 100, b"\0" * 10 + b"\n\0\n", b'{"event'])
def test_what_a_power_cut_or_a_kill_leaves_at_the_end_is_cut_off(tmp_path: Path, end: bytes) -> None:
    cursor = DeliveryLog(tmp_path / "c.jsonl")
    cursor.note(note.study("1", "parent"))
    cursor.close()
    with cursor.path.open("ab") as file:
        file.write(end)
    again = opened(cursor.path)
    assert (again.parent, again.damage) == ("parent", None)
    assert again.path.read_bytes().endswith(b"}\n")


WRONG = {
    "garbage": b"\xff\xfe\x00 garbage\n",
    "no JSON": b"{nonsense\n",
    "no event": b'{"step": 1}\n',
    "a list": b"[1, 2]\n",
    "an event nobody notes": b'{"event": "other", "trial": 1}\n',
    "an unknown trial": b'{"event": "ready", "trial": 99}\n',
    "a number for a text": b'{"event": "done", "trial": 1, "run_id": 7}\n',
    "a text for a number": b'{"event": "range", "trial": 1, "run": "1.0", "from": "a", "to": "b"}\n',
    "a list for an object": b'{"event": "create", "trial": 9, "at": 1.0, "params": [], "tags": {}}\n',
    "texts for trials": b'{"event": "marking", "best": ["a"], "maybe": []}\n',
    "brackets in brackets": b"[" * 100_000 + b"\n",
    "zeros in the middle": b"\0" * 4096 + b"\n",
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_a_damaged_cursor_is_put_aside_and_named(tmp_path: Path, wrong: bytes) -> None:
    """What is missing in the middle is not known: nothing of the file can be trusted."""
    path = tmp_path / "c.jsonl"
    lines = [(records.dumps(event) + "\n").encode() for event in story(tmp_path)]
    path.write_bytes(b"".join([*lines[:9], wrong, *lines[9:]]))
    before = path.read_bytes()
    cursor = DeliveryLog(path)
    assert (cursor.trials, cursor.finished, cursor.parent) == ({}, {}, None)
    assert str(path) in str(cursor.damage)
    (aside,) = tmp_path.glob("c.jsonl.*")
    assert aside.name in str(cursor.damage)
    assert aside.read_bytes() == before
    cursor.note(note.study("1", "new"))
    cursor.close()
    again = opened(path)
    assert (again.parent, again.damage) == ("new", None)


def test_a_folder_in_the_place_of_the_cursor_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl" / "inside").mkdir(parents=True)
    cursor = opened(tmp_path / "c.jsonl")
    assert "is a folder" in str(cursor.damage)
    assert cursor.path.is_file()


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = DeliveryLog(tmp_path / "c.jsonl")
    cursor.note(note.create(0, 1.0, {}, {}))
    before, write = cursor.path.read_bytes(), os.write
    left = 20

    def full(descriptor: int, data: bytes) -> int:
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, "no space left on device")
        written = write(descriptor, data[:left])
        left -= written
        return written

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="no space"):
        cursor.note(note.created(0, "run", 1.0))
    monkeypatch.undo()
    assert cursor.trials[0].run_id is None
    assert cursor.path.read_bytes() == before
    cursor.note(note.created(0, "run", 1.0))
    cursor.close()
    assert opened(cursor.path).trials[0].run_id == "run"


def test_ten_thousand_finished_trials_open_in_well_under_two_seconds(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    lines = []
    for number in range(10_000):
        trial = [note.create(number, 1.0, {"lr": "0.1", "depth": "3"}, {}), note.created(number, "r" * 32, 1.0)]
        lines += [*trial, note.follow(number, "1.0", tmp_path / "x", tmp_path), note.done(number, "r" * 32)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = time.process_time()
    first = opened(path)
    second = opened(path)  # compacted
    assert time.process_time() - start < 2
    assert len(first.finished) == len(second.finished) == 10_000
    assert path.stat().st_size < 1_200_000

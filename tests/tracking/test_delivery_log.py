"""The exporter's memory survives torn tails, compaction, moves and full disks."""

import errno
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialfleet.tracking import delivery_log
from trialfleet.tracking.delivery_log import DeliveryLog, Range, StudyDelivery
from trialfleet.trial import records


def opened(path: Path) -> DeliveryLog:
    delivered = DeliveryLog(path)
    delivered.close()
    return delivered


def known(delivered: DeliveryLog) -> tuple[Any, ...]:
    study = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(delivered.study).items()}
    return delivered.trials, delivered.finished, study


def story() -> list[delivery_log.Event]:
    """A study's events, trial by trial, as they come."""
    arrived = StudyDelivery("1", "parent", "file", None, {"n": "x"}, ["lr"])
    events = [delivery_log.study(arrived)]
    for number in range(5):
        events.append(delivery_log.create(number, 1e9 + number))
        if number:
            events.append(delivery_log.created(number, f"run{number}", 1e9 + number, number == 2))
            events += [delivery_log.sending(number, piece) for piece in (Range("1.0", 0, 10), Range("1.0", 10, 30))]
            events += [delivery_log.sending(number, piece) for piece in (Range("2.0", 0, 7), Range("1.0", 30, 40))]
    events += [delivery_log.done(3, "run3"), delivery_log.done(4, "run4"), delivery_log.lost([4])]
    return [*events, delivery_log.study(replace(arrived, state="STOPPED", best=[3], maybe_best=[1]))]


def test_what_was_noted_is_known_after_opening(tmp_path: Path) -> None:
    delivered = DeliveryLog(tmp_path / "c.jsonl")
    delivered.note(*story())
    delivered.close()
    again = opened(delivered.path)
    assert known(again) == known(delivered)
    assert again.finished == {3: "run3"}
    trial = again.trials[1]
    assert (trial.offset("1.0"), trial.offset("2.0"), trial.offset("3.0")) == (40, 7, 0)
    assert trial.sent == [Range("1.0", 0, 30), Range("2.0", 0, 7)]  # neighbours are joined
    assert trial.last == Range("1.0", 30, 40)
    assert again.trials[2].doubtful
    assert again.study == StudyDelivery("1", "parent", "file", "STOPPED", {"n": "x"}, ["lr"], [3], [1])


def test_compaction_changes_nothing_that_is_known(tmp_path: Path) -> None:
    delivered = DeliveryLog(tmp_path / "c.jsonl")
    delivered.note(*story())
    before = known(delivered)
    delivered._compact()
    delivered.note(delivery_log.sending(1, Range("1.0", 40, 50)))
    assert delivered.trials[1].offset("1.0") == 50
    delivered.close()
    again = opened(delivered.path)
    assert known(again) == known(delivered)
    assert known(again)[1:] == before[1:]
    assert again.trials[2] == before[0][2]


def test_a_log_that_grows_is_compacted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_log, "COMPACT_BYTES", 10_000)
    delivered = DeliveryLog(tmp_path / "c.jsonl")
    delivered.note(delivery_log.create(0, 1.0))
    for start in range(0, 50_000, 10):
        delivered.note(delivery_log.sending(0, Range("1.0", start, start + 10)))
    assert delivered.path.stat().st_size < 12_000
    delivered.close()
    assert opened(delivered.path).trials[0].offset("1.0") == 50_000


EARLIER = [
    {"event": "study", "experiment_id": "1", "run_id": "parent", "database": "file", "state": None},
    {"event": "view", "params": ["lr"]},
    {"event": "create", "trial": 0, "at": 1e9, "params": {"lr": "0.1"}, "tags": {"a": "b"}},
    {"event": "follow", "trial": 0, "run": "1.0", "directory": "trials/00000/runs/1.0"},
    {"event": "created", "trial": 0, "run_id": "run0", "at": 1e9, "doubtful": False, "unlisted": False},
    {"event": "ready", "trial": 0},
    {"event": "range", "trial": 0, "run": "1.0", "from": 0, "to": 10},
    {"event": "ended", "trial": 0, "state": "FAIL", "at": 2.0, "objectives": {}, "error": None}
    | {"tags": {}, "artifacts": {}},
    {"event": "create", "trial": 1, "at": 1e9, "params": {}, "tags": {}},
    {"event": "created", "trial": 1, "run_id": "run1", "at": 1e9, "doubtful": False, "unlisted": False},
    {"event": "done", "trial": 2, "run_id": "run2"},
    {"event": "done", "trial": 3, "run_id": "run3"},
    {"event": "reopen", "trial": 3, "at": 3.0, "params": {}, "tags": {}},
    {"event": "marking", "best": [2], "maybe": [0]},
    {"event": "study_tags", "tags": {"n": "x"}},
    {"event": "study_state", "state": "STOPPED"},
]


def test_lines_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in EARLIER))
    for _ in range(2):
        delivered = DeliveryLog(path)
        assert delivered.damage is None
        assert delivered.study == StudyDelivery("1", "parent", "file", "STOPPED", {"n": "x"}, ["lr"], [2], [0])
        assert delivered.finished == {2: "run2"}
        first, second, third = (delivered.trials[number] for number in (0, 1, 3))
        assert (first.run_id, first.has_params, first.offset("1.0")) == ("run0", True, 10)
        assert (second.run_id, second.has_params) == ("run1", False)  # it died before it sent the parameters
        assert (third.run_id, third.has_params, third.unlisted) == ("run3", True, True)
        delivered._compact()  # and once more in today's form
        delivered.close()


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 4000), rubbish=st.binary(max_size=30))
def test_a_torn_tail_is_cut_off(tmp_path_factory: pytest.TempPathFactory, cut: int, rubbish: bytes) -> None:
    folder = tmp_path_factory.mktemp("torn")
    lines = [(records.dumps(event) + "\n").encode() for event in story()]
    data = b"".join(lines)
    torn = data[: min(cut, len(data))]
    whole = torn[: torn.rfind(b"\n") + 1]
    (folder / "c.jsonl").write_bytes(torn + rubbish.replace(b"\n", b""))
    (folder / "whole.jsonl").write_bytes(whole)
    delivered = DeliveryLog(folder / "c.jsonl")
    assert known(delivered) == known(opened(folder / "whole.jsonl"))
    delivered.note_study(state="COMPLETE")  # goes on behind the cut
    delivered.close()
    assert (folder / "c.jsonl").read_bytes().startswith(whole)
    assert opened(folder / "c.jsonl").study.state == "COMPLETE"
    shutil.rmtree(folder)


@pytest.mark.parametrize("end", [b"\0" * 100, b'{"event": "cre' + b"\0" * 100, b"\0" * 10 + b"\n\0\n", b'{"event'])
def test_what_a_power_cut_or_a_kill_leaves_at_the_end_is_cut_off(tmp_path: Path, end: bytes) -> None:
    delivered = DeliveryLog(tmp_path / "c.jsonl")
    delivered.note(delivery_log.study(StudyDelivery("1", "parent")))
    delivered.close()
    with delivered.path.open("ab") as file:
        file.write(end)
    again = opened(delivered.path)
    assert (again.study.run_id, again.damage) == ("parent", None)
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
    "a list for an object": b'{"event": "study", "experiment_id": "1", "run_id": "2", "tags": []}\n',
    "texts for trials": b'{"event": "marking", "best": ["a"], "maybe": []}\n',
    "brackets in brackets": b"[" * 100_000 + b"\n",
    "zeros in the middle": b"\0" * 4096 + b"\n",
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_a_damaged_log_is_put_aside_and_named(tmp_path: Path, wrong: bytes) -> None:
    """What is missing in the middle is not known: nothing of the file can be trusted."""
    path = tmp_path / "c.jsonl"
    lines = [(records.dumps(event) + "\n").encode() for event in story()]
    path.write_bytes(b"".join([*lines[:9], wrong, *lines[9:]]))
    before = path.read_bytes()
    delivered = DeliveryLog(path)
    assert (delivered.trials, delivered.finished, delivered.study.run_id) == ({}, {}, None)
    assert str(path) in str(delivered.damage)
    (aside,) = tmp_path.glob("c.jsonl.*")
    assert aside.name in str(delivered.damage)
    assert aside.read_bytes() == before
    delivered.note(delivery_log.study(StudyDelivery("1", "new")))
    delivered.close()
    again = opened(path)
    assert (again.study.run_id, again.damage) == ("new", None)


def test_a_folder_in_the_place_of_the_log_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl" / "inside").mkdir(parents=True)
    delivered = opened(tmp_path / "c.jsonl")
    assert "is a folder" in str(delivered.damage)
    assert delivered.path.is_file()


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered = DeliveryLog(tmp_path / "c.jsonl")
    delivered.note(delivery_log.create(0, 1.0))
    before, write = delivered.path.read_bytes(), os.write
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
        delivered.note(delivery_log.created(0, "run", 1.0))
    monkeypatch.undo()
    assert delivered.trials[0].run_id is None
    assert delivered.path.read_bytes() == before
    delivered.note(delivery_log.created(0, "run", 1.0))
    delivered.close()
    assert opened(delivered.path).trials[0].run_id == "run"


def test_ten_thousand_finished_trials_open_in_well_under_two_seconds(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    lines = []
    for number in range(10_000):
        trial = [delivery_log.create(number, 1.0), delivery_log.created(number, "r" * 32, 1.0)]
        lines += [*trial, delivery_log.sending(number, Range("1.0", 0, 10)), delivery_log.done(number, "r" * 32)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = time.process_time()
    first = opened(path)
    second = opened(path)  # compacted
    assert time.process_time() - start < 2
    assert len(first.finished) == len(second.finished) == 10_000
    assert path.stat().st_size < 1_200_000

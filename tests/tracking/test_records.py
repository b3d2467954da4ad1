"""Records: whole or absent, whoever dies and whenever."""

import math
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialfleet.tracking import records

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_a_record_is_read_as_written(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "deep" / "record.json"
    records.write(path, value)
    assert records.read(path) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_strings(tmp_path: Path, value: float) -> None:
    """Strict JSON has no word for them, and readers in other languages refuse Python's."""
    path = tmp_path / "record.json"
    records.write(path, {"values": (value, 1.5), "deep": [{"x": value}]})
    written = records.read(path)
    assert written["values"][0] in ("NaN", "Infinity", "-Infinity")
    read = records.number(written["deep"][0]["x"])
    assert read == value or (math.isnan(read) and math.isnan(value))


def test_no_record_is_none(tmp_path: Path) -> None:
    assert records.read(tmp_path / "absent" / "record.json") is None


def test_a_record_is_created_once(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert records.create(path, {"by": 1})
    assert not records.create(path, {"by": 2})
    assert records.read(path) == {"by": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_of_many_creators_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    start = threading.Barrier(8)
    won: list[int] = []

    def create(number: int) -> None:
        start.wait()
        if records.create(path, {"by": number}):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert records.read(path) == {"by": won[0]}
    assert len(won) == 1


@pytest.mark.parametrize("save", [records.write, records.create])
@pytest.mark.parametrize("dies_at", ["fsync", "replace", "link"])
def test_a_death_while_writing_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Any, dies_at: str
) -> None:
    """Before the one step that brings the record into being there is nothing to see of it."""

    def dies(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "record.json"
    monkeypatch.setattr(os, dies_at, dies)
    if (save, dies_at) not in ((records.write, "link"), (records.create, "replace")):
        with pytest.raises(OSError, match="No space"):
            save(path, {"state": "new"})
        assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_only_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    records.write(path, {"n": 0, "pad": ""})
    done = threading.Event()

    def rewrite() -> None:
        for n in range(60):
            records.write(path, {"n": n, "pad": "x" * (n * 997 % 20000)})
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    while not done.is_set():
        record = records.read(path)
        assert len(record["pad"]) == record["n"] * 997 % 20000
    writer.join()

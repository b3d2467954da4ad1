"""Records: whole or absent, whoever dies and whenever."""

import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialfleet.trial import records
from trialfleet.trial.records import Damaged
from trialfleet.trial.result import judged

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(json_values)
def test_a_record_is_read_as_written(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "deep" / "record.json"
    records.write(path, {"value": value})
    assert read(path) == {"value": value}


def read(path: Path) -> dict[str, Any]:
    """The record that is there."""
    record = records.read(path)
    assert record is not None
    return record


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_strings(tmp_path: Path, value: float) -> None:
    """Strict JSON has no word for them, and readers in other languages refuse Python's."""
    path = tmp_path / "record.json"
    records.write(path, {"values": (value, 1.5), "deep": [{"x": value}]})
    written = read(path)
    assert written["values"][0] in ("NaN", "Infinity", "-Infinity")
    number = records.number(written["deep"][0]["x"])
    assert number == value or (math.isnan(number) and math.isnan(value))


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
        record = read(path)
        assert len(record["pad"]) == record["n"] * 997 % 20000
    writer.join()


# -------------------------------------------------------------------- formats, and files that are none


def test_a_record_says_its_format_but_for_the_first(tmp_path: Path) -> None:
    """Those that wrote the first did not say so, and know no other."""
    for form, said in [(records.FORMAT, {"format": records.FORMAT, "x": 1}), (1, {"x": 1})]:
        records.write(tmp_path / "record.json", {"x": 1}, form=form)
        assert json.loads((tmp_path / "record.json").read_text()) == said
        assert read(tmp_path / "record.json") == {"x": 1}


DAMAGED = {
    "half": (b'{"format": 2, "x": ', "no JSON"),
    "binary": (bytes(range(128, 256)), "no JSON"),
    "too deep": (b"[" * 100_000, "no JSON"),
    "a list": (b"[1, 2]", "no JSON object"),
    "a newer version's": (b'{"format": %d}' % (records.FORMAT + 1), "a newer one wrote it"),
    "of no version": (b'{"format": "new"}', "format 'new'"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_record_is_named_with_what_is_wrong(tmp_path: Path, kind: str) -> None:
    path, (content, reason) = tmp_path / "record.json", DAMAGED[kind]
    path.write_bytes(content)
    with pytest.raises(Damaged) as damage:
        records.read(path)
    assert damage.value.path == path
    assert reason in str(damage.value)
    assert str(path) in str(damage.value)


def test_a_folder_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="is a folder"):
        records.read(tmp_path)


@pytest.mark.parametrize("content", [b"", bytes(300)])
def test_what_a_power_cut_left_of_a_record_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record.json").write_bytes(content)
    assert records.read(tmp_path / "record.json") is None


def test_a_file_of_any_size_is_read_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_BYTES", 1 << 20)
    path = tmp_path / "record.json"
    records.write(path, {"x": "y" * ((1 << 20) - 100)})
    assert len(read(path)["x"]) > 1_000_000
    with open(path, "ab") as file:
        file.truncate(4 << 30)  # holes, which cost nothing but to be read
    taken, pread = list[int](), os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        taken.append(size)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    with pytest.raises(Damaged, match="larger than 1 MiB"):
        records.read(path)
    assert sum(taken) < 2 << 20


def test_the_end_of_a_log_of_any_size_costs_little(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open(path, "wb") as file:
        file.seek(4 << 30)
        file.write("\nthe last words: büche".encode())
    before = bytes_read()
    assert records.tail(path, 4000).endswith("the last words: büche")
    assert bytes_read() - before < 1 << 20
    assert records.tail(tmp_path / "absent", 4000) == records.tail(tmp_path, 4000) == ""


def bytes_read() -> int:
    """By this process so far, as the kernel counts."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


@pytest.mark.parametrize("text", ["\ud83d", "a\udc00b", {"\ud83d": 1}, ["x", {"y": "\udfff"}]])
def test_half_a_pair_of_surrogates_is_no_reason_to_lose_a_record(tmp_path: Path, text: Any) -> None:
    records.write(tmp_path / "record.json", {"text": text, "more": 1})
    assert read(tmp_path / "record.json")["more"] == 1


class Odd:
    """An object that fails at whatever is asked of it."""

    def __repr__(self) -> str:
        raise KeyError(1)


def itself() -> dict[str, Any]:
    """A value that holds itself, many times over."""
    value: dict[str, Any] = {}
    value["a"] = value["b"] = value["c"] = [value, value]
    return value


ODD = {
    "an object": object(),
    "one that fails": Odd(),
    "a key that fails": {Odd(): 1},
    "what holds itself": itself(),
    "a number of 5000 digits": 10**5000,
    "a set": {1, 2},
    "bytes": b"bytes",
    "a complex number": 1j,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_json_has_no_form_for_becomes_text(tmp_path: Path, kind: str) -> None:
    records.write(tmp_path / "record.json", {"value": ODD[kind], "more": 1})
    assert read(tmp_path / "record.json")["more"] == 1


def test_a_digest_is_the_same_for_any_order_of_keys_and_another_for_another_value() -> None:
    assert records.digest({"x": 1, "y": [0.1, math.inf]}) == records.digest({"y": [0.1, math.inf], "x": 1})
    assert len({records.digest({"x": value}) for value in (1, 1.5, "1", None, math.nan, "\ud83d")}) == 6


def test_a_function_that_returns_nothing_is_told_from_one_that_returns_no_number() -> None:
    _, _, error = judged(None, 1)
    assert error is not None
    assert error["message"].endswith("it returned None, as a function without `return` does")

"""Exactly once per (metric, step), whatever the runs of a trial report in whatever order."""

import json
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialfleet.tracking import dedup as dedup_module
from trialfleet.tracking.dedup import Dedup, Row, metric_name, read_lines, read_range
from trialfleet.trial.metrics import MAX_STEP, Line, Writer

nan, inf = math.nan, math.inf


def dedup_with(history: list[Line]) -> Dedup:
    def earlier() -> Iterator[Line]:
        yield from history

    return Dedup(earlier)


values = st.sampled_from([0.0, 1.0, nan, inf])
reports = st.builds(
    Line, st.integers(-2, 6), st.just(1.0), st.dictionaries(st.sampled_from("ab"), values, min_size=1, max_size=2)
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(reports, max_size=5), max_size=6))
def test_the_first_report_of_a_step_stands_and_no_other(chunks: list[list[Line]]) -> None:
    history: list[Line] = []
    dedup, sent = dedup_with(history), {}
    for chunk in chunks:
        rows, conflicts = dedup.take(chunk)
        history += chunk
        for row in rows:
            assert (row.name, row.step) not in sent
            sent[row.name, row.step] = row.value
        for conflict in conflicts:
            assert repr(conflict.first) == repr(sent[conflict.name, conflict.step]) != repr(conflict.second)
    first: dict[tuple[str, int], float] = {}
    for line in [line for chunk in chunks for line in chunk]:
        for name, value in line.values.items():
            first.setdefault((name, line.step), value)
    assert {key: repr(value) for key, value in sent.items()} == {key: repr(value) for key, value in first.items()}


def test_rising_steps_need_no_memory_of_values() -> None:
    def never() -> Iterator[Line]:
        raise AssertionError("the files are read again without need")
        yield

    dedup = Dedup(never)
    for step in range(1000):
        dedup.take([Line(step, float(step), {"loss": 1.0})])
    assert dedup._values is None


def test_the_same_value_again_is_no_conflict_and_another_is() -> None:
    history = [Line(1, 1.0, {"a": 0.5, "n": nan, "i": inf})]
    dedup = dedup_with(history)
    dedup.take(history)
    rows, conflicts = dedup.take([Line(1, 2.0, {"a": 0.5, "n": nan, "i": inf})])
    assert (rows, conflicts) == ([], [])
    rows, conflicts = dedup.take([Line(1, 2.0, {"a": 0.25})])
    assert rows == []
    assert str(conflicts[0]) == "a at step 1 was 0.5, and 0.25 when trained again"


def test_what_mlflow_has_is_not_sent_again() -> None:
    dedup = dedup_with([])
    dedup.assume([("a", 1, 0.5), ("i", 1, 1.7976931348623157e308)])
    rows, conflicts = dedup.take([Line(1, 1.0, {"a": 0.5, "i": inf}), Line(2, 1.0, {"a": 0.4})])
    assert rows == [Row("a", 0.4, 1000, 2)]
    assert conflicts == []


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("val/wer", "val/wer"),
        ("val/top@5", "val/top_5"),
        ("wörter 1:2", "wörter 1:2"),
        ("/a//b/../c/", "a/b/c"),
        ("", "unnamed"),
        (".", "unnamed"),
        ("a\nb", "a_b"),
        ("objective", "reported/objective"),
        ("objective/val/wer", "reported/objective/val/wer"),
        ("objectives", "objectives"),
        ("x" * 300, "x" * 250),
        ("a\ud800b\0c", "a_b_c"),
        ("objective/" + "x" * 230 + "/y/z", "reported/objective/" + "x" * 230),
    ],
)
def test_metric_names_become_such_as_mlflow_takes(name: str, clean: str) -> None:
    assert metric_name(name) == clean


@given(st.text(st.characters(), max_size=300) | st.text("a/.", min_size=230, max_size=260).map("objective/".__add__))
def test_every_metric_name_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric, _validate_param_name, _validate_tag_name

    from trialfleet.tracking.mlflow_runs import param_name

    _validate_metric(metric_name(name), 1.0, 1, 1)
    _validate_param_name(param_name(name))
    _validate_tag_name(param_name(name))
    assert metric_name(metric_name(name)) in (metric_name(name), f"reported/{metric_name(name)}"[:250])


def test_lines_are_read_whole_and_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    path = tmp_path / "metrics.jsonl"
    assert read_lines(path, 0) == ([], 0)
    writer = Writer(path)
    for step in range(200):
        writer.append(step, {"loss": nan if step == 7 else 1.0 / (step + 1)})
    writer.close()
    with path.open("ab") as file:
        file.write(b'{"step": 200, "time": 1')  # torn
    monkeypatch.setattr(dedup_module, "CHUNK_BYTES", 300)
    steps, start = [], 0
    while True:
        lines, end = read_lines(path, start)
        if end == start:
            break
        assert len(lines) < 8
        steps += [line.step for line in lines]
        start = end
    assert steps == list(range(200))
    assert [line.step for line in read_range(path, 0, start)] == steps
    monkeypatch.setattr(dedup_module, "CHUNK_BYTES", 10)  # shorter than a line
    assert read_lines(path, 0)[0][0].step == 0


@pytest.mark.parametrize(
    "bad",
    [
        "no json",
        "[]",
        '{"step": 1}',
        '{"step": "x", "time": 1, "values": {}}',
        '{"step": 1, "time": "NaN", "values": {}}',
        '{"step": 1, "time": 1, "values": {"a": null}}',
        '{"step": 1, "time": 1, "values": {"a": "high"}}',
        json.dumps({"step": MAX_STEP + 1, "time": 1, "values": {}}),
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_report_is_left_out(tmp_path: Path, bad: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    good = '{"step": 5, "time": 1.5, "values": {"a": "NaN"}}\n'
    path.write_text(bad + "\n" + good)
    lines, end = read_lines(path, 0)
    assert [line.step for line in lines] == [5]
    assert end == path.stat().st_size
    assert "is no report" in caplog.text


def endless(path: Path, size: int) -> None:
    """A report, a line of `size` bytes, another report."""
    with path.open("wb") as file:
        file.write(b'{"step": 1, "time": 1, "values": {"a": 1}}\n')
        file.seek(size, 1)  # a hole, which costs no disk
        file.write(b'\n{"step": 2, "time": 1, "values": {"a": 2}}\n')


def test_an_endless_line_is_passed_over_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    endless(path, 300 << 20)
    told: list[str] = []
    steps, start = [], 0
    tracemalloc.start()
    while True:
        lines, end = read_lines(path, start, complain=told.append)
        if end == start:
            break
        steps += [line.step for line in lines]
        start = end
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert steps == [1, 2]
    assert start == path.stat().st_size
    assert peak < 40 << 20
    (text,) = told
    assert str(path) in text
    assert "is no report and is left out" in text
    assert [line.step for line in read_range(path, 0, start, told.append)] == [1, 2]


def test_an_endless_line_that_has_no_end_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    endless(path, 30 << 20)
    whole = path.read_bytes()
    path.write_bytes(whole[: 30 << 20])
    start = read_lines(path, 0)[1]
    assert read_lines(path, start) == ([], start)
    path.write_bytes(whole)
    behind = read_lines(path, start)[1]
    assert read_lines(path, start, behind - 1) == ([], start)  # a range that ends within it
    assert [line.step for line in read_lines(path, behind)[0]] == [2]


def test_of_many_lines_that_are_no_reports_the_first_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("rubbish\n" * 1000)
    told: list[str] = []
    assert read_lines(path, 0, complain=told.append) == ([], 8000)
    (text,) = told
    assert "a line and 999 more" in text


@pytest.mark.parametrize("seconds", [1e300, -1e300, 1e18])
def test_times_that_no_store_can_hold_become_some_that_it_can(seconds: float) -> None:
    rows, _ = dedup_with([]).take([Line(1, seconds, {"a": 1.0})])
    assert 0 <= rows[0].time < 1 << 48

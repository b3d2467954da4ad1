"""Exactly once per (metric, step), whatever the runs of a trial report in whatever order."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialfleet.tracking.metrics import MAX_STEP, Line, Writer
from trialfleet.tracking.once import Once, Row, metric_name, read_lines, read_range

nan, inf = math.nan, math.inf


def once_with(history: list[Line]) -> Once:
    def earlier() -> Iterator[Line]:
        yield from history

    return Once(earlier)


values = st.sampled_from([0.0, 1.0, nan, inf])
reports = st.builds(
    Line, st.integers(-2, 6), st.just(1.0), st.dictionaries(st.sampled_from("ab"), values, min_size=1, max_size=2)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(reports, max_size=5), max_size=6))
def test_the_first_report_of_a_step_stands_and_no_other(chunks: list[list[Line]]) -> None:
    history: list[Line] = []
    once, sent = once_with(history), {}
    for chunk in chunks:
        rows, conflicts = once.take(chunk)
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

    once = Once(never)
    for step in range(1000):
        once.take([Line(step, float(step), {"loss": 1.0})])
    assert once._values is None


def test_the_same_value_again_is_no_conflict_and_another_is() -> None:
    history = [Line(1, 1.0, {"a": 0.5, "n": nan, "i": inf})]
    once = once_with(history)
    once.take(history)
    rows, conflicts = once.take([Line(1, 2.0, {"a": 0.5, "n": nan, "i": inf})])
    assert (rows, conflicts) == ([], [])
    rows, conflicts = once.take([Line(1, 2.0, {"a": 0.25})])
    assert rows == []
    assert str(conflicts[0]) == "a at step 1 was 0.5, and 0.25 when trained again"


def test_what_mlflow_has_is_not_sent_again() -> None:
    once = once_with([])
    once.assume([("a", 1, 0.5), ("i", 1, 1.7976931348623157e308)])
    rows, conflicts = once.take([Line(1, 1.0, {"a": 0.5, "i": inf}), Line(2, 1.0, {"a": 0.4})])
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
    ],
)
def test_metric_names_become_such_as_mlflow_takes(name: str, clean: str) -> None:
    assert metric_name(name) == clean


@given(st.text(max_size=300))
def test_every_metric_name_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric

    _validate_metric(metric_name(name), 1.0, 1, 1)
    assert metric_name(metric_name(name)) in (metric_name(name), f"reported/{metric_name(name)}"[:250])


def test_lines_are_read_whole_and_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trialfleet.tracking import once

    path = tmp_path / "metrics.jsonl"
    assert read_lines(path, 0) == ([], 0)
    writer = Writer(path)
    for step in range(200):
        writer.append(step, {"loss": nan if step == 7 else 1.0 / (step + 1)})
    writer.close()
    with path.open("ab") as file:
        file.write(b'{"step": 200, "time": 1')  # torn
    monkeypatch.setattr(once, "CHUNK_BYTES", 300)
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
    monkeypatch.setattr(once, "CHUNK_BYTES", 10)  # shorter than a line
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

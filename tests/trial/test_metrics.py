"""metrics.jsonl: only whole lines count, whoever was killed in the middle of one."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialfleet.trial import metrics


def test_lines_are_read_as_reported(tmp_path: Path) -> None:
    writer = metrics.Writer(tmp_path / "runs" / "metrics.jsonl")
    writer.append(1, {"loss": 0.5, "räte": 3})
    writer.append(2, {"loss": math.nan, "up": math.inf, "down": -math.inf})
    writer.close()
    (first, second), end = metrics.read_from(tmp_path / "runs" / "metrics.jsonl")
    assert (first.step, first.values) == (1, {"loss": 0.5, "räte": 3.0})
    assert second.step == 2
    assert math.isnan(second.values["loss"])
    assert (second.values["up"], second.values["down"]) == (math.inf, -math.inf)
    assert first.time <= second.time
    assert end == (tmp_path / "runs" / "metrics.jsonl").stat().st_size


def test_each_line_is_strict_json_with_step_and_time(tmp_path: Path) -> None:
    writer = metrics.Writer(tmp_path / "metrics.jsonl")
    writer.append(7, {"loss": math.nan})
    writer.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line.keys() == {"step", "time", "values"}
    assert line["values"] == {"loss": "NaN"}


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert metrics.read_from(tmp_path / "metrics.jsonl", 5) == ([], 5)


@pytest.mark.slow
@given(st.lists(st.text(max_size=5), min_size=1, max_size=5), st.lists(st.floats(0, 1), max_size=6))
def test_a_tail_that_grows_is_read_exactly_once(tmp_path: Path, names: list[str], shares: list[float]) -> None:
    """However the bytes arrive, each line is read once, and never a part of one."""
    whole = tmp_path / "whole.jsonl"
    whole.unlink(missing_ok=True)
    writer = metrics.Writer(whole)
    for step, name in enumerate(names):
        writer.append(step, {name: step / 3})
    writer.close()
    content = whole.read_bytes()
    cuts = sorted({*(int(share * len(content)) for share in shares), len(content)})
    growing, offset, lines = tmp_path / "growing.jsonl", 0, []
    for cut in cuts:
        growing.write_bytes(content[:cut])
        new, offset = metrics.read_from(growing, offset)
        lines += new
    assert lines == metrics.read_from(whole)[0]
    assert [line.step for line in lines] == list(range(len(names)))


def test_a_line_that_a_full_disk_cut_short_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = metrics.Writer(path)
    writer.append(1, {"loss": 1})
    real, full = os.write, False

    def write(descriptor: int, data: Any) -> int:
        nonlocal full
        if full:
            raise OSError(28, "No space left on device")
        full = True
        return real(descriptor, data[:9])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space"):
            writer.append(2, {"loss": 2})
    assert [line.step for line in metrics.read_from(path)[0]] == [1]
    writer.append(3, {"loss": 3})
    writer.append(4, {"loss": 4})
    writer.close()
    assert [line.step for line in metrics.read_from(path)[0]] == [1, 3, 4]


def test_two_writers_never_mix_their_lines(tmp_path: Path) -> None:
    """A run and its double on a node that was lost: each line is one write to a file opened for appending."""
    writers = [metrics.Writer(tmp_path / "metrics.jsonl") for _ in range(2)]
    for step in range(20):
        writers[step % 2].append(step, {"loss": step})
    for writer in writers:
        writer.close()
    lines, _ = metrics.read_from(tmp_path / "metrics.jsonl")
    assert [line.step for line in lines] == list(range(20))


def test_a_huge_line_is_passed_over_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something wrote what is no report into the file: what comes before and after it counts."""
    monkeypatch.setattr(metrics, "CHUNK", 1 << 16)
    path = tmp_path / "metrics.jsonl"
    writer = metrics.Writer(path)
    writer.append(1, {"loss": 1})
    with open(path, "ab") as file:
        file.write(b"x" * (10 << 16) + b"\n")
    writer.append(2, {"loss": 2})
    writer.close()
    lines, offset, calls = [], 0, 0
    while offset < path.stat().st_size:
        new, offset = metrics.read_from(path, offset)
        lines += new
        calls += 1
    assert [line.step for line in lines] == [1, 2]
    assert calls > 10


def test_a_line_of_any_kind_is_a_report_or_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    odd = ["", "null", "[]", "{}", "{", '{"step": 1e999, "time": 1, "values": {}}', "\u2028", '"' + "9" * 5000 + '"']
    odd += ['{"step": 1, "time": NaN, "values": {}}', '{"step": 1, "time": 1, "values": {"loss": [1]}}', "9" * 5000]
    odd += [
        '{"step": 9223372036854775808, "time": 1, "values": {}}',
        '{"step": 1, "time": 1, "values": 3}',
        "[" * 99999,
    ]
    path.write_text("\n".join([*odd, '{"step": 7, "time": 1, "values": {"loss": "NaN"}}', ""]))
    lines, end = metrics.read_from(path)
    assert [line.step for line in lines] == [7]
    assert end == path.stat().st_size


def test_a_report_may_say_how_many_steps_there_will_be(tmp_path: Path) -> None:
    writer = metrics.Writer(tmp_path / "metrics.jsonl")
    writer.append(1, {"loss": 1.0}, 40)
    writer.append(2, {"loss": 1.0})
    writer.close()
    lines, _ = metrics.read_from(tmp_path / "metrics.jsonl")
    assert [line.steps for line in lines] == [40, None]
    for wrong in (b'"many"', b"-1", b"true", b"1.5"):
        assert metrics.parse(b'{"step": 1, "time": 1.0, "values": {}, "steps": %s}' % wrong).steps is None

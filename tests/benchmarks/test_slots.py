"""What the benchmarks of short trials make of stamps, shares and times."""

import argparse
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from benchmarks import refill, slot_use, turns
from benchmarks.peers import sides as peers
from benchmarks.toy import task
from benchmarks.toy.task import Stamp


def test_a_gap_lies_between_two_trials_of_one_process_in_the_window() -> None:
    ran = [
        Stamp(0.0, 0.0, 1.0, number=9, process="a"),
        Stamp(0.0, 1.5, 2.0, number=10, process="a"),
        Stamp(0.0, 1.6, 3.0, number=11, process="b"),
        Stamp(0.0, 2.25, 3.0, number=12, process="a"),
        Stamp(0.0, 3.5, None, number=13, process="b"),
        Stamp(0.0, 4.0, 5.0, number=14, process="a"),
    ]
    assert refill.gaps(ran, 10, 14) == [0.25, 0.5]


def test_slots_that_are_never_empty_are_all_used() -> None:
    shape = slot_use.Shape(trials=4, slots=2, length=1.0)
    full = [Stamp(0.0, start, start + 1.0) for start in (0.0, 0.0, 1.0, 1.0)]
    assert slot_use.use(full, shape) == 1.0
    cut = [*full[:3], Stamp(0.0, 1.0), Stamp(0.0, 3.0, 4.0)]
    assert slot_use.use(cut, shape) == 0.5


def test_processes_share_all_trials() -> None:
    assert peers.shares(5, 2) == [3, 2]
    assert peers.shares(1, 2) == [1]


def test_a_peer_is_measured_where_its_interpreter_is_known(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.touch()
    known = dict([peers.python(f"syne_tune={interpreter}")])
    assert list(peers.sides(known, 4, 2, [])) == ["Syne Tune", "plain Optuna"]
    with pytest.raises(argparse.ArgumentTypeError, match="one of ray, syne_tune, optuna"):
        peers.python(f"nobody={interpreter}")
    with pytest.raises(argparse.ArgumentTypeError, match=r"pip install \. 'ray\[tune\]'"):
        peers.python(f"ray={tmp_path}/missing")


def test_trials_outside_of_the_windows_do_not_sleep() -> None:
    config = OmegaConf.create({"sleepers": [[2, 4]], "shortest": 0.5, "ratio": 4.0, "x": 0.5})
    assert [task.seconds(config, number) for number in range(5)] == [0.0, 0.0, 1.0, 1.0, 0.0]
    config.sleepers = None
    assert task.seconds(config, 0) == 1.0


def test_sides_run_in_turns_there_and_back(tmp_path: Path) -> None:
    order: list[str] = []

    def side(name: str, took: float) -> turns.Side:
        return lambda folder: order.append(name) or took

    found = turns.in_turns({"a": side("a", 1.0), "b": side("b", 2.0)}, tmp_path, 2)
    assert order == ["a", "b", "b", "a"]
    assert turns.against(1.0, found, trials=4, slots=2).splitlines() == [
        "| | median s | spread s | s a trial and slot | / ideal |",
        "|---|---|---|---|---|",
        "| a | 1.0 | 0.0 | 0.50 | 1.00 |",
        "| b | 2.0 | 0.0 | 1.00 | 2.00 |",
    ]

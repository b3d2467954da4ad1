"""CPU time goes to the innermost part that is open."""

import time

from benchmarks.meter import Meter, public_methods


def work(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_time_goes_to_the_innermost_part() -> None:
    meter = Meter("first")
    with meter.part("outer"):
        work(0.01)
        meter.measured("inner", work)(0.02)
    seconds = meter.seconds()
    assert seconds["outer"] >= 0.01
    assert seconds["inner"] >= 0.02
    assert sum(seconds.values()) >= 0.03
    assert set(seconds) == {"first", "outer", "inner"}


def test_an_absorbing_part_keeps_what_runs_within() -> None:
    meter = Meter("first", absorbing=["outer"])
    with meter.part("outer"):
        meter.measured("inner", work)(0.01)
    assert meter.seconds()["inner"] == 0
    assert meter.seconds()["outer"] >= 0.01


def test_only_the_methods_of_one_object_are_measured() -> None:
    class Worker:
        def run(self) -> str:
            work(0.01)
            return "done"

    meter, measured, other = Meter("first"), Worker(), Worker()
    meter.measure_methods("runs", measured, public_methods(Worker))
    assert other.run() == "done"
    assert meter.seconds()["runs"] == 0
    assert measured.run() == "done"
    assert meter.seconds()["runs"] >= 0.01

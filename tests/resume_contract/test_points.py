"""Each point about jobs finds out what contradicts it, in stories told by hand."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from .commands import Done
from .moments import Story
from .points import POINTS
from .side_file import Said, read, unfinished

SWEEP = Path("/sweep")


def line(event: str, x: float, outcome: str | None = None, number: int = 0, pid: int = 1, sweep: Path = SWEEP) -> Said:
    return Said(event, outcome, 0, pid, number, (("fixed", 1), ("x", x)), sweep / str(number), sweep)


def story(
    cut: list[Said], then: list[Said], total: int, in_flight: Sequence[Said] = (), interrupted: Sequence[Said] = ()
) -> Story:
    lines = [*cut, *then]
    return Story(total, "results.yaml", cut, [*in_flight], [*interrupted], resumed=Done(0, ""), lines=lines)


WELL = [line("start", 0.1), line("end", 0.1, "well")]
FAILED = [line("start", 0.2, number=1), line("end", 0.2, "failed", number=1)]
OPEN = [line("start", 0.3, number=2)]
ENDED = [line("end", 0.3, "well", number=2)]
AGAIN = [line("start", 0.3, number=2, pid=2), line("end", 0.3, "well", number=2, pid=2)]


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ("same sweep", story(WELL, [line("start", 0.5, sweep=Path("/other"))], 2)),
        ("numbers and folders are not used again", story(WELL, [line("start", 0.5)], 2)),
        ("total is kept", story(WELL, FAILED, 1)),
        ("total is kept", story(WELL, [], 2)),
        ("completed are not run again", story(WELL, WELL, 2)),
        ("failed stay failed", story(FAILED, FAILED, 2)),
        ("interrupted are run again", story(OPEN, WELL, 1, interrupted=OPEN)),
        ("in-flight are collected", story(OPEN, [*ENDED, *AGAIN], 2, in_flight=OPEN)),
        ("in-flight are collected", story(OPEN, [*ENDED, *WELL], 1, in_flight=OPEN)),
        ("in-flight are collected", story(OPEN, WELL, 2, in_flight=OPEN)),
    ],
)
def test_what_contradicts_a_point_is_found_out(point: str, told: Story) -> None:
    assert POINTS[point](told)


@pytest.mark.parametrize(
    "told",
    [
        story([*WELL, *FAILED, *OPEN], ENDED, 3, in_flight=OPEN),
        story([*WELL, *FAILED, *OPEN], AGAIN, 3, interrupted=OPEN),
    ],
)
def test_what_keeps_the_points_is_not_blamed(told: Story) -> None:
    about_jobs = [point for point in POINTS if point not in ("same sweep", "results are of all jobs")]
    assert [point for point in about_jobs if POINTS[point](told)] == []
    assert POINTS["completed are not run again"](told) == ""
    assert POINTS["failed stay failed"](told) == ""


def test_a_line_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    side = tmp_path / "side.jsonl"
    whole = (
        '{"event": "start", "order": 0, "pid": 7, "number": 0, "parameters": {"x": 1.0}, "folder": "f", "sweep": "s"}'
    )
    side.write_text(f"{whole}\n{whole[:30]}")
    assert [(job.pid, job.parameters) for job in unfinished(read(side))] == [(7, (("x", 1.0),))]

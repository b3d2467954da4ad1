"""The live view: it fits its terminal, keeps its columns, and says how long it will take."""

from pathlib import Path

import pytest

from benchmarks import live_view_picture
from trialfleet.sweep.ui.follow_up import follow_up
from trialfleet.sweep.ui.live_table import fitting
from trialfleet.sweep.ui.screen import StudyView, TrialView, cost, duration, screen, status


def view(running: int = 3, waiting: int = 0, total: int = 1000, **more: object) -> StudyView:
    trials = [
        TrialView(
            number, step=10, steps=40, values=[0.25], others={"train/loss": 0.5}, seconds=30.0, node="node-with-a-name"
        )
        for number in range(running)
    ]
    trials += [TrialView(running + number, state="Priority", runs=False) for number in range(waiting)]
    given = {"best": [0.125], "best_trial": 7, "best_age": 65.0, "slots": 4, "mean_seconds": 120.0}
    given |= {"states": {"COMPLETE": 90, "FAIL": 10}, "causes": {"ValueError": 9, "Lost": 1}} | more
    return StudyView("a-study", total, metrics=["val/loss"], trials=trials, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("height", [8, 24, 60])
def test_it_is_never_wider_or_longer_than_the_terminal(width: int, height: int) -> None:
    lines = screen(view(200, 56), width, height).plain.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= height
    assert "100/1000" in lines[0]
    if height >= 24 and width >= 60:
        assert lines[-1].startswith("… and ")
        assert "more: " in lines[-1]


def test_it_says_what_is_asked() -> None:
    said = screen(view(3, 1), 100, 24).plain
    for text in (
        "100/1000 done",
        "about ",
        "best val/loss=0.125 (trial 7, 1:05 ago)",
        "slots  4 of 4 in use: 3 running, 1 waiting (1 Priority)",
        "ended  90 complete, 10 failed (ValueError 9, Lost 1)",
        "10/40",
        "node-with-a-name",
    ):
        assert text in said


def test_columns_keep_their_places_as_numbers_change() -> None:
    small, large = view(), view(best_age=5.0)
    narrow = [screen(one, 76, 24).plain.splitlines()[-3].index("0.25") for one in (small, large)]
    assert narrow[0] == narrow[1]
    header = screen(small, 76, 24).plain.splitlines()[-4]
    assert header.split() == ["trial", "progress", "val/loss", "time", "node"]
    assert "train/loss" in screen(small, 200, 24).plain


def test_a_bar_is_full_only_when_all_is_done() -> None:
    assert "━╸ 999/1000" in screen(view(1, states={"COMPLETE": 999}), 80, 24).plain.splitlines()[0]
    assert "━━ 1000/1000" in screen(view(0, states={"COMPLETE": 1000}), 80, 24).plain.splitlines()[0]


@pytest.mark.parametrize(
    ("running", "total", "slots", "left"),
    [
        (1, 101, 4, 90.0),  # the one that runs, by its own pace
        (4, 104, 4, 90.0),
        (4, 105, 4, 90.0 + 120.0),
        (4, 112, 4, 90.0 + 240.0),
        (2, 104, 4, 120.0),  # two free slots take two more at once
        (0, 100, 4, None),
    ],
)
def test_the_time_left_is_what_the_slots_need(running: int, total: int, slots: int, left: float | None) -> None:
    assert view(running, total=total, slots=slots).seconds_left() == left


def test_before_a_trial_has_ended_those_that_run_tell_the_pace() -> None:
    assert view(2, total=4, slots=2, states={}, mean_seconds=None).seconds_left() == 90.0 + 120.0
    nothing = StudyView("new", 4, {}, {}, ["loss"], [TrialView(0)])
    assert nothing.seconds_left() is None
    assert "0/4 done" in screen(nothing, 80, 24).plain


def test_a_trial_that_does_not_say_its_steps_has_no_bar() -> None:
    said = screen(StudyView("s", 4, {}, {}, ["loss"], [TrialView(0, step=12, values=[None])]), 80, 24).plain
    assert "step 12" in said
    assert "starting" in screen(StudyView("s", 4, {}, {}, ["loss"], [TrialView(0)]), 80, 24).plain


def test_in_a_log_it_is_one_line() -> None:
    said = status(view(3, 1))
    assert said.startswith("100/1000 done, 3 running, 1 waiting, 90 complete, 10 failed (ValueError 9, Lost 1), best")
    assert "left" in said
    assert "\n" not in said


def test_durations_are_written_as_people_do() -> None:
    assert [duration(seconds) for seconds in (None, 5, 65, 3665, 97_500)] == ["", "0:05", "1:05", "1:01:05", "1 d 3:05"]


def test_the_documentation_shows_what_is_drawn_today() -> None:
    drawn = (Path(__file__).parents[3] / "docs" / "pictures" / live_view_picture.NAME).read_text()
    assert drawn == live_view_picture.picture(), "python -m benchmarks.live_view_picture"


def test_what_has_no_room_is_left_out_whole() -> None:
    values = {"learning_rate": 0.0026681, "weight_decay": 7.5886e-05, "kind": "adam"}
    whole = "  learning_rate=0.002668  weight_decay=7.589e-05  kind=adam"
    said = [fitting(values, room) for room in range(-5, 70)]
    assert {len(text) <= max(0, room) for room, text in enumerate(said, -5)} == {True}
    assert list(dict.fromkeys(said)) == [
        "",
        "  …",
        "  learning_rate=0.002668  …",
        "  learning_rate=0.002668  weight_decay=7.589e-05  …",
        whole,
    ]


def test_what_it_cost_is_told_in_one_way() -> None:
    assert cost(8, {"wall_hours": 83 / 3600, "device_hours": 0.04453}) == (
        "8 trials, 1:23 of drivers at work, 0.0445 device-hours"
    )
    assert cost(1, {}) == "1 trial"


@pytest.mark.parametrize(("best", "ends"), [(0, None), (1, "export mine"), (3, "export mine --front")])
def test_the_command_that_exports_is_one_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int, ends: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    said = follow_up(Path("sweeps/mine"), best)["export"]
    assert said == (None if ends is None else f"trialfleet study {ends}")

"""The study's own curves: one point for each count of ended trials, over all drivers."""

import re
from pathlib import Path
from types import SimpleNamespace

from trialfleet.sweep.study.progress import Finished, StudyProgress
from trialfleet.sweep.study_curve import StudyCurve, _values
from trialfleet.trial.metrics import CURVES, read_from

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reviewing.md"


def driver(*values: float | None, in_flight: int = 3) -> SimpleNamespace:
    """One whose trials have ended with these values; None stands for a failure."""
    progress = StudyProgress(["minimize"])
    for number, value in enumerate(values):
        state, error = ("FAIL", "ValueError: no") if value is None else ("COMPLETE", None)
        progress.add(Finished(number, state, None if value is None else [value], {}, error))
    account = SimpleNamespace(device_seconds=7200.0)
    return SimpleNamespace(progress=progress, in_flight=in_flight, slots=lambda: 4, account=account)


def test_points_are_written_as_trials_end_and_once(tmp_path: Path) -> None:
    curve = StudyCurve(tmp_path)
    for seen in (driver(), driver(0.5), driver(0.5), driver(0.5, None, 0.25)):
        curve.tick(seen)  # type: ignore[arg-type]  # all that it uses
    curve.close()
    lines, _ = read_from(tmp_path / CURVES)
    assert [(line.step, line.values["study/best"], line.values["study/failed"]) for line in lines] == [
        (1, 0.5, 0),
        (3, 0.25, 1),
    ]
    assert (lines[0].values["study/slot_use"], lines[0].values["study/device_hours"]) == (0.75, 2.0)


def test_the_end_says_nothing_of_slots(tmp_path: Path) -> None:
    """A table shows a metric's last value, and nobody asks for that of a study that is over."""
    curve = StudyCurve(tmp_path)
    curve.tick(driver(0.5))  # type: ignore[arg-type]  # all that it uses
    curve.tick(driver(0.5, 0.25, in_flight=0))  # type: ignore[arg-type]
    curve.close()
    lines, _ = read_from(tmp_path / CURVES)
    assert [("study/slot_use" in line.values, "study/slots_in_use" in line.values) for line in lines] == [
        (True, True),
        (False, False),
    ]


def test_each_metric_of_the_study_is_on_the_page() -> None:
    """Those of one objective, and of two."""
    front = driver()
    front.progress = StudyProgress(["minimize", "maximize"])
    front.progress.add(Finished(0, "COMPLETE", [1.0, 2.0], {}))
    names = _values(driver(0.5)).keys() | _values(front).keys()  # type: ignore[arg-type]  # all that it uses
    assert set(re.findall(r"`(study/\w+)`", PAGE.read_text())) == names


def test_a_driver_goes_on_where_one_was_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    (tmp_path / CURVES).write_text('{"step": 1, "time": 1.0, "values": {"study/best": 0.5}}\n{"step": 2, "ti')
    curve = StudyCurve(tmp_path)
    for seen in (driver(0.5), driver(0.5, 0.4)):
        curve.tick(seen)  # type: ignore[arg-type]  # all that it uses
    curve.close()
    lines, _ = read_from(tmp_path / CURVES)
    assert [line.step for line in lines] == [1, 2]


def test_where_nothing_can_be_written_the_study_goes_on(tmp_path: Path) -> None:
    (tmp_path / CURVES).mkdir()
    curve = StudyCurve(tmp_path)
    curve.tick(driver(0.5))  # type: ignore[arg-type]  # all that it uses
    curve.close()

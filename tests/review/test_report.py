"""The report of a study: figures that say what its files say, names that stay texts, and studies of every kind."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from benchmarks import report as benchmark
from benchmarks import simulated_study
from benchmarks.simulated_study import METRIC, Shape
from tests.chromium import chromium_or_skip
from tests.tracking.folders import Folder
from trialfleet.review.report import canvas, parameter_figures, pictures, progress_figures, slot_figures, writing
from trialfleet.review.report.axes import OTHERS, category, cut, metric_axis, parameter_axis, plain
from trialfleet.review.report.page import name as name_html
from trialfleet.review.report.runs import LOST, slots
from trialfleet.review.report.summaries import bands, counts
from trialfleet.review.report.view import View
from trialfleet.review.studies import Study, load
from trialfleet.sweep.study import command, study_record
from trialfleet.sweep.study.command import Command
from trialfleet.sweep.study.lease import Lease

from .conftest import Ask

pytestmark = pytest.mark.xdist_group("report")  # the studies are made once
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>%{x}&amp;'\""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of studies: `small` of 40 trials, `large` of 900 whose figures are aggregated, `two` objectives."""
    place = tmp_path_factory.mktemp("simulated") / "sweeps"
    simulated_study.make(place / "small", Shape(40, slots=4, failed=0.15, lost=0.2))
    simulated_study.make(place / "large", Shape(900, slots=160))
    simulated_study.make(place / "two", Shape(60, slots=4, objectives=2))
    return place


def made(folder: Path, ways: list[str] | None = None, told: Command | None = None, name: str | None = None) -> Study:
    """A study in files whose trials are still to be written."""
    ways = ways or ["minimize"]
    metrics = [f"m{place}" for place in range(len(ways))]
    identity: dict[str, Any] = {"direction": ",".join(ways), study_record.METRICS: metrics}
    folder.mkdir(parents=True, exist_ok=True)
    study_record.write(
        folder / "study.yaml", study_record.create(name or folder.name, folder, 1, "S", "null", identity, {})
    )
    command.write(folder, told or Command("again", 10, 2, metrics, ways))
    return load(folder)


def data_of(page: str) -> dict[str, Any]:
    """The figures of a page."""
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page)
    return {} if found is None else json.loads(found.group(1))


def checked(page: str) -> dict[str, Any]:
    """The same; each is one that plotly knows, and has a place of its own in the page."""
    figures = data_of(page)
    for name, figure in figures.items():
        go.Figure(figure["data"], figure["layout"])
        assert page.count(f'data-figure="{name}"') == 1
    return figures


class Words(HTMLParser):
    """What a browser would show, and which tags it would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: set[str] = set()
        self._code = self._goes_on = False
        self.feed(re.sub(r'<script type="text/plain" id="plotly">.*?</script>\n', "", page, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self._code = tag in ("script", "style")
        self._goes_on = tag == "wbr"

    def handle_data(self, data: str) -> None:
        if self._goes_on:
            self.said[-1] += data
        elif not self._code:
            self.said.append(data)
        self._goes_on = False

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def trace(figure: progress_figures.Figure, name: str) -> dict[str, Any]:
    return next(one for one in figure.data if one.get("name") == name)


# -------------------------------------------------------------------- what figures say


def test_the_figures_are_the_studys_numbers(simulated: Path) -> None:
    view = View(load(simulated / "small"))
    ended = sorted(view.study.rows, key=lambda row: (row.ended, row.number))
    values = [row.values[0] if row.values else np.nan for row in ended]
    history = progress_figures.history(view, by_hours=False)
    shown = trace(history, "trial")
    known = [place for place, value in enumerate(values) if not np.isnan(value)]
    assert shown["x"] == [place + 1 for place in known]
    assert np.allclose(shown["y"], [values[place] for place in known], rtol=1e-5)
    best = trace(history, "best so far")
    assert np.allclose(best["y"][:-1], np.unique(np.fmin.accumulate(values)[known])[::-1], rtol=1e-5)
    hours = progress_figures.history(view, by_hours=True)
    assert hours.layout["xaxis"]["range"][1] > view.study.used["device_hours"] * 0.9
    for state, word in (("COMPLETE", "complete"), ("PRUNED", "pruned"), ("FAIL", "failed")):
        assert sum(trace(history, word)["y"]) == view.study.counts[state]
    slices = parameter_figures.slices(view, 0)
    assert len(slices) == len(view.axes) == 6
    rate = next(place for place, axis in enumerate(view.axes) if axis.name == "optimizer.learning_rate")
    params = [row.params["optimizer.learning_rate"] for row in view.complete]
    assert np.allclose(trace(slices[rate], "trial")["x"], np.log10(params), rtol=1e-5)
    momentum = next(place for place, axis in enumerate(view.axes) if axis.name == "optimizer.momentum")
    having = sum("optimizer.momentum" in row.params for row in view.complete)
    assert len(trace(slices[momentum], "trial")["x"]) == having
    assert slices[momentum].note == f"{len(view.complete) - having} trials do not have it."


def test_curves_are_those_that_were_reported(simulated: Path) -> None:
    view = View(load(simulated / "small"))
    assert list(view.curves) == [METRIC]
    best = view.study.front[0]
    curve = next(one for one in view.curves[METRIC] if one.number == best.number)
    lines = (
        simulated / "small" / "trials" / f"{best.number:05d}" / "runs" / str(best.run) / "metrics.jsonl"
    ).read_text()
    reported = {one["step"]: one["values"][METRIC] for one in map(json.loads, lines.splitlines())}
    assert dict(zip(curve.steps, curve.values, strict=True)) == reported
    figure = progress_figures.learning_curves(view, METRIC)
    assert f"{view.study.counts['PRUNED']} trials were pruned" in figure.note


def test_of_many_trials_each_one_counts(simulated: Path) -> None:
    """What is aggregated adds up: nothing is left out by chance."""
    view = View(load(simulated / "large"))
    history = progress_figures.history(view, by_hours=False)
    named = re.findall(r"\((\d+) trials\)", " ".join(trace(history, "median")["text"]))
    assert sum(map(int, named)) == len(view.complete) > progress_figures.FEW / 2
    for figure in parameter_figures.slices(view, 0)[:2]:
        cells = [text for row in figure.data[0]["text"] for text in row if text]
        outside = len(view.complete) - sum(int(text.split()[0]) for text in cells)
        assert 0 <= outside <= 0.06 * len(view.complete)  # beyond the picture, as its axis is cut
    slots_figure = slot_figures.timeline(view)
    assert slots_figure is not None
    assert {one["type"] for one in slots_figure.data} == {"heatmap", "scatter"}
    assert len(slots_figure.data[0]["z"]) <= slot_figures.PLACES
    assert sum(len(figure["data"]) for figure in checked(writing.report(view.study)).values()) < 150


def test_hours_are_accounted_for(simulated: Path) -> None:
    view = View(load(simulated / "small"))
    account = view.account
    assert account.devices == simulated_study.DEVICES
    assert account.total == pytest.approx(view.study.used["device_hours"], rel=0.01)
    assert {"training", "compiling", "starting", "evaluating", "saving"} <= set(account.spent)
    failed = sum(row.seconds for row in view.study.rows if row.state == "FAIL" and row.seconds)
    assert account.spent["in trials that failed"] == pytest.approx(failed * account.devices / 3600)
    lost = [run for run in view.runs if run.state == LOST]
    assert lost
    wasted = sum(run.seconds for run in lost) * account.devices / 3600  # each trial began anew
    assert account.spent["lost to faults"] == pytest.approx(wasted)
    assert account.saved is not None
    assert account.saved > 0
    assert account.slots == 4
    assert account.queued_median is not None


def test_a_lost_run_wastes_what_the_next_one_repeats(tmp_path: Path) -> None:
    study = made(tmp_path / "study")
    trial = Folder(study.folder, 0, {"x": 1.0}).submit({"x": 1.0}, attempt=2)
    first, second = trial.run(label="1.0", at=1000.0), trial.run(label="2.0", at=1500.0)
    for run, steps, start in ((first, range(10, 50, 10), 1000), (second, range(30, 60, 10), 1500)):
        lines = [json.dumps({"step": step, "time": start + step, "values": {"m0": 1.0}}) for step in steps]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    trial.end(1.0, run="2.0", at=1600.0)
    lost, ended = View(load(study.folder)).runs
    assert (lost.state, ended.state) == (LOST, "COMPLETE")
    # It began at 1000, and was at step 20 at 1020: step 30 and what came after were done again.
    assert (lost.end, lost.wasted) == (1500.0, 480.0)


def test_hours_that_were_lost_are_spent_when_they_were_lost(simulated: Path) -> None:
    view = View(load(simulated / "small"))
    assert any(run.state == LOST for run in view.runs)
    assert view.ended.hours[-1] == pytest.approx(view.account.total)
    for row, hours in zip(view.ended.rows, view.ended.hours, strict=True):
        over = [run for run in view.runs if run.end <= (row.ended or 0.0) + 1e-6]
        known = {one.number: one.seconds for one in view.ended.rows}
        spent = sum(run.seconds if run.state == LOST else known[run.trial] or 0.0 for run in over)
        assert hours == pytest.approx(spent * view.account.devices / 3600, rel=0.01)


def test_failures_are_grouped_by_cause(simulated: Path) -> None:
    view = View(load(simulated / "small"))
    failed = [cause for cause in view.causes if not cause.tried_again]
    assert sum(len(cause.trials) for cause in failed) == view.study.counts["FAIL"]
    assert len(failed) <= 2  # whatever step, and however many bytes
    assert "Traceback (most recent call last)" in failed[0].log
    assert failed[0].log.splitlines()[-1].startswith(failed[0].what.partition(":")[0])
    assert [cause.what for cause in view.causes if cause.tried_again] == ["ended without a word"]


def test_places_hold_one_run_at_a_time(simulated: Path) -> None:
    view = View(load(simulated / "small"))
    places = slots(view.runs)
    assert sorted(run.trial for place in places for run in place.runs) == sorted(run.trial for run in view.runs)
    for place in places:
        assert all(a.end <= b.start for a, b in zip(place.runs, place.runs[1:], strict=False))
        assert {run.node for run in place.runs} == {place.node}


def test_two_objectives_have_a_front(simulated: Path) -> None:
    study = load(simulated / "two")
    figures = checked(writing.report(study))
    front = next(one for one in figures["front-0-1"]["data"] if one["name"] == "Pareto front")
    assert len(front["x"]) == len(study.front)
    assert sorted(front["x"]) == front["x"]
    assert np.allclose(sorted(front["x"]), sorted(row.values[0] for row in study.front if row.values), rtol=1e-5)
    assert {"slice-0-0", "slice-1-0", "landscape-0", "landscape-1"} <= set(figures)


@pytest.mark.parametrize("kind", ["small", "large"])
def test_counts_have_whole_numbers_beside_them(simulated: Path, kind: str) -> None:
    view = View(load(simulated / kind))
    for figure in (progress_figures.history(view, by_hours) for by_hours in (False, True)):
        bars = [one["y"] for one in figure.data if one["type"] == "bar"]
        axis, highest = figure.layout["yaxis2"], max(map(sum, zip(*bars, strict=True)))
        assert axis["dtick"] == int(axis["dtick"])
        assert axis["dtick"] <= highest <= 2 * axis["dtick"]


def test_traces_of_a_figure_have_names_of_their_own(simulated: Path) -> None:
    figures = data_of(writing.report(load(simulated / "small")))
    for figure in figures.values():
        names = [one["name"] for one in figure["data"] if one.get("showlegend", True) and "name" in one]
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("optimizer.weight_decay", ["optimizer.", "weight_", "decay"]),
        ("train/grad_norm/encoder", ["train/", "grad_", "norm/", "encoder"]),
        ("0.0123", ["0.0123"]),
        ("1e-05", ["1e-05"]),
        ("a_<b>", ["a_&lt;b&gt;"]),
    ],
)
def test_names_are_broken_at_their_seams_and_numbers_nowhere(name: str, parts: list[str]) -> None:
    assert name_html(name).split("<wbr>") == parts


# -------------------------------------------------------------------- studies of every kind


def test_it_says_what_was_asked_and_answered(simulated: Path) -> None:
    page = writing.report(load(simulated / "small"))
    checked(page)
    said = Words(page).text
    best = load(simulated / "small").front[0]
    assert "Which values of 6 parameters give the least val/loss?" in said
    assert f"The best of {load(simulated / 'small').counts['COMPLETE']} complete trials is trial {best.number}" in said
    for part in (
        "nearest neighbours came to",
        "commit 8c1f6e0d5b7a",
        "lock requirements.lock 6b1d0f",
        "nodes 2: n1, n2",
    ):
        assert part in said
    assert not re.search(r"(src|href)=\"(?!#)", page.partition("<script")[0])


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([], "No trial has begun yet."),
        (["COMPLETE"], "The best of 1 complete trials is trial 0: m0 = 0"),
        (["FAIL"] * 3, "every trial that has ended has failed"),
        (["PRUNED"] * 3, "every trial that has ended was pruned"),
        (["RUNNING", "WAITING"], "No trial is complete."),
        (["COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"], "The best of 1 complete trials is trial 0"),
    ],
)
@pytest.mark.parametrize("objectives", [1, 2])
def test_a_study_may_stand_anyhow(tmp_path: Path, states: list[str], said: str, objectives: int) -> None:
    study = made(tmp_path / "study", ["minimize", "maximize"][:objectives])
    for number, state in enumerate(states):
        trial = Folder(study.folder, number, {"x": 0.1 * number})
        if state != "WAITING":
            trial.run((1, {"m0": float(number)}))
        if state in ("COMPLETE", "PRUNED", "FAIL"):
            trial.end(*[0.0] * objectives, state=state, error="ValueError: no" if state == "FAIL" else None, run="1.0")
    page = writing.report(load(study.folder))
    checked(page)
    assert (said in Words(page).text) or (objectives == 2 and "Pareto front" in Words(page).text)


def test_while_a_driver_runs(tmp_path: Path) -> None:
    study = made(tmp_path / "study")
    trial = Folder(study.folder, 0, {"x": 1.0})
    trial.run((1, {"m0": 1.0}), at=1e9)
    lease = Lease(study.folder / "driver.lock", 60.0, 2.0)
    lease.acquire()
    view = View(load(study.folder), now=1e9 + 60)
    assert [(run.state, run.seconds) for run in view.runs] == [("RUNNING", 60.0)]
    assert view.account.spent == {"in trials that run now": pytest.approx(60 / 3600)}
    said = Words(writing.report(load(study.folder))).text
    assert "study running" in said
    assert "0 of 10 trials have ended, 1 are running" in said
    assert "study stopped" in Words(writing.report(load(study.folder), driven=False)).text
    lease.release()


def test_parameters_and_values_of_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made(tmp_path / "study", ["maximize"])
    values = [1.0, float("inf"), -1e30, 2.0, 3.0, 1.5, 2.5, 1.2]
    for number, value in enumerate(values):
        params: dict[str, Any] = {"x": 10.0**-number, "kind": ["a", None, True, "None", 1, "1"][number % 6]}
        params |= {"one": 5, "none": None} | ({"deep.only": number} if number % 2 else {})
        trial = Folder(study.folder, number, params)
        trial.run((1, {"m0": float("nan")}), (2, {"m0": float("inf") if number % 3 else value}))
        trial.end(value, run="1.0")
    page = writing.report(load(study.folder), parts=tmp_path)
    assert capsys.readouterr().err == ""
    assert (tmp_path / "figures" / "7-parameters.png").exists()
    figures = checked(page)
    history = figures["history"]
    assert any("beyond the picture" in part for part in re.findall(r"<figcaption>(.*?)</figcaption>", page))
    assert [value for one in history["data"] for value in one["y"] if value is not None]
    ticks = next(one["layout"]["xaxis"]["ticktext"] for one in figures.values() if "True" in str(one["layout"]))
    assert len({*ticks}) == len(ticks) == 6


def test_whatever_is_written_in_names_stays_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = Command(f"python {HOSTILE}", 3, 1, [HOSTILE], ["minimize"], reports=HOSTILE, fixed=[HOSTILE])
    study = made(tmp_path / "study", told=told, name=HOSTILE)
    record = study_record.read(study.folder / "study.yaml")
    assert record is not None
    identity = {**record.identity, study_record.METRICS: [HOSTILE]}
    study_record.write(study.folder / "study.yaml", replace(record, identity=identity))
    for number in range(6):
        state = "FAIL" if number == 5 else "COMPLETE"
        trial = Folder(study.folder, number, {HOSTILE: HOSTILE + str(number % 2), f"{HOSTILE}.lr": float(number)})
        run = trial.run((1, {HOSTILE: 1.0 + number}), (2, {HOSTILE: 1.0}))
        (run / "log").write_text(f"{HOSTILE}\npostgresql://me:secret@host/db\n")
        trial.end(float(number), state=state, error=f"E: {HOSTILE}" if state == "FAIL" else None, run="1.0")
    reported = writing.report(load(study.folder), parts=tmp_path)
    assert capsys.readouterr().err == ""
    assert len(list((tmp_path / "figures").glob("3-curves-script_script_alert*.png"))) == 1
    for page in (reported, writing.comparison([load(study.folder)] * 2)):
        checked(page)
        words = Words(page)
        assert HOSTILE in words.text
        assert not words.tags & {"img", "iframe", "link", "object"}
        assert "secret" not in page
        assert page.count("<script") == 3  # figures, plotly and the page's own: the policy names these two
        assert page.count("<script>") == 1
        for text in [*strings(data_of(page))]:
            assert "<img" not in text
            assert "%{x}" not in text  # plotly would put data in its place


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in strings(one)]
    return [value] if isinstance(value, str) else []


def test_long_names_are_cut_in_pictures_alone(tmp_path: Path) -> None:
    name = ".".join(["very_long_name"] * 30)
    study = made(tmp_path / "study")
    for number in range(8):
        trial = Folder(study.folder, number, {name: float(number), "kind": "word" * 100 + str(number % 2)})
        trial.run((1, {"m0": 1.0}))
        trial.end(float(number), run="1.0")
    page = writing.report(load(study.folder))
    shown = [
        one["layout"][axis]["title"]["text"]
        for one in checked(page).values()
        for axis in ("xaxis", "yaxis")
        if "title" in one["layout"].get(axis, {})
    ]
    assert max(map(len, shown)) < 60
    assert name in Words(page).text


# -------------------------------------------------------------------- axes and summaries


def test_axes() -> None:
    log = parameter_axis(
        "lr", [1e-3, None, 1e-1], '{"name": "FloatDistribution", "attributes": {"low": 1e-4, "high": 1, "log": true}}'
    )
    assert (log.kind, log.low, log.high) == ("log", -4.0, 0.0)
    assert np.allclose(log.places([1e-3, None, 0.0, "x"]), [-3, np.nan, np.nan, np.nan], equal_nan=True)
    whole = parameter_axis("layers", [1, 2, 4], None)
    assert whole.edges(20).tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    kinds = parameter_axis("kind", ["a", None, 1, "1"], None)
    assert kinds.categories == ("'1'", "1", "a")
    many = parameter_axis("many", [str(n % 50) + "x" for n in range(200)], None)
    assert many.categories[-1] == OTHERS
    assert not np.isnan(many.places([f"{n}x" for n in range(50)])).any()
    diverged = metric_axis("loss", np.array([*np.linspace(1, 2, 99), 1e30, np.inf]))
    assert diverged.high < 4
    assert metric_axis("loss", np.array([])).ends == (0.0, 1.0)
    assert category(True) != category("True")
    assert len(cut("x" * 100, 20)) == 20
    assert html.unescape(plain(HOSTILE)) == HOSTILE


def test_summaries() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.random(5000), generator.random(5000)
    edges = np.linspace(0, 1, 11)
    found = bands(x, y, edges)
    assert found.counts.sum() == 5000
    assert np.allclose(found.quantiles[2], [np.median(y[(x >= a) & (x < b)]) for a, b in pairwise(edges)])
    table = counts(x, y, edges, edges)
    assert np.array_equal(table, np.histogram2d(y, x, (edges, edges))[0])
    assert bands(np.array([]), np.array([]), edges).quantiles.shape == (5, 0)


# -------------------------------------------------------------------- the commands


def test_the_command_writes_a_report(place: Path, ask: Ask) -> None:
    code, said = ask("report", "wide")
    target = place / "sweeps" / "wide" / "report.html"
    assert (code, said.strip()) == (0, str(target))
    checked(target.read_text())
    shutil.copytree(place / "sweeps" / "wide", place / "sweeps" / "other")
    record = place / "sweeps" / "other" / "study.yaml"
    record.write_text(
        record.read_text().replace("name: wide", "name: other").replace("identity:\n", "identity:\n  seed: 7\n")
    )
    code, said = ask("report", "wide", "other", "--output", "both.html")
    assert (code, said.strip()) == (0, str(place / "both.html"))
    both = (place / "both.html").read_text()
    figures = checked(both)
    assert {"race", "race-hours", "spread"} == set(figures)
    assert [one["name"] for one in figures["race"]["data"]] == ["wide", "other"]
    assert "seed (not there) 7" in Words(both).text
    assert "did you mean 'wide'?" in ask("report", "wied")[1]
    assert ask("report", "wide", "--parts", "parts") == (0, f"{target}\n")
    assert {path.name for path in (place / "parts").iterdir()} == {"figures", "trials.csv"}
    assert "several studies have one page alone" in ask("report", "wide", "other", "--parts", "parts")[1]
    (place / "taken").write_text("")
    assert "--parts" in ask("report", "wide", "--parts", "taken")[1]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("small", ["2-history", "3-curves-val_loss", "4-importance", "5-parallel", "6-map", "7-parameters"]),
        ("large", ["2-history", "3-curves-val_loss", "4-importance", "5-parallel", "6-map", "7-parameters"]),
        ("two", ["1-pareto-front", "2-history", "3-curves-val_loss", "4-importance", "5-parallel",
                 "6-map-model_megabytes", "6-map-val_loss", "7-parameters-model_megabytes", "7-parameters-val_loss"]),
    ],
)  # fmt: skip
def test_its_figures_are_pictures_too(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, names: list[str]
) -> None:
    """Small ones, that say of which study they are; an older one that the study has no more is gone."""
    older, other = tmp_path / "figures" / "1-of-before.png", tmp_path / "figures" / "mine.png"
    older.parent.mkdir()
    older.write_bytes(b"")
    other.write_bytes(b"")
    study = load(simulated / kind)
    writing.report(study, parts=tmp_path)
    found = sorted((tmp_path / "figures").glob("*"))
    assert [path.name for path in found] == [*(f"{name}.png" for name in [*names, "8-places", "9-hours"]), "mine.png"]
    for path in found[:-1]:
        with Image.open(path) as image:
            assert image.width == pictures.WIDTH
            assert len(set(image.convert("L").tobytes())) > 20
        assert path.stat().st_size < 500_000
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 1 + len(study.rows)
    assert capsys.readouterr().err == ""


def test_a_picture_that_cannot_be_drawn_is_left_out(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr(canvas, "_cells", refuse)
    writing.report(load(simulated / "small"), parts=tmp_path)
    assert "6-map" not in [path.stem for path in (tmp_path / "figures").glob("*")]
    assert "6-map.png could not be drawn: ValueError: no such colour" in capsys.readouterr().err


def test_studies_of_different_objectives_are_not_raced(simulated: Path, tmp_path: Path) -> None:
    study = made(tmp_path / "study")
    page = writing.comparison([load(simulated / "small"), study])
    assert "their best values cannot be compared" in Words(page).text
    assert data_of(page) == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small", "large", "two", "both"])
def test_a_browser_draws_all_of_it(simulated: Path, tmp_path: Path, kind: str) -> None:
    """Under the page's own policy, from a file, without an error."""
    browser = chromium_or_skip()
    page = (
        writing.comparison([load(simulated / "small"), load(simulated / "large")])
        if kind == "both"
        else writing.report(load(simulated / kind))
    )
    target = tmp_path / "report.html"
    target.write_text(page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [
        f"--user-data-dir={tmp_path}/profile",
        "--virtual-time-budget=60000",
        "--enable-logging=stderr",
        "--dump-dom",
    ]
    done = subprocess.run([browser, *options, target.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    assert f'data-drawn="{len(data_of(page))}"' in done.stdout
    assert done.stdout.count("main-svg") >= len(data_of(page))
    assert "CONSOLE" not in done.stderr


# Tells the page around it what has no room: what is wider than the page, tools over their figure, names that are
# broken within a part.
LOOK = """<script>
document.addEventListener("drawn", () => setTimeout(() => {
  const found = [];
  for (const one of [document.documentElement, ...document.querySelectorAll(".scroll")])
    if (one.scrollWidth > one.clientWidth) found.push("too wide: " + one.textContent.slice(0, 80));
  for (const plot of document.querySelectorAll(".plot")) {
    const tools = plot.querySelector(".modebar"), svg = plot.querySelector(".main-svg").getBoundingClientRect();
    if (tools && tools.getBoundingClientRect().bottom > svg.top + 1) found.push("tools over " + plot.dataset.figure);
    if (plot.getBoundingClientRect().right > innerWidth) found.push("cut: " + plot.dataset.figure);
  }
  for (const cell of document.querySelectorAll(".pairs th, table:not(.pairs) td, table:not(.pairs) th"))
    for (const part of cell.childNodes)
      for (const word of (part.data || "").matchAll(/\\S+/g)) {
        const range = document.createRange();
        range.setStart(part, word.index);
        range.setEnd(part, word.index + word[0].length);
        if (word[0].length < 24 && new Set([...range.getClientRects()].map((box) => box.top)).size > 1)
          found.push("broken: " + word[0]);
      }
  const tools = document.querySelectorAll(".modebar").length;
  parent.postMessage(JSON.stringify({ width: innerWidth, tools, found }), "*");
}, 100));
</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 900, 1600])
@pytest.mark.parametrize("kind", ["small", "two", "both"])
def test_nothing_is_cut_or_covered_at_any_width(simulated: Path, tmp_path: Path, kind: str, width: int) -> None:
    browser = chromium_or_skip()
    page = (
        writing.comparison([load(simulated / name) for name in ("small", "large", "small")])
        if kind == "both"
        else writing.report(load(simulated / kind))
    )
    before, _, after = page.partition('<meta http-equiv="Content-Security-Policy"')
    target, frame = tmp_path / "report.html", tmp_path / "frame.html"
    target.write_text(f"{before}{LOOK}{after.partition('>')[2]}")
    frame.write_text(  # a window has a least width of its own
        '<script>addEventListener("message", (told) => { document.title = told.data; });</script>'
        f'<iframe src="{target.name}" style="width:{width}px;height:1000px;border:0"></iframe>'
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=60000", "--window-size=1700,1100"]
    options += ["--hide-scrollbars", "--dump-dom", frame.as_uri()]
    done = subprocess.run([browser, *options], capture_output=True, text=True, timeout=300, check=True)
    told = re.search(r"<title>(.*?)</title>", done.stdout)
    assert told is not None
    seen = json.loads(html.unescape(told.group(1)))
    assert (seen["width"], seen["found"]) == (width, [])
    assert kind == "both" or bool(seen["tools"]) is (width > 600)


@pytest.mark.slow
def test_the_benchmark_hears_when_a_page_is_drawn(simulated: Path, tmp_path: Path) -> None:
    browser = chromium_or_skip()
    page = benchmark.instrumented(writing.report(load(simulated / "small")))
    seen = benchmark.opening(browser, page, 1600, tmp_path)
    assert 0 < seen["first"] <= seen["all"]


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://mlflow:5000/", "http://mlflow:5000/#/experiments/3/runs/abc"),
        ("sqlite:////srv/mlflow.db", None),
        ("javascript:alert(1)//http://", None),
    ],
)
def test_it_leads_to_the_studys_run(tmp_path: Path, uri: str, address: str | None) -> None:
    """A server's page is a link; whatever is no page of the web is said alone."""
    told = Command("again", 1, 1, ["m0"], ["minimize"], tracking={"uri": uri, "experiment": "mine"})
    study = made(tmp_path / "study", told=told)
    Folder(study.folder, 0, {"x": 1.0}).end(1.0)
    assert "runs/abc" not in writing.report(load(study.folder))
    log = study.folder / "mlflow-12345678.jsonl"
    log.write_text('{"event": "study", "experiment_id": "3", "run_id": "abc"}\n{"event": "study", "exp')
    page = writing.report(load(study.folder))
    assert f"{uri}, experiment mine, run abc" in Words(page).text
    assert re.findall(r'<p><a href="([^"]*)" rel', page) == ([] if address is None else [address])

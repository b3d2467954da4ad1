"""MLflow's pages on the results: found, linked so that the best trial comes first, and gone after Ctrl-C."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.chromium import chromium
from tests.tracking.folders import Folder
from trialfleet.commands.dashboard import where
from trialfleet.config.location import project_directory
from trialfleet.errors import UserError
from trialfleet.sweep.sweeper_settings import tracking_defaults
from trialfleet.tracking import dashboard, views
from trialfleet.tracking.destination import Destination, resolve
from trialfleet.tracking.exporter import Exporter
from trialfleet.tracking.mlflow_runs import Runs
from trialfleet.tracking.study_export import ExportedStudy

ONE = views.Page("digits", "5eed", "7", "9a9a", {"val/wer": "minimize"})
TWO = views.Page("pareto", "cafe", "7", "9b9b", {"speed@1": "maximize", "val/wer": "minimize"})


def forward(
    target: Destination, folder: Path, study: ExportedStudy, values: list[float], params: dict[str, object]
) -> None:
    folder.mkdir()
    with Exporter(folder, target, study, poll_interval=0.02) as exporter:
        for number, value in enumerate(values):
            Folder(folder, number, {**params, "lr": value}).end(*[value] * len(study.objectives))
            exporter.changed(number, ended=True)
        exporter.study_changed([values.index(min(values))], "")
        exporter.study_ended("COMPLETE")
        assert exporter.flush(60)


def test_no_results_yet_is_a_clear_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no results yet: .*mlflow.db does not exist"):
        dashboard.check(resolve("sqlite:///mlflow.db", "trialfleet", tmp_path))


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind((dashboard.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            dashboard.choose_port(port)
        assert dashboard.choose_port(None, first=port) > port
    with pytest.raises(UserError, match="--port 70000: is no port"):
        dashboard.choose_port(70_000)


def test_the_address_is_that_of_a_sweep_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = tracking_defaults()
    monkeypatch.chdir(tmp_path)  # a database that lies in the project's folder is none of the test's
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert where(tracking, None, []) == ("sqlite:///mlflow.db", "trialfleet")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert where(tracking, None, ["tracking.experiment=mine"]) == ("http://tracking:5000", "mine")
    assert where(tracking, None, ["tracking.uri=sqlite:///a.db"])[0] == "sqlite:///a.db"
    assert where(tracking, None, ["postgresql://host/db?sslmode=require"])[0] == "postgresql://host/db?sslmode=require"
    assert where(tracking, "sqlite:///b.db", [])[0] == "sqlite:///b.db"
    assert where(tracking, None, ["hydra.sweeper.tracking.uri=sqlite:///c.db"])[0] == "sqlite:///c.db"
    assert where(tracking, None, [__file__])[0] == f"sqlite:///{__file__}"  # whatever a database's file is called
    for word in ("tracking.url=x", "mlflow.db"):
        with pytest.raises(UserError, match=f"{word}: the dashboard takes"):
            where(tracking, None, [word])


def test_links_sort_by_the_objective_in_its_direction() -> None:
    start = "http://h:1/#/experiments/7/runs?workflowType=machine_learning&"
    saved = views.links("http://h:1", ONE, has_view=True)["trials, best first"]
    assert saved == start + "viewStateShareKey=trialfleet-5eed"
    plain = views.links("http://h:1", ONE, has_view=False)
    assert plain["trials, best first"] == (
        start
        + "searchFilter=tags.mlflow.parentRunId%20%3D%20%279a9a%27&orderByKey=metrics.%60objective%60&orderByAsc=true"
    )
    assert plain["curves and parameters"] == plain["trials, best first"] + "&compareRunsMode=CHART"
    several = views.links("http://h:1", TWO, has_view=False)["trials, best first"]
    assert several.endswith("orderByKey=metrics.%60objective/speed_1%60&orderByAsc=false")


def test_a_view_shows_objectives_and_parameters() -> None:
    params = [f"p{i}" for i in range(20)]
    envelope = json.loads(views.view(TWO, ["model@encoder", *params], 1234))
    assert (envelope["name"], envelope["createdAt"], envelope["updatedAt"]) == ("pareto", 1234, 1234)
    state = json.loads(envelope["state"])
    assert state["searchFilter"] == "tags.mlflow.parentRunId = '9b9b'"
    assert state["selectedColumns"][:3] == [
        "metrics.`objective/speed_1`",
        "metrics.`objective/val/wer`",
        "params.`model_encoder`",
    ]
    assert len([column for column in state["selectedColumns"] if column.startswith("params.")]) == views.MAX_COLUMNS
    charts = {chart["type"] for chart in state["compareRunCharts"]}
    assert charts == {"PARALLEL", "BAR", "LINE", "SCATTER"}


def test_studies_are_listed_the_newest_first(target: Destination, tmp_path: Path) -> None:
    assert dashboard.report(target, "http://h:1").endswith("there is no study in the experiment 'trialfleet' yet")
    forward(target, tmp_path / "a", ExportedStudy("first", "a", {"x": "minimize"}), [2.0, 1.0], {"depth": 3})
    time.sleep(0.01)
    forward(target, tmp_path / "b", ExportedStudy("second", "b", {"x": "maximize"}), [2.0], {"width": 3})
    pages = dashboard.studies(target, "http://h:1")
    assert [(page.name, page.state) for page in pages] == [("second", "COMPLETE"), ("first", "COMPLETE")]
    assert "viewStateShareKey=trialfleet-b" in pages[0].links["trials, best first"]
    text = dashboard.report(target, "http://h:1", shown=1)
    assert "second  (complete)" in text
    assert "and 1 older studies" in text
    runs = Runs(target)
    tags = runs.experiment_tags(runs.experiment())
    state = json.loads(json.loads(tags[views.tag_name("a")])["state"])
    assert state["selectedColumns"][:3] == ["metrics.`objective`", "params.`depth`", "params.`lr`"]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`objective`", True)


def test_the_view_grows_with_the_parameters_of_later_trials(target: Destination, tmp_path: Path) -> None:
    study = ExportedStudy("conditional", "c", {"x": "minimize"})
    for number, name in enumerate(["adam.beta", "sgd.momentum"]):
        folder = tmp_path / "study"
        folder.mkdir(exist_ok=True)
        with Exporter(folder, target, study, poll_interval=0.02) as exporter:
            Folder(folder, number, {name: 0.9}).end(1.0)
            exporter.changed(number, ended=True)
            assert exporter.flush(60)
    runs = Runs(target)
    state = json.loads(json.loads(runs.experiment_tags(runs.experiment())[views.tag_name("c")])["state"])
    assert state["selectedColumns"][1:3] == ["params.`adam.beta`", "params.`sgd.momentum`"]


@pytest.mark.slow
def test_a_server_that_can_not_start_says_why(target: Destination) -> None:
    connection = sqlite3.connect(str(target.database))
    connection.execute("UPDATE alembic_version SET version_num = 'of another MLflow'")
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match="does not start"), dashboard.serve(target, dashboard.choose_port(None, 5300)):
        pass


def start_dashboard(folder: Path, *words: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(project_directory()), "PYTHONUNBUFFERED": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    deaf = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]  # as a script's background commands start
    command = [*deaf, sys.executable, "-m", "pipelines.dashboard", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_the_command_without_results_fails_in_a_few_lines(tmp_path: Path) -> None:
    process = start_dashboard(tmp_path)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.startswith("error: there are no results yet")
    assert "fix: run a study first" in error
    assert len(error.splitlines()) <= 3
    assert out == ""


def page(browser: str, address: str, folder: Path) -> str:
    """What a browser makes of the page."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}"]
    options += ["--window-size=1600,1000", "--virtual-time-budget=20000", "--dump-dom", address]
    return subprocess.run([browser, *options], capture_output=True, text=True, timeout=120, check=True).stdout


def shown_by(process: "subprocess.Popen[str]", browse: Path | None) -> None:
    """Wait for the dashboard's links; with `browse`, a folder, look at the first one where there is a browser."""
    assert process.stdout is not None
    lines: list[str] = []
    while not (lines and "Ctrl-C" in lines[-1]):
        lines.append(process.stdout.readline())
        assert process.poll() is None
    link = next(line.split("first", 1)[1].strip() for line in lines if "best first" in line)
    if browse is not None and (browser := chromium()) is not None:
        shown = page(browser, link, browse / "profile")
        order = [shown.find(name) for name in ("trial 00001 ★ best", "trial 00002", "trial 00000")]
        assert order == sorted(order)
        assert order[0] > 0
        assert "objective" in shown
        assert "depth" in shown


def end_dashboard(number: int, target: Destination, tmp_path: Path) -> None:
    """Start the dashboard, look at it unless it is to end by SIGTERM, and end it by this signal."""
    forward(target, tmp_path / "a", ExportedStudy("digits", "a", {"x": "minimize"}), [3.0, 1.5, 2.0], {"depth": 3})
    port = dashboard.choose_port(None, 5200)
    with start_dashboard(tmp_path, "--port", str(port), f"tracking.uri=sqlite:///{target.database}") as process:
        try:
            shown_by(process, tmp_path if number == signal.SIGINT else None)
        finally:
            process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)


@pytest.mark.slow
def test_the_dashboard_shows_the_best_trial_and_leaves_nothing_behind(target: Destination, tmp_path: Path) -> None:
    """After Ctrl-C; benchmarks/proofs has SIGTERM, too."""
    end_dashboard(signal.SIGINT, target, tmp_path)

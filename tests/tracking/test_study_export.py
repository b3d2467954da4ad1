"""What people delete, move or put back in MLflow: the study's run is made anew once, and each trial is there once."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.tracking.folders import Folder
from trialfleet.tracking import views
from trialfleet.tracking.dedup import Row
from trialfleet.tracking.destination import Destination, sidecars
from trialfleet.tracking.exporter import Exporter
from trialfleet.tracking.mlflow_runs import Runs
from trialfleet.tracking.study_export import ExportedStudy
from trialfleet.tracking.trial_snapshot import shown

STUDY = ExportedStudy("digits", "5eed", {"val/wer": "minimize"}, {"a": "b"}, {"space.lr": "log"})
FINISHED, RUNNING, ALL = [0, 1, 2], 3, {"0", "1", "2", "3"}


class Owner:
    """Tells an exporter of a study of four trials, as a driver does; the last one runs."""

    def __init__(self, folder: Path, target: Destination, rebuild: bool = False, ended: bool = False) -> None:
        self.folder, self.target = folder, target
        self.exporter = Exporter(folder, target, STUDY, poll_interval=0.02, rebuild=rebuild)
        self.exporter.start()
        for number in FINISHED:
            self.exporter.changed(number, ended=True)
        self.exporter.changed(RUNNING, ended=ended)
        self.exporter.study_changed([0], "about the study")

    def report(self, number: int, *steps: int) -> None:
        Folder(self.folder, number).run(*[(step, {"x": float(step)}) for step in steps])

    def finish(self) -> None:
        self.report(RUNNING, 2)
        end(self.folder, RUNNING)
        self.exporter.changed(RUNNING, ended=True)
        self.stop()

    def stop(self) -> None:
        self.exporter.study_ended("COMPLETE")
        assert self.exporter.flush(60), self.exporter.problem()

    def leave(self) -> None:
        self.exporter.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study").mkdir()
    return tmp_path / "study"


def end(folder: Path, number: int) -> None:
    Folder(folder, number).end(float(number), at=1e9 + number + 5)


def begun(folder: Path, target: Destination) -> Owner:
    """Three trials have arrived, and the beginning of the fourth."""
    for number in [*FINISHED, RUNNING]:
        Folder(folder, number, {"lr": number / 10}).run((1, {"x": 1.0}), at=1e9 + number)
    for number in FINISHED:
        Folder(folder, number).run((2, {"x": 2.0}))
        end(folder, number)
    owner = Owner(folder, target)
    assert owner.exporter.flush(60)
    return owner


def runs(target: Destination, tag: str, active: bool = True) -> dict[str, str]:
    """The run of each value of a tag, of the active or the deleted ones; each value has one."""
    connection = sqlite3.connect(target.database)
    query = "SELECT t.value, run_uuid FROM runs JOIN tags t USING (run_uuid) WHERE key = ? AND lifecycle_stage = ?"
    found = connection.execute(query, (tag, "active" if active else "deleted")).fetchall()
    connection.close()
    if tag == "trialfleet.trial":
        assert len(found) == len(dict(found)), "a trial has two runs"
    return dict(found)


def study_run(target: Destination) -> str:
    connection = sqlite3.connect(target.database)
    query = "SELECT run_uuid FROM runs JOIN tags USING (run_uuid) WHERE key = 'trialfleet.kind' AND value = 'study'"
    found = connection.execute(query + " AND lifecycle_stage = 'active'").fetchall()
    connection.close()
    ((run_id,),) = found  # one
    return str(run_id)


def check(target: Destination, expected: set[str]) -> None:
    """The study is in MLflow, once, with these trials, each once and complete."""
    client = MlflowClient(f"sqlite:///{target.database}")
    parent, trials = client.get_run(study_run(target)), runs(target, "trialfleet.trial")
    assert set(trials) == expected
    for number, run_id in trials.items():
        run = client.get_run(run_id)
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.info.status, run.info.start_time) == ("FINISHED", (10**9 + int(number)) * 1000)
        assert run.data.params == {"lr": repr(int(number) / 10)}
        assert ("trialfleet.best" in run.data.tags) == ("★" in run.info.run_name) == (number == "0")
        points = [(p.step, p.value) for p in client.get_metric_history(run_id, "x")]
        assert points == [(1, 1.0), (2, 2.0)]
        assert [point.value for point in client.get_metric_history(run_id, "objective")] == [float(number)]
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"space.lr": "log"}
    links, text = parent.data.tags["mlflow.note.content"].split("\n\n")
    assert text == "about the study"
    own = f"#/experiments/{parent.info.experiment_id}/runs"
    assert links.startswith(f"[trials, best first]({own}?")
    assert links.endswith(f"· [trial 0 ★]({own}/{trials['0']})")
    experiment = client.get_experiment(parent.info.experiment_id)
    view = json.loads(json.loads(experiment.tags[views.tag_name(STUDY.uid)])["state"])
    assert parent.info.run_id in view["searchFilter"]
    assert "params.`lr`" in view["selectedColumns"]


def delete(target: Destination, *run_ids: str) -> None:
    client = MlflowClient(f"sqlite:///{target.database}")
    for run_id in run_ids:
        client.delete_run(run_id)


def parent_only(target: Destination) -> None:
    delete(target, study_run(target))


def everything(target: Destination) -> None:
    delete(target, study_run(target), *runs(target, "trialfleet.trial").values())


def trials_first(target: Destination) -> None:
    delete(target, *runs(target, "trialfleet.trial").values(), study_run(target))


def parent_and_some(target: Destination) -> None:
    trials = runs(target, "trialfleet.trial")
    delete(target, study_run(target), trials["1"], trials["3"])


def one_trial(target: Destination) -> None:
    delete(target, runs(target, "trialfleet.trial")["1"])


def the_file(target: Destination) -> None:
    assert target.database is not None
    target.database.unlink()  # and not what SQLite keeps beside it


DELETIONS = [
    (parent_only, ALL),
    (everything, ALL),
    (trials_first, ALL),
    (parent_and_some, ALL),
    (one_trial, ALL - {"1"}),
    (the_file, ALL),
]


@pytest.mark.usefixtures("quick_tables")
@pytest.mark.parametrize(
    "when",
    [
        "while the driver runs",
        pytest.param("as it ends", marks=pytest.mark.slow),
        pytest.param("between two drivers", marks=pytest.mark.slow),
        pytest.param("after the end", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("deletion", "expected"), DELETIONS, ids=[deletion.__name__ for deletion, _ in DELETIONS])
def test_what_a_person_deletes_is_there_again_once(
    deletion: Callable[[Destination], None], expected: set[str], when: str, folder: Path, target: Destination
) -> None:
    owner = begun(folder, target)
    if when == "after the end":
        owner.finish()
    if when in ("between two drivers", "after the end"):
        owner.leave()
    deletion(target)
    if when == "while the driver runs":  # it hears of it from the trial that runs, and goes on
        owner.report(RUNNING, 1)
        assert owner.exporter.flush(60)
    if when in ("while the driver runs", "as it ends"):
        owner.finish()
    elif when == "between two drivers":
        owner = Owner(folder, target)
        owner.finish()
    else:
        owner = Owner(folder, target, ended=True)
        owner.stop()
    check(target, expected)
    first, trials = study_run(target), runs(target, "trialfleet.trial")
    owner.leave()
    owner = Owner(folder, target, ended=True)  # and once more: nothing is made again
    owner.stop()
    owner.leave()
    check(target, expected)
    assert (study_run(target), runs(target, "trialfleet.trial")) == (first, trials)


def test_runs_that_are_still_there_are_adopted(folder: Path, target: Destination) -> None:
    owner = begun(folder, target)
    before = runs(target, "trialfleet.trial")
    delete(target, study_run(target), before["2"])
    owner.finish()
    owner.leave()
    after = runs(target, "trialfleet.trial")
    assert {number: run_id for number, run_id in after.items() if number != "2"} == {
        number: run_id for number, run_id in before.items() if number != "2"
    }
    assert after["2"] != before["2"]


@pytest.mark.usefixtures("quick_tables")
@pytest.mark.parametrize("running", [True, False])
def test_an_older_copy_of_the_database_is_filled_up(running: bool, folder: Path, target: Destination) -> None:
    """Runs that it lacks are made, those that it has as they were then are completed."""
    database = target.database
    assert database is not None
    copy = database.with_name("copy.db")
    owner = begun(folder, target)
    connection = sqlite3.connect(database)
    connection.execute("VACUUM INTO ?", (str(copy),))
    connection.close()
    owner.finish()
    if not running:
        owner.leave()
    older = sqlite3.connect(copy)
    for table in ("tags", "metrics", "latest_metrics", "params", "runs"):
        older.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (runs(target, "trialfleet.trial")["1"],))
    older.commit()
    older.close()
    copy.replace(database)
    for path in sidecars(database):
        path.unlink()
    if not running:
        owner = Owner(folder, target, ended=True)
    owner.stop()
    owner.leave()
    check(target, ALL)


def test_a_study_is_rebuilt_from_what_is_there_and_its_folder(folder: Path, target: Destination) -> None:
    owner = begun(folder, target)
    owner.leave()
    delete(target, runs(target, "trialfleet.trial")["1"])  # whoever rebuilds wants everything
    before = study_run(target)
    owner = Owner(folder, target, rebuild=True)
    owner.finish()
    owner.leave()
    check(target, ALL)
    assert study_run(target) == before
    assert len(list(folder.glob("mlflow-*.old"))) == 1


def test_a_damaged_delivery_log_doubles_nothing(folder: Path, target: Destination) -> None:
    owner = begun(folder, target)
    owner.leave()
    (delivered,) = folder.glob("mlflow-*.jsonl")
    lines = delivered.read_bytes().splitlines(keepends=True)
    delivered.write_bytes(b"".join([*lines[:7], b"\xff\x00garbage\n", *lines[7:]]))
    owner = Owner(folder, target)
    assert str(delivered) in str(owner.exporter.problem())
    owner.finish()
    owner.leave()
    check(target, ALL)


def test_a_copy_of_a_study_leaves_the_runs_of_the_other_alone(folder: Path, target: Destination) -> None:
    """A copied folder gets a new uid; the delivery log in it is still the other study's, and its trials are its own."""
    owner = begun(folder, target)
    owner.finish()
    owner.leave()
    before = study_run(target)
    copied = ExportedStudy("copy", "c0b1", STUDY.objectives)
    shutil.copytree(folder, folder.with_name("copy"))
    with Exporter(folder.with_name("copy"), target, copied, poll_interval=0.02) as exporter:
        Folder(folder.with_name("copy"), 4, {}).end(0.5)
        exporter.changed(4, ended=True)
        assert exporter.flush(60)
    client = MlflowClient(f"sqlite:///{target.database}")
    tags = client.get_run(before).data.tags
    assert (tags["trialfleet.study_uid"], tags["trialfleet.study"]) == (STUDY.uid, STUDY.name)
    assert len(client.search_runs(["1"], "tags.`trialfleet.study_uid` = 'c0b1'")) == 1 + 5


def test_doubles_of_a_trial_are_removed(folder: Path, target: Destination) -> None:
    """An earlier version could send a study twice."""
    owner = begun(folder, target)
    owner.finish()
    owner.leave()
    client = MlflowClient(f"sqlite:///{target.database}")
    run = client.get_run(runs(target, "trialfleet.trial")["1"])
    tags = {key: value for key, value in run.data.tags.items() if key != "trialfleet.state"}
    client.create_run(run.info.experiment_id, 1, tags, "trial 00001")
    delete(target, study_run(target))
    owner = Owner(folder, target, ended=True)
    owner.stop()
    owner.leave()
    check(target, ALL)


def as_earlier_versions_wrote_it(folder: Path) -> None:
    """The delivery log in the form that it had when the driver told the exporter what is now read from the folders."""
    (path,) = folder.glob("mlflow-*.jsonl")
    lines: list[dict] = []
    for event in map(json.loads, path.read_text().splitlines()):
        number = event.get("trial")
        if event["event"] == "study":
            marks = {"event": "marking", "best": event.pop("best"), "maybe": event.pop("maybe_best")}
            tags, columns = event.pop("tags"), event.pop("columns")
            if not lines:
                lines.append(event)
            lines += [{"event": "study_tags", "tags": tags}, {"event": "view", "params": columns}, marks]
            lines.append({"event": "study_state", "state": event["state"]})
        elif event["event"] == "create":
            follow = {"event": "follow", "trial": number, "run": "1.0", "directory": f"trials/{number:05d}/runs/1.0"}
            lines += [{**event, "params": {"lr": repr(number / 10)}, "tags": {"a": "b"}}, follow]
        elif event["event"] == "created":
            del event["has_params"]
            lines += [event, {"event": "ready", "trial": number}]
        else:
            lines.append(event)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("moved", [False, True])
def test_a_study_that_an_earlier_version_began_goes_on_and_nothing_is_sent_twice(
    moved: bool, folder: Path, target: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = begun(folder, target)
    owner.report(RUNNING, *range(100, 105))
    assert owner.exporter.flush(60)
    owner.leave()
    before = study_run(target), runs(target, "trialfleet.trial")
    as_earlier_versions_wrote_it(folder)
    if moved:
        folder = folder.rename(folder.with_name("elsewhere"))
    sent: list[Row] = []
    log = Runs.log
    monkeypatch.setattr(Runs, "log", lambda self, run, rows: (sent.extend(rows), log(self, run, rows)))
    monkeypatch.setattr(Runs, "create", lambda *_: pytest.fail("a run is created"))
    owner = Owner(folder, target)
    owner.report(RUNNING, 105)
    owner.finish()
    owner.leave()
    steps = [row.step for row in sent if row.name == "x"]
    assert steps == [*range(100, 105), 105, 2]  # of what was there, only the newest range: it may not have arrived
    assert [row.name for row in sent if row.name != "x"] == ["objective"]
    assert (study_run(target), runs(target, "trialfleet.trial")) == before
    client = MlflowClient(f"sqlite:///{target.database}")
    points = client.get_metric_history(before[1][str(RUNNING)], "x")
    assert sorted(point.step for point in points) == [1, 2, *range(100, 106)]


def test_the_studys_report_is_its_runs_artifact(folder: Path, target: Destination) -> None:
    """Whenever it is another one, once, and by the next driver if this one did not come to it."""
    report, client = folder / "report.html", MlflowClient(f"sqlite:///{target.database}")
    figure, table = folder / "figures" / "1-history.png", folder / "trials.csv"
    figure.parent.mkdir()
    figure.write_bytes(b"a picture")
    parts = report, figure.parent, table, folder / "not there"

    def shown() -> str:
        run_id = runs(target, "trialfleet.kind")["study"]
        here = [one.path for place in (None, "figures") for one in client.list_artifacts(run_id, place)]
        assert here == ["figures", "report.html", "trials.csv", "figures/1-history.png"]
        link = f"[report](#/experiments/1/runs/{run_id}/artifacts/report.html)"
        assert link in client.get_run(run_id).data.tags["mlflow.note.content"]
        return Path(client.download_artifacts(run_id, "report.html", str(folder.parent))).read_text()

    owner = begun(folder, target)
    table.write_text("number\n0\n")
    report.write_text("at a quarter")
    owner.exporter.study_report(*parts)
    assert owner.exporter.flush(60)
    assert shown() == "at a quarter"
    sent = owner.exporter._export.delivered.study.report
    report.write_text("at the end, longer")
    owner.leave()
    owner = Owner(folder, target)
    owner.exporter.study_report(*parts)
    owner.finish()
    owner.leave()
    assert shown() == "at the end, longer"
    assert owner.exporter._export.delivered.study.report != sent
    report.unlink()
    owner = Owner(folder, target, ended=True)
    owner.exporter.study_report(*parts)  # somebody took it away
    owner.stop()
    owner.leave()
    assert (owner.exporter.problem(), shown()) == (None, "at the end, longer")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123456789, "0.0012346"), (0.1, "0.1"), (0.30000000000000004, "0.3"), (131072.0, "131072.0"), (64, "64"),
     (1.23456789e-7, "1.2346e-07"), (True, "True"), ("adam", "adam"), (123456.789, "1.2346e+05"), (5e-324, "5e-324")],
)  # fmt: skip
def test_floats_are_as_long_as_people_compare_them(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_front_is_a_chart_of_all_trials() -> None:
    """Each further objective over the first, as the report has them; a study of one objective has none."""
    page = views.Page("study", "uid", "1", "run", {"val/wer": "minimize", "size": "minimize", "speed": "maximize"})
    state = json.loads(json.loads(views.view(page, ["lr"], 0))["state"])
    charts = [chart for chart in state["compareRunCharts"] if chart["type"] == "SCATTER"]
    seen = [(chart["xaxis"]["key"], chart["yaxis"]["key"]) for chart in charts]
    assert seen == [("objective/val/wer", "objective/size"), ("objective/val/wer", "objective/speed")]
    assert state["runsHiddenMode"] == "SHOW_ALL"
    one = views.Page("study", "uid", "1", "run", {"val/wer": "minimize"})
    state = json.loads(json.loads(views.view(one, ["lr"], 0))["state"])
    assert "SCATTER" not in [chart["type"] for chart in state["compareRunCharts"]]
    assert "runsHiddenMode" not in state

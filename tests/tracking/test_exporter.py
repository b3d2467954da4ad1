"""The exporter as the driver uses it, against a real MLflow on SQLite."""

import itertools
import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.cluster.processes import wait_until
from tests.tracking.folders import Folder, append_reports
from trialfleet.tracking import mlflow_runs
from trialfleet.tracking.destination import Destination
from trialfleet.tracking.exporter import Exporter, code_tags, label_tags, single_run
from trialfleet.tracking.mlflow_runs import Runs
from trialfleet.tracking.study_export import ExportedStudy
from trialfleet.trial.run import Preempted, Pruned

Query = Callable[..., list[tuple]]
STUDY = ExportedStudy("digits", "5eed", {"val/wer": "minimize"}, code_tags("pipelines.sweep", "abc123", "c0de"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study").mkdir()
    return tmp_path / "study"


def opened(folder: Path, target: Destination, study: ExportedStudy = STUDY) -> Exporter:
    return Exporter(folder, target, study, poll_interval=0.02)


@pytest.fixture
def exporter(folder: Path, target: Destination) -> Iterator[Exporter]:
    with opened(folder, target) as exporter:
        yield exporter


TAGS = "SELECT t.key, t.value FROM tags t JOIN tags n USING (run_uuid) WHERE n.key = 'trialfleet.trial' AND n.value = ?"
ROWS = "SELECT m.key, m.step, m.value, m.is_nan FROM metrics m JOIN tags n USING (run_uuid) "
ROWS += "WHERE n.key = 'trialfleet.trial' AND n.value = ? ORDER BY 1, 2"


def test_a_trial_arrives_with_all_that_belongs_to_it(exporter: Exporter, folder: Path, query: Query) -> None:
    params = {"lr": 0.1 + 0.2, "layers": 3, "act": "gelu", "model@encoder": None, "flag": True, "empty": ""}
    trial = Folder(folder, 42).submit(params, job="1234")
    run = trial.run((10, {"train/loss": 0.5}), (20, {"train/loss": 0.25, "val/wer": 0.1}), at=1e9)
    (run / ".hydra").mkdir()
    (run / ".hydra" / "config.yaml").write_text("seed: 1\n")
    (run / "log").write_text("step 1\nfrom postgresql://me:secret@host/db\n")
    (run / "artifacts" / "plots").mkdir(parents=True)
    (run / "artifacts" / "plots" / "curve.txt").write_text("up")
    (run / "artifacts" / "hypotheses.txt").write_text("one two")
    exporter.changed(42)
    trial.end(0.1, run="1.0", seconds={"train": 2}, at=1e9 + 5)
    exporter.changed(42, ended=True)
    exporter.study_changed([42], "about the study")
    exporter.study_ended("COMPLETE")
    assert exporter.flush(60)
    assert (exporter.problem(), exporter.finished) == (None, frozenset([42]))

    assert dict(query("SELECT key, value FROM params")) == {
        "lr": "0.3", "layers": "3", "act": "gelu", "model_encoder": "None", "flag": "True", "empty": "",
    }  # fmt: skip
    rows = [("objective", 0, 0.1, 0), ("train/loss", 10, 0.5, 0), ("train/loss", 20, 0.25, 0), ("val/wer", 20, 0.1, 0)]
    assert query(ROWS, "42") == rows
    tags = dict(query(TAGS, "42"))
    assert [(tags["mlflow.parentRunId"],)] == query("SELECT run_uuid FROM runs WHERE name = 'digits'")
    assert tags["trialfleet.study"] == "digits"
    assert (tags["trialfleet.job_id"], tags["trialfleet.launcher"], tags["trialfleet.attempt"]) == (
        "1234",
        "slurm",
        "1",
    )
    assert (tags["trialfleet.state"], tags["trialfleet.best"]) == ("COMPLETE", "true")
    assert tags["trialfleet.seconds.train"] == "2.00"
    assert (tags["mlflow.source.git.commit"], tags["trialfleet.code"]) == ("abc123", "c0de")
    assert tags["mlflow.user"]
    name, status, start, end = query("SELECT name, status, start_time, end_time FROM runs WHERE name LIKE 'trial%'")[0]
    assert (name, status, start, end) == ("trial 00042 ★ best", "FINISHED", 10**12, 10**12 + 5000)
    assert query("SELECT value FROM tags WHERE key = 'mlflow.note.content'")[0][0].endswith("\n\nabout the study")
    stored = folder.parent / "mlartifacts" / "trialfleet"
    for artifact in ("config.yaml", "hypotheses.txt", "plots/curve.txt", "log.txt"):
        assert len(list(stored.glob(f"*/artifacts/{artifact}"))) == 1
    (log,) = stored.glob("*/artifacts/log.txt")
    assert log.read_text() == "step 1\nfrom postgresql://me:***@host/db\n"


def test_calls_return_at_once(folder: Path, target: Destination) -> None:
    with opened(folder, target) as exporter:
        start = time.perf_counter()
        for number in range(200):
            exporter.changed(number)
            exporter.changed(number, ended=True)
        assert time.perf_counter() - start < 0.2


def test_a_trial_is_there_once_it_is_submitted(exporter: Exporter, folder: Path, query: Query) -> None:
    """The driver asks for trials before it has slots for them: nothing need be said again when they are submitted."""
    exporter.changed(0)
    assert exporter.flush(60)
    assert query("SELECT name FROM runs WHERE name LIKE 'trial%'") == []
    Folder(folder, 0, {"lr": 0.1})
    assert exporter.flush(60)
    assert exporter.problem() is None
    assert query("SELECT name, status FROM runs WHERE name LIKE 'trial%'") == [("trial 00000", "RUNNING")]


def test_a_result_counts_once_the_driver_has_accepted_it(exporter: Exporter, folder: Path, query: Query) -> None:
    """Until then it may be another trial's, which the driver sets aside."""
    trial = Folder(folder, 0, {"lr": 0.1})
    trial.end(7.0)
    exporter.changed(0)
    assert exporter.flush(60)
    assert query("SELECT status FROM runs WHERE name = 'trial 00000'") == [("RUNNING",)]
    trial.end(1.0)
    exporter.changed(0, ended=True)
    assert exporter.flush(60)
    assert query(ROWS, "0") == [("objective", 0, 1.0, 0)]


def test_numbers_that_are_not_finite(exporter: Exporter, folder: Path, query: Query) -> None:
    """MLflow's SQL stores keep NaN as such and put the largest double for an infinity."""
    trial = Folder(folder, 0, {})
    trial.run((1, {"x": math.nan}), (2, {"x": math.inf}), (3, {"x": -math.inf}), (4, {"x": math.nan}))
    trial.end(math.inf)
    exporter.changed(0, ended=True)
    assert exporter.flush(60)
    most = 1.7976931348623157e308
    expected = [("objective", 0, most, 0), ("x", 1, 0.0, 1), ("x", 2, most, 0), ("x", 3, -most, 0), ("x", 4, 0.0, 1)]
    assert query(ROWS, "0") == expected


def test_states_of_optuna_become_states_of_mlflow(exporter: Exporter, folder: Path, query: Query) -> None:
    for number, (state, error) in enumerate([("COMPLETE", None), ("PRUNED", None), ("FAIL", "ValueError: no")]):
        Folder(folder, number, {}).end(1.0, state=state, error=error)
        exporter.changed(number, ended=True)
    exporter.study_ended("STOPPED")
    assert exporter.flush(60)
    runs = query("SELECT name, status FROM runs ORDER BY name")
    statuses = ["KILLED", "FINISHED", "KILLED", "FAILED"]
    assert [status for _, status in runs] == statuses
    assert dict(query(TAGS, "2"))["trialfleet.error"] == "ValueError: no"
    assert [dict(query(TAGS, str(n)))["trialfleet.state"] for n in range(3)] == ["COMPLETE", "PRUNED", "FAIL"]


def test_a_retry_goes_on_in_the_same_run_and_conflicts_are_told(
    exporter: Exporter, folder: Path, query: Query, caplog: pytest.LogCaptureFixture
) -> None:
    trial = Folder(folder, 0, {"lr": 0.1})
    trial.run((1, {"x": 1.0}), (2, {"x": 0.5}), (3, {"x": 0.4}))
    exporter.changed(0)
    assert exporter.flush(60)
    trial.submit({"lr": 0.1}, attempt=2)
    exporter.changed(0, retried="its node failed")
    trial.run((2, {"x": 0.5}), (3, {"x": 0.3}), (4, {"x": 0.2}), label="2.0")
    exporter.changed(0)
    assert exporter.flush(60)
    trial.run((5, {"x": 9.0}))  # a node that was thought lost still runs
    trial.run((5, {"x": 0.1}), label="2.0")
    trial.end(0.1, run="2.0")
    exporter.changed(0, ended=True)
    assert exporter.flush(60)
    assert query(ROWS, "0")[1:] == [("x", step, value, 0) for step, value in enumerate([1.0, 0.5, 0.4, 0.2, 9.0], 1)]
    tags = dict(query(TAGS, "0"))
    assert (tags["trialfleet.attempt"], tags["trialfleet.retry"]) == ("2", "its node failed")
    assert (
        tags["trialfleet.conflict"]
        == "x at step 3 was 0.4, and 0.3 when trained again (run 2.0); the first value stands"
    )
    assert caplog.text.count("when trained again") == 1
    assert query("SELECT count(*) FROM runs WHERE name LIKE 'trial%'") == [(1,)]


def test_a_restart_finds_everything_and_doubles_nothing(folder: Path, target: Destination, query: Query) -> None:
    for life in range(3):
        with opened(folder, target) as exporter:
            for number in range(3):
                trial = Folder(folder, number, {"lr": 0.1 * number})
                if life < 2:
                    trial.run((life, {"x": float(life)}))
                else:
                    trial.end(1.0)
                exporter.changed(number, ended=life == 2)
            exporter.study_ended("STOPPED" if life < 2 else "COMPLETE")
            assert exporter.flush(60)
    assert query("SELECT count(*), count(DISTINCT name) FROM runs") == [(4, 4)]
    assert query("SELECT count(*) FROM metrics") == [(3 * 3,)]
    assert query("SELECT status FROM runs WHERE name = 'digits'") == [("FINISHED",)]


@pytest.mark.parametrize("text", ["plain", "it's", 'a "b"', 'it\'s "both"', "back\\slash", "' OR 1=1 --", "50%_"])
def test_a_run_is_found_by_a_tag_of_any_text(target: Destination, text: str) -> None:
    runs = Runs(target)
    experiment = runs.experiment()
    made = [runs.create(experiment, 1, "run", {"a": "x", "place": value}) for value in (text, "another")]
    assert [run.run_id for run in runs.find(experiment, {"a": "x", "place": text})] == made[:1]
    assert [run.run_id for run in runs.find(experiment, {"a": "y", "place": text})] == []


def test_a_finished_study_asks_mlflow_nothing(
    folder: Path, target: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    Folder(folder, 0, {"lr": 0.1}).end(1.0)

    def tell(exporter: Exporter) -> None:
        exporter.changed(0, ended=True)
        exporter.study_changed([0], "all good")
        exporter.study_ended("COMPLETE")
        assert exporter.flush(60)

    with opened(folder, target) as exporter:
        tell(exporter)
    monkeypatch.setattr("trialfleet.tracking.exporter.Runs", lambda _: pytest.fail("MLflow is asked"))
    with opened(folder, target) as exporter:
        assert exporter.finished == {0}
        tell(exporter)
        assert exporter.problem() is None


def test_the_delivery_log_can_be_lost(folder: Path, target: Destination, query: Query) -> None:
    trials = [Folder(folder, number, {"lr": 0.1}) for number in range(3)]
    for trial in trials:
        trial.run((1, {"x": 1.0, "nan": math.nan}))
    for life in range(2):
        with opened(folder, target) as exporter:
            for number, trial in enumerate(trials):
                ended = life == 1 or number == 0
                if ended:
                    trial.end(1.0, at=1e9)
                exporter.changed(number, ended=ended)
            exporter.study_changed([life], "")
            assert exporter.flush(60)
            trials[1].run((2, {"x": 1.0}))
            trials[2].run((1, {"x": 7.0}))  # comes first in no life
        for path in folder.glob("mlflow-*.jsonl"):
            path.unlink()
    assert query("SELECT count(*) FROM runs") == [(4,)]
    assert query(ROWS, "1") == [("nan", 1, 0.0, 1), ("objective", 0, 1.0, 0), ("x", 1, 1.0, 0), ("x", 2, 1.0, 0)]
    assert query(ROWS, "2") == [("nan", 1, 0.0, 1), ("objective", 0, 1.0, 0), ("x", 1, 1.0, 0)]
    assert query("SELECT name FROM runs WHERE name LIKE '%best'") == [("trial 00001 ★ best",)]


def test_the_database_can_be_deleted(folder: Path, target: Destination, tables: Path, query: Query) -> None:
    trial = Folder(folder, 0, {"lr": 0.1})
    trial.run((1, {"x": 1.0}))
    trial.end(1.0)
    with opened(folder, target) as exporter:
        exporter.changed(0, ended=True)
        assert exporter.flush(60)
    connection = sqlite3.connect(target.database)
    for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
        connection.execute(f"DELETE FROM {table}")
    connection.commit()
    connection.close()
    with opened(folder, target) as exporter:  # nobody says anything: the folder is enough
        assert exporter.flush(60)
        assert exporter.finished == {0}
    assert query(ROWS, "0") == [("objective", 0, 1.0, 0), ("x", 1, 1.0, 0)]


def test_a_run_that_was_deleted_in_mlflow_holds_up_nobody(
    exporter: Exporter, folder: Path, target: Destination, query: Query
) -> None:
    trials = [Folder(folder, number, {}) for number in range(2)]
    for number, trial in enumerate(trials):
        trial.run((1, {"x": 1.0}))
        exporter.changed(number)
    assert exporter.flush(60)
    connection = sqlite3.connect(target.database)
    connection.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = 'trial 00000'")
    connection.commit()
    connection.close()
    for number, trial in enumerate(trials):
        trial.run((2, {"x": 0.5}))
        trial.end(1.0)
        exporter.changed(number, ended=True)
    assert exporter.flush(60)
    assert query(ROWS, "1") == [("objective", 0, 1.0, 0), ("x", 1, 1.0, 0), ("x", 2, 0.5, 0)]
    assert exporter.problem() == "trial 0: its run was deleted in MLflow; nothing more is sent there"


def test_one_refused_row_takes_no_other_along(
    exporter: Exporter, folder: Path, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = mlflow_runs.Runs.log

    def picky(self: mlflow_runs.Runs, run_id: str, rows: list) -> None:
        if any(row.step == 7 for row in rows):
            raise mlflow_runs.Refused("seven is not liked")
        log(self, run_id, rows)

    monkeypatch.setattr(mlflow_runs.Runs, "log", picky)
    trial = Folder(folder, 0, {})
    trial.run(*[(step, {"x": float(step)}) for step in range(20)])
    trial.end(1.0)
    exporter.changed(0, ended=True)
    assert exporter.flush(60)
    assert [row[1] for row in query(ROWS, "0")[1:]] == [step for step in range(20) if step != 7]
    assert exporter.problem() == "trial 0: x at step 7 is refused by MLflow (seven is not liked)"


def test_trouble_with_one_trial_delays_only_that_trial(
    exporter: Exporter, folder: Path, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, broken = mlflow_runs.Runs.log, True

    def moody(self: mlflow_runs.Runs, run_id: str, rows: list) -> None:
        if broken and any(row.name == "bad" for row in rows):
            raise mlflow_runs.TrackingError("internal error")
        log(self, run_id, rows)

    monkeypatch.setattr(mlflow_runs.Runs, "log", moody)
    for number, name in enumerate(["bad", "good"]):
        trial = Folder(folder, number, {})
        trial.run((1, {name: 1.0}))
        trial.end(1.0)
        exporter.changed(number, ended=True)
    assert wait_until(lambda: exporter.finished == {1} and exporter.problem() is not None, 60)
    assert not exporter.flush(0.1)
    assert exporter.problem() == "trial 0 waits: internal error"
    broken = False
    assert exporter.flush(60)
    assert exporter.problem() is None
    assert query(ROWS, "0") == [("bad", 1, 1.0, 0), ("objective", 0, 1.0, 0)]


def test_many_and_long_values(folder: Path, target: Destination, query: Query) -> None:
    """MLflow takes 1,000 metrics, 100 parameters and 6,000 characters at a time."""
    params = {f"p{i:03d}": i for i in range(250)} | {"long": "x" * 7000, "wide": "✓" * 5999}
    trial = Folder(folder, 0, params)
    trial.run(*[(step, {f"m{i}": float(i) for i in range(7)}) for step in range(400)])
    trial.end(state="FAIL", error="E: " + "z" * 19_997)
    study = ExportedStudy("digits", "5eed", tags={f"t{i:03d}": "y" * 9000 for i in range(120)})
    with opened(folder, target, study) as exporter:
        exporter.changed(0, ended=True)
        assert exporter.flush(60)
        assert exporter.problem() is None
    assert query("SELECT count(*), count(DISTINCT key || '@' || step) FROM metrics") == [(2800, 2800)]
    stored = dict(query("SELECT key, value FROM params"))
    assert len(stored) == 252
    assert stored["long"].endswith("x … [cut: 7000 characters in all]")
    assert len(stored["long"]) == 6000
    assert stored["wide"] == params["wide"]
    tags = dict(query(TAGS, "0"))
    assert len(tags["t000"]) == 8000
    assert tags["trialfleet.error"].endswith("[cut: 20000 characters in all]")


def test_several_objectives(folder: Path, target: Destination, query: Query) -> None:
    study = ExportedStudy("pareto", "cafe", {"val/wer": "minimize", "speed": "maximize"})
    with opened(folder, target, study) as exporter:
        for number in range(4):
            Folder(folder, number, {}).end(0.5, float(number))
            exporter.changed(number, ended=True)
        for front in ([0], [0, 1], [1, 2, 3], [3]):
            exporter.study_changed(front, "")
            assert exporter.flush(60)
            best = query("SELECT name FROM runs WHERE name LIKE '%best' ORDER BY name")
            assert best == [(f"trial {number:05d} ★ best",) for number in front]
            tagged = query("SELECT count(*) FROM tags WHERE key = 'trialfleet.best' AND value = 'true'")
            assert tagged == [(len(front),)]
    assert query(ROWS, "3") == [("objective/speed", 0, 3.0, 0), ("objective/val/wer", 0, 0.5, 0)]


def test_an_artifact_that_can_not_be_stored_is_told_and_left_out(
    exporter: Exporter, folder: Path, query: Query
) -> None:
    (folder.parent / "mlartifacts").write_text("in the way")
    trial = Folder(folder, 0, {})
    (trial.run() / "artifacts").mkdir()
    (trial.run() / "artifacts" / "a.txt").write_text("a")  # and no config.yaml
    trial.end(1.0, run="1.0")
    exporter.changed(0, ended=True)
    assert exporter.flush(60)
    assert "can not be stored as an artifact" in str(exporter.problem())
    assert query("SELECT status FROM runs WHERE name = 'trial 00000'") == [("FINISHED",)]


@pytest.mark.parametrize("subdir", [".hydra", "composed"])
def test_the_config_is_shown_wherever_hydra_wrote_it_and_without_passwords(
    exporter: Exporter, folder: Path, subdir: str
) -> None:
    trial = Folder(folder, 0, {})
    composed = trial.run() / subdir
    composed.mkdir()
    (composed / "hydra.yaml").touch()
    (composed / "config.yaml").write_text("db: postgresql://me:s3cret@host/db\n")
    trial.end(1.0, run="1.0")
    exporter.changed(0, ended=True)
    assert exporter.flush(60)
    (stored,) = (folder.parent / "mlartifacts").glob("*/*/artifacts/config.yaml")
    assert stored.read_text() == "db: postgresql://me:***@host/db\n"


def test_lines_arrive_while_the_trial_runs(exporter: Exporter, folder: Path, query: Query) -> None:
    trial = Folder(folder, 0, {})
    trial.run()
    exporter.changed(0)
    assert exporter.flush(60)
    for step in range(3):
        trial.run((step, {"x": 1.0}))
        end = time.monotonic() + 10
        while not query(ROWS, "0")[step:]:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_server_that_never_answers_costs_nothing_but_patience(folder: Path) -> None:
    target = Destination("http://me:s3cret@127.0.0.1:9", "trialfleet")  # nobody listens there
    heard: list[str | None] = []

    def waiting(problem: str | None) -> bool:
        heard.append(problem)
        return problem is None

    with opened(folder, target) as exporter:
        Folder(folder, 0, {"lr": 0.1})
        exporter.changed(0)
        start = time.monotonic()
        assert not exporter.flush(1.5)
        assert time.monotonic() - start < 8
        assert not exporter.flush(60, waiting)
        assert time.monotonic() - start < 16
        problem = str(exporter.problem())
    assert heard[-1] is not None
    assert heard[-1] in problem
    assert "Connection refused" in problem
    assert "http://me:***@127.0.0.1:9" in problem
    assert "s3cret" not in problem + "".join(path.read_text() for path in folder.glob("*.jsonl"))


def test_an_experiment_that_was_deleted_is_told_with_the_fix(folder: Path, target: Destination) -> None:
    with opened(folder, target) as exporter:
        Folder(folder, 0, {})
        exporter.changed(0)
        assert exporter.flush(60)
    connection = sqlite3.connect(target.database)
    connection.execute("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'trialfleet'")
    connection.commit()
    connection.close()
    with opened(folder, target) as exporter:
        Folder(folder, 1, {})
        exporter.changed(1)
        until = time.monotonic() + 60
        while exporter.problem() is None and time.monotonic() < until:
            assert not exporter.flush(0.1)
        assert "was deleted: restore it" in str(exporter.problem())


def test_mlflow_writes_nothing_on_the_terminal(
    folder: Path, target: Destination, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Folder(folder, 0, {}).end(1.0)
    with opened(folder, target) as exporter:
        exporter.changed(0, ended=True)
        assert exporter.flush(60)
    assert capfd.readouterr() == ("", "")
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_single_run_has_no_parent(tmp_path: Path, target: Destination, query: Query) -> None:
    with single_run(tmp_path / "out", target, "asr", {"lr": 0.1}, {"a": "b"}, poll_interval=0.02) as outcome:
        append_reports(tmp_path / "out", (1, {"x": 1.0}))
        outcome.objectives = {"val/wer": 0.5}
    assert (outcome.arrived, outcome.problem) == (True, None)
    assert query("SELECT name, status FROM runs") == [("asr", "FINISHED")]
    assert query("SELECT key, step, value FROM metrics ORDER BY key") == [("objective", 0, 0.5), ("x", 1, 1.0)]
    assert "mlflow.parentRunId" not in dict(query("SELECT key, value FROM tags"))


@pytest.mark.parametrize(
    ("error", "status", "state"),
    [
        (ValueError("no"), "FAILED", "FAIL"),
        (Pruned(), "KILLED", "PRUNED"),
        (Preempted(), "KILLED", "STOPPED"),
        (KeyboardInterrupt(), "KILLED", "STOPPED"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_single_run_that_is_taken_up_again_is_the_same_run(
    error: BaseException, status: str, state: str, tmp_path: Path, target: Destination, query: Query
) -> None:
    out = tmp_path / "out"

    def first_part() -> None:
        with single_run(out, target, "asr", {"lr": 0.1}, poll_interval=0.02):
            append_reports(out, (1, {"x": 1.0}), (2, {"x": 0.5}))
            raise error

    with pytest.raises(type(error)):
        first_part()
    assert query("SELECT name, status FROM runs") == [("asr", status)]
    assert query("SELECT value FROM tags WHERE key = 'trialfleet.state'") == [(state,)]
    assert query("SELECT count(*) FROM metrics") == [(2,)]
    with single_run(out, target, "asr", {"lr": 0.1}, poll_interval=0.02) as outcome:
        append_reports(out, (2, {"x": 0.5}), (3, {"x": 0.25}))
        outcome.objectives = {"x": 0.25}
    assert query("SELECT name, status FROM runs") == [("asr", "FINISHED")]
    points = query("SELECT key, step, value FROM metrics ORDER BY key, step")
    assert points == [("objective", 0, 0.25), ("x", 1, 1.0), ("x", 2, 0.5), ("x", 3, 0.25)]


@pytest.mark.slow
def test_artifacts_wait_for_a_server_that_is_away(
    exporter: Exporter, folder: Path, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, is_active, upload = True, mlflow_runs.Runs.is_active, mlflow_runs.Runs.upload

    def asked(function: Callable) -> Callable:
        def answer(*arguments: object) -> object:
            if away:
                raise mlflow_runs.Away("no answer")
            return function(*arguments)

        return answer

    monkeypatch.setattr(mlflow_runs.Runs, "is_active", asked(is_active))
    monkeypatch.setattr(mlflow_runs.Runs, "upload", asked(upload))
    trial = Folder(folder, 0, {})
    (trial.run() / "artifacts").mkdir()
    (trial.run() / "artifacts" / "a.txt").write_text("a")
    trial.end(1.0, run="1.0")
    exporter.changed(0, ended=True)
    assert not exporter.flush(3)
    away = False
    assert exporter.flush(60)
    assert exporter.problem() is None
    assert len(list((folder.parent / "mlartifacts").glob("*/*/artifacts/a.txt"))) == 1


def test_a_run_that_a_late_request_brings_into_being_is_removed(
    exporter: Exporter, folder: Path, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server can time out, be asked whether the run is there, and only then carry out the first request."""
    create, late = mlflow_runs.Runs.create, []

    def slow(self: mlflow_runs.Runs, *arguments: object) -> str:
        if len(late) in (0, 2):  # the study's own run first, then the trial's
            late.append(arguments)
            raise mlflow_runs.Away("timed out")
        run_id = create(self, *arguments)
        create(self, *late[-1])
        late.append(arguments)
        return run_id

    monkeypatch.setattr(mlflow_runs.Runs, "create", slow)
    Folder(folder, 0, {"lr": 0.1}).end(1.0)
    exporter.changed(0, ended=True)
    exporter.study_ended("COMPLETE")
    assert exporter.flush(60)
    runs = query("SELECT name, lifecycle_stage, status FROM runs ORDER BY name, lifecycle_stage")
    assert [run[:2] for run in runs] == [
        ("digits", "active"),
        ("digits", "deleted"),
        ("trial 00000", "active"),
        ("trial 00000", "deleted"),
    ]
    assert [status for _, stage, status in runs if stage == "active"] == ["FINISHED", "FINISHED"]


HOSTILE = "a\ud800b\0c\udfff"


def test_hostile_text_is_stored_without_what_no_store_takes(folder: Path, target: Destination, query: Query) -> None:
    """Half of a pair of surrogates is no UTF-8, NUL is refused by PostgreSQL: neither may hold up the trial."""
    params = {"lr": HOSTILE, HOSTILE: "1", "long": "\ud800" * 1_000_000, "a@b": "1", "a?b": "2", "../x": "3", "": "4"}
    trial = Folder(folder, 0, params)
    line = {"step": 1, "time": 1e300, "values": {HOSTILE: 1.0, "x" * 1_000_000: 2.0}}
    (trial.run() / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    study = ExportedStudy("digits", "5eed", STUDY.objectives, {HOSTILE: HOSTILE, "much": "x" * 1_000_000})
    with opened(folder, target, study) as exporter:
        exporter.changed(0, retried=HOSTILE)
        assert exporter.flush(60)
        seconds = {"a\0//b": 1, HOSTILE: 2}
        trial.end(state="FAIL", error=HOSTILE + ": " + "y" * 1_000_000, seconds=seconds)
        exporter.changed(0, ended=True, retried=HOSTILE + "again")
        exporter.study_changed([], HOSTILE)
        exporter.study_ended("COMPLETE")
        assert exporter.flush(60)
        assert (exporter.problem(), exporter.finished) == (None, {0})
    stored = dict(query("SELECT key, value FROM params"))
    assert len(stored) == len(params)
    assert stored["a_b"] + stored["a_b_2"] == "12"
    tagged = dict(query(TAGS, "0"))
    assert tagged["trialfleet.state"] == "FAIL"
    assert tagged["trialfleet.error"].startswith("a\ufffdb")
    assert tagged["trialfleet.retry"].endswith("again")
    assert tagged["trialfleet.seconds.a_/b"] == "1.00"
    assert {key for key, *_ in query(ROWS, "0")} == {"a_b_c_", "x" * 250}
    texts = query("SELECT key || value FROM tags UNION SELECT key || value FROM params")
    assert not any("\0" in text for (text,) in texts)
    described = query("SELECT value FROM tags WHERE key = 'mlflow.note.content'")[0][0]
    assert described.rpartition("\n\n")[2].startswith("a\ufffdb")


def test_a_line_that_is_no_report_is_told_once_with_its_file(exporter: Exporter, folder: Path, query: Query) -> None:
    path = Folder(folder, 0, {}).run() / "metrics.jsonl"
    exporter.changed(0)
    for step in range(3):
        with path.open("a") as file:
            file.write(f'rubbish\n{{"step": {step}, "time": 1, "values": {{"x": 1}}}}\n')
        assert exporter.flush(60)
    assert [row[1] for row in query(ROWS, "0")] == [0, 1, 2]
    problem = str(exporter.problem())
    assert problem.startswith(f"trial 0: {path}: a line that is no report is left out")
    assert "more" not in problem


def times(query: Query, name: str) -> tuple[int, int]:
    ((start, end),) = query("SELECT start_time, end_time FROM runs WHERE name LIKE ?", f"{name}%")
    return start, end


def test_no_run_ends_before_it_starts(
    exporter: Exporter, folder: Path, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is done to the clock meanwhile."""
    trial = Folder(folder, 0, {})
    trial.run(at=2e9)
    exporter.changed(0)
    assert exporter.flush(60)
    trial.end(1.0, at=1e9)
    exporter.changed(0, ended=True)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    exporter.study_ended("COMPLETE")
    assert exporter.flush(60)
    assert times(query, "trial") == (2 * 10**12, 2 * 10**12)
    start, end = times(query, "digits")
    assert start == end > 10**12


def test_a_run_that_was_found_again_does_not_end_before_it_starts(
    folder: Path, target: Destination, query: Query
) -> None:
    trial = Folder(folder, 0, {})
    for started_at in (2e9 + 0.001, 1e9):
        os.utime(trial.run() / "claim", (started_at, started_at))
        if started_at == 1e9:
            trial.end(1.0, at=1e9 + 5)
        with opened(folder, target) as exporter:
            exporter.changed(0, ended=started_at == 1e9)
            assert exporter.flush(60)
        for path in folder.glob("mlflow-*.jsonl"):
            path.unlink()
    assert times(query, "trial") == (2 * 10**12 + 1, 2 * 10**12 + 1)


def test_a_single_run_that_is_taken_up_again_does_not_end_before_it_starts(
    tmp_path: Path, target: Destination, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now in (2e9, 1e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with single_run(tmp_path / "out", target, "asr", {}, poll_interval=0.02):
            pass
    assert times(query, "asr") == (2 * 10**12, 2 * 10**12)


def test_a_result_that_has_arrived_stays_as_it_is(folder: Path, target: Destination, query: Query) -> None:
    """Its time is that of a file, which a copy of the study's folder can have changed."""
    for ended_at in (1e9, 1e9 + 7):
        trial = Folder(folder, 0, {})
        trial.run(at=1e9)
        trial.end(1.0, at=ended_at)
        with opened(folder, target) as exporter:
            exporter.changed(0, ended=True)
            assert exporter.flush(60)
        for path in folder.glob("mlflow-*.jsonl"):
            path.unlink()
        connection = sqlite3.connect(target.database)
        connection.execute("UPDATE runs SET status = 'RUNNING' WHERE name LIKE 'trial%'")  # died before it ended it
        connection.commit()
        connection.close()
    assert query(ROWS, "0") == [("objective", 0, 1.0, 0)]


def test_labels_become_tags() -> None:
    assert label_tags(["custom", "two words", "a@b", " "]) == {"custom": "true", "two words": "true", "a_b": "true"}


def test_what_a_run_notes_of_its_data_is_shown_as_its_inputs_and_nothing_else(
    exporter: Exporter, folder: Path, query: Query
) -> None:
    long = "x" * 64
    noted = [{"name": "train", "digest": long, "source": "s3://bucket/train"}, {"name": "val"}, {"digest": "1"}, "text"]
    for number, notes in enumerate(({"datasets": noted}, {"datasets": "train"})):
        trial = Folder(folder, number, {"lr": 1.0})
        trial.run((1, {"x": 1.0}))
        trial.end(1.0, run="1.0", notes=notes)
        exporter.changed(number, ended=True)
    assert exporter.flush(60)
    assert (exporter.problem(), exporter.finished) == (None, frozenset([0, 1]))
    found = dict(query("SELECT name, digest FROM datasets"))
    assert found == {"train": found["train"], "val": "unknown"}
    assert 0 < len(found["train"]) <= 36
    assert query("SELECT count(*) FROM inputs") == [(2,)]


def test_what_is_prepared_is_connected_before_there_is_a_trial(folder: Path, target: Destination, query: Query) -> None:
    assert target.database is not None
    target.database.unlink()
    target.database.mkdir()  # nothing can be made there
    with opened(folder, target) as exporter:
        time.sleep(0.1)
        assert exporter.problem() is None  # nobody has asked for anything
        exporter.prepare()
        assert wait_until(lambda: exporter.problem() is not None, 30)
        Folder(folder, 0).submit({}).run()
        exporter.changed(0)
        target.database.rmdir()
        assert exporter.flush(60)
        assert exporter.problem() is None
    assert query("SELECT count(*) FROM tags WHERE key = 'trialfleet.trial'") == [(1,)]


def test_it_rests_after_each_trial_unless_somebody_waits(
    folder: Path, target: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Exporter(folder, target, STUDY, poll_interval=0.01)
    rounds, rests, wait = itertools.count(), list[float](), exporter._wake.wait

    def a_round() -> bool:
        exporter._pause(120.0)
        return next(rounds) > 1

    def rest(seconds: float | None = None) -> bool:
        if threading.current_thread().name == "mlflow-exporter":
            rests.append(seconds or 0.0)
        return wait(seconds)

    monkeypatch.setattr(exporter._export, "round", a_round)
    monkeypatch.setattr(exporter._wake, "wait", rest)
    exporter.start()
    assert wait_until(lambda: rests, 30)
    assert rests[0] > 30
    assert exporter.flush(30)  # that rest is broken off, and there is none in the rounds that it waits for
    assert next(rounds) >= 3
    exporter.close()


@pytest.mark.parametrize(("longest", "order"), [(60.0, "0231"), (0.001, "0123")])  # seconds; a run takes more than .001
def test_trials_that_have_ended_go_first_but_for_the_one_that_has_waited_longest(
    folder: Path, target: Destination, query: Query, monkeypatch: pytest.MonkeyPatch, longest: float, order: str
) -> None:
    """Where rounds are cut short after one trial each has its turn."""
    monkeypatch.setattr("trialfleet.tracking.exporter.LONGEST_ROUND", longest)
    exporter = opened(folder, target)
    a_round, cut = exporter._export.round, list[bool]()
    monkeypatch.setattr(exporter._export, "round", lambda: (a_round(), cut.append(exporter._export.cut_short))[0])
    Folder(folder, 0).submit({})
    Folder(folder, 1).submit({}).run()
    for number in (2, 3):
        Folder(folder, number).submit({}).run()
        Folder(folder, number).end(0.5)
    for number in range(4):
        exporter.changed(number, ended=number > 1)
    with exporter:
        assert exporter.flush(60)
    made = query("SELECT value FROM tags JOIN runs USING (run_uuid) WHERE key = 'trialfleet.trial' ORDER BY runs.rowid")
    assert "".join(value for (value,) in made) == order
    assert cut[0] == (longest < 1)
    assert not cut[-1]
    exporter._export._trials.clear()
    exporter._export.cut_short = True
    a_round()  # with nothing to do
    assert not exporter._export.cut_short

"""A real tracking server that goes away costs delay and nothing else."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracking.folders import Folder
from trialfleet.tracking.destination import resolve
from trialfleet.tracking.exporter import Exporter
from trialfleet.tracking.study_export import ExportedStudy
from trialfleet.trial.metrics import Writer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tracking server")]  # one server, which takes seconds to start
STUDY = ExportedStudy("digits", "0u7", {"val/wer": "minimize"})
OTHER = ExportedStudy("digits", "0u8", {"val/wer": "minimize"})


class Server:
    """mlflow server on loopback, which this test starts, stops and kills by its pid."""

    def __init__(self, database: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.database = database
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        options += ["--backend-store-uri", f"sqlite:///{self.database}"]
        options += ["--artifacts-destination", str(self.database.parent / "served")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-m", "mlflow", "server", *options]
        output = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=output, stderr=output, cwd=self.database.parent
        )
        end = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.2)

    def send(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def stop(self) -> None:
        if self.process is not None:
            self.send(signal.SIGKILL)
            self.process.wait(20)
            self.process = None


@pytest.fixture(scope="module")
def server(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Not started yet, or as an earlier test left it."""
    database = tmp_path_factory.mktemp("server") / "mlflow.db"
    shutil.copy(tables, database)
    server = Server(database)
    yield server
    server.stop()


def runs_of(study: ExportedStudy) -> str:
    """A condition of SQL: this run is one of the study's."""
    tag = f"key = 'trialfleet.study_uid' AND value = '{study.uid}'"
    return f"run_uuid IN (SELECT run_uuid FROM tags WHERE {tag})"


def counts(database: Path) -> dict[str, int]:
    connection = sqlite3.connect(database)
    mine = runs_of(STUDY)
    try:
        query = (
            f"SELECT count(*), count(DISTINCT run_uuid || key || step) FROM metrics WHERE key != 'objective' AND {mine}"
        )
        rows, distinct = connection.execute(query).fetchone()
        runs, names = connection.execute(f"SELECT count(*), count(DISTINCT name) FROM runs WHERE {mine}").fetchone()
        ended = connection.execute(f"SELECT count(*) FROM runs WHERE status = 'FINISHED' AND {mine}").fetchone()[0]
        return {"rows": rows, "distinct": distinct, "runs": runs, "names": names, "ended": ended}
    finally:
        connection.close()


def test_a_server_that_is_killed_frozen_and_late_loses_and_doubles_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    folder = tmp_path / "study"
    folder.mkdir()
    target = resolve(f"http://127.0.0.1:{server.port}", "trialfleet", tmp_path)
    trials, steps = 6, 30
    with Exporter(folder, target, STUDY, poll_interval=0.05) as exporter:
        writers = {}
        for trial in range(trials):
            writers[trial] = Writer(Folder(folder, trial, {"lr": 0.1 * trial}).run() / "metrics.jsonl")
            exporter.changed(trial)
        for step in range(steps):
            if step == 4:
                server.start()  # late
            if step == 12:
                server.stop()  # killed
                assert not exporter.flush(2)
                assert "does not answer" in str(exporter.problem())
            if step == 16:
                server.start()
            if step == 22:
                server.send(signal.SIGSTOP)  # answers nothing, and carries out later what it was asked
                Folder(folder, trials, {})
                exporter.changed(trials)
                assert not exporter.flush(5)
                server.send(signal.SIGCONT)
            for writer in writers.values():
                writer.append(step, {"train/loss": 1 / (step + 1), "val/wer": 0.5})
            time.sleep(0.05)
        for trial, writer in writers.items():
            writer.close()
            Folder(folder, trial).end(0.5 + trial, run="1.0")
            exporter.changed(trial, ended=True)
        Folder(folder, trials).end(state="PRUNED")
        exporter.changed(trials, ended=True)
        exporter.study_changed([0], "")
        exporter.study_ended("COMPLETE")
        assert exporter.flush(120), exporter.problem()
        assert exporter.problem() is None
    expected = trials * steps * 2
    whole = {"rows": expected, "distinct": expected, "runs": trials + 2, "names": trials + 2, "ended": trials + 1}
    assert counts(server.database) == whole


def test_what_a_person_deletes_on_a_server_is_there_again_once(server: Server, tmp_path: Path) -> None:
    """A study that is complete, and nothing else to send: the server is asked all the same."""
    from mlflow import MlflowClient

    folder = tmp_path / "study"
    folder.mkdir()
    if server.process is None:
        server.start()
    target = resolve(f"http://127.0.0.1:{server.port}", "trialfleet", tmp_path)
    hostile = "a\ud800b\0c"

    for number in range(2):
        trial = Folder(folder, number, {"lr": hostile})
        if number == 0:
            trial.run((1, {"x": 1.0, hostile: 1.0}))
        trial.end(0.5, error=hostile, seconds={hostile: 1.0})
    client = MlflowClient(target.uri)
    for deleted in ((), ("digits",), ("digits", "trial 00000"), ("digits", "trial 00000", "trial 00001")):
        connection = sqlite3.connect(server.database)
        query = f"SELECT run_uuid FROM runs WHERE name = ? AND lifecycle_stage = 'active' AND {runs_of(OTHER)}"
        for name in deleted:
            ((run_id,),) = connection.execute(query, (name,)).fetchall()
            client.delete_run(run_id)
        with Exporter(folder, target, OTHER, poll_interval=0.05) as exporter:
            for number in range(2):
                exporter.changed(number, ended=True)
            exporter.study_ended("COMPLETE")
            assert exporter.flush(60), exporter.problem()
            assert exporter.problem() is None
        active = f"FROM runs WHERE lifecycle_stage = 'active' AND status = 'FINISHED' AND {runs_of(OTHER)}"
        names = connection.execute(f"SELECT name {active} ORDER BY name").fetchall()
        assert names == [("digits",), ("trial 00000",), ("trial 00001",)]
        points = connection.execute(f"SELECT count(*) FROM metrics WHERE run_uuid IN (SELECT run_uuid {active})")
        assert points.fetchone() == (4,)
        parents = "SELECT DISTINCT value FROM tags WHERE key = 'mlflow.parentRunId' AND run_uuid IN"
        ((parent,),) = connection.execute(f"{parents} (SELECT run_uuid {active})").fetchall()
        assert connection.execute(f"SELECT name {active} AND run_uuid = ?", (parent,)).fetchall() == [("digits",)]
        connection.close()

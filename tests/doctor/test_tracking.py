"""MLflow: files, servers that answer, refuse or are away. Nothing is made there."""

import json
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trialfleet.doctor import tracking
from trialfleet.doctor.findings import Check, Finding, examine

from .conftest import AskedFor

EXPERIMENT = {"experiment_id": "1", "name": "trialfleet", "artifact_location": "x", "lifecycle_stage": "active"}


def looked(asked: AskedFor, uri: str) -> Finding:
    overrides = (f"hydra.sweeper.tracking.uri={uri}",)
    (found,) = examine([Check("mlflow", lambda: tracking.look(asked(*overrides)), 90)])
    return found


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the doctor looks at in MLflow's tables."""
    monkeypatch.setattr(tracking, "_mlflow", lambda program, given="": "rev2")
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("CREATE TABLE experiments (name TEXT, lifecycle_stage TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('rev2')")
    connection.close()
    return path


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


def test_off_and_not_there_yet(asked: AskedFor, tmp_path: Path) -> None:
    assert "switched off" in looked(asked, "null").found
    found = looked(asked, "sqlite:///mlflow.db")
    assert (found.status, list((tmp_path / "sweeps").iterdir())) == ("ok", [])
    assert f"{tmp_path}/mlflow.db: is to be made" in found.found
    assert not (tmp_path / "mlflow.db").exists()


def test_an_sqlite_file(asked: AskedFor, database: Path) -> None:
    before = database.read_bytes()
    found = looked(asked, f"sqlite:///{database}")
    assert found.status == "ok"
    assert found.found.endswith("its tables are up to date; experiment 'trialfleet' is to be made")
    assert database.read_bytes() == before
    change(database, "INSERT INTO experiments VALUES ('trialfleet', 'active')")
    assert looked(asked, f"sqlite:///{database}").found.endswith("experiment 'trialfleet' is there")


@pytest.mark.parametrize(
    ("statement", "said", "fix"),
    [
        ("UPDATE alembic_version SET version_num = 'rev1'", "have revision rev1", "mlflow db upgrade sqlite:///"),
        ("INSERT INTO experiments VALUES ('trialfleet', 'deleted')", "is deleted", "restore it"),
    ],
)
def test_an_sqlite_file_that_is_no_use(asked: AskedFor, database: Path, statement: str, said: str, fix: str) -> None:
    change(database, statement)
    found = looked(asked, f"sqlite:///{database}")
    assert found.status == "FAIL"
    assert said in found.found
    assert fix in found.fix


def test_a_file_that_is_none_and_addresses_that_are_none(asked: AskedFor, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database")
    for uri in (f"sqlite:///{tmp_path}/text.db", "file:mlruns", "sqlite:////proc/1/x.db", "'http://'"):
        found = looked(asked, uri)
        assert found.status == "FAIL"
        assert found.fix


def test_a_locked_file(asked: AskedFor, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.databases, "sqlite_refusal", lambda path: f"{path}: database is locked")
    found = looked(asked, f"sqlite:///{database}")
    assert (found.status, "database is locked" in found.found) == ("FAIL", True)


def test_servers_that_are_away(asked: AskedFor) -> None:
    found = looked(asked, "http://127.0.0.1:1")
    assert found.status == "FAIL"
    assert "cannot be reached: [Errno 111] Connection refused" in found.found
    found = looked(asked, "postgresql+psycopg://me:secret@127.0.0.1:1/mlflow")
    assert found.status == "FAIL"
    assert "secret" not in found.found


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, tuple[int, str]]]]:
    """A server on this machine, and what it answers by path."""
    answers: dict[str, tuple[int, str]] = {"/health": (200, "OK")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = answers.get(self.path.partition("?")[0], (404, "{}"))
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *words: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", answers
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.slow
def test_a_server(asked: AskedFor, server: tuple[str, dict[str, tuple[int, str]]]) -> None:
    """MLflow's own client asks it."""
    uri, answers = server
    path = "/api/2.0/mlflow/experiments/get-by-name"
    answers[path] = (200, json.dumps({"experiment": EXPERIMENT}))
    found = looked(asked, uri)
    assert (found.status, found.found) == ("ok", f"{uri}: answers; experiment 'trialfleet' is there")
    answers["/health"] = (503, "no")
    found = looked(asked, uri)
    assert (found.status, found.found) == ("FAIL", f"{uri}: answers 503 Service Unavailable")


@pytest.mark.parametrize(
    ("answer", "said", "status"),
    [("", "is to be made", "ok"), ("deleted", "is deleted", "FAIL"), (None, "answers, but: 401", "FAIL")],
)
def test_what_the_client_hears(
    asked: AskedFor,
    server: tuple[str, dict[str, tuple[int, str]]],
    monkeypatch: pytest.MonkeyPatch,
    answer: str | None,
    said: str,
    status: str,
) -> None:
    def client(program: str, given: str = "") -> str:
        if answer is None:
            raise subprocess.CalledProcessError(1, "python", stderr="Traceback:\n401 Unauthorized\n")
        return answer

    monkeypatch.setattr(tracking, "_mlflow", client)
    found = looked(asked, server[0])
    assert (found.status, said in found.found) == (status, True)

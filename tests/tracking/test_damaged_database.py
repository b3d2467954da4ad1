"""A damaged mlflow.db stops nothing: it is named, nothing is lost, and all goes on once it is moved away."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracking.folders import Folder
from trialfleet.config.location import project_directory
from trialfleet.errors import UserError
from trialfleet.tracking import dashboard, database_schema, mlflow_runs
from trialfleet.tracking.destination import DamagedDatabase, Destination, damage, knows_run, resolve, sidecars
from trialfleet.tracking.exporter import Exporter
from trialfleet.tracking.study_export import ExportedStudy

Query = Callable[..., list[tuple]]
STUDY = ExportedStudy("digits", "dada", {"x": "minimize"})


def random_bytes(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(100_000))


def text(path: Path) -> None:
    path.write_text("no database\n")


def rubbish_behind_a_header(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"rubbish" * 1000)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def header_only(path: Path) -> None:
    os.truncate(path, 50)


def zeros_inside(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\0" * (path.stat().st_size - 100))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [random_bytes, text, rubbish_behind_a_header, half, header_only, zeros_inside, a_folder]
each_damage = pytest.mark.parametrize("spoil", DAMAGES, ids=lambda spoil: spoil.__name__)
# The same ends: every day one damage that a look sees, and one that shows only as the file is used.
some_damages = pytest.mark.parametrize(
    "spoil",
    [spoil if spoil in (text, zeros_inside) else pytest.param(spoil, marks=pytest.mark.slow) for spoil in DAMAGES],
    ids=lambda spoil: spoil.__name__,
)


def tell(exporter: Exporter) -> None:
    for number in range(2):
        exporter.changed(number, ended=True)
    exporter.study_ended("COMPLETE")


def written(folder: Path) -> Path:
    for number in range(2):
        trial = Folder(folder, number, {"lr": 0.1})
        trial.run((1, {"x": 1.0}))
        trial.end(1.0)
    return folder


def move_away(database: Path) -> None:
    for path in (database, *sidecars(database)):
        path.rename(path.with_name(f"away-{path.name}"))


def check(query: Query) -> None:
    runs = query("SELECT name, status FROM runs ORDER BY name")
    assert runs == [(name, "FINISHED") for name in ("digits", "trial 00000", "trial 00001")]
    assert query("SELECT key, step, count(*) FROM metrics GROUP BY 1, 2") == [("objective", 0, 2), ("x", 1, 2)]


def named(problem: str | None, database: Path) -> bool:
    text = str(problem)
    return str(database) in text and "nothing is lost" in text and "move it away" in text and "\n" not in text


@pytest.mark.usefixtures("quick_tables")
@some_damages
def test_it_is_named_and_all_goes_on_once_it_is_moved_away(
    spoil: Callable[[Path], None], target: Destination, tmp_path: Path, query: Query
) -> None:
    assert target.database is not None
    spoil(target.database)
    with Exporter(written(tmp_path / "study"), target, STUDY, poll_interval=0.02) as exporter:
        tell(exporter)
        assert not exporter.flush(0.5)
        assert named(exporter.problem(), target.database)
        move_away(target.database)
        assert exporter.flush(60)
        assert exporter.problem() is None
    check(query)


@pytest.mark.usefixtures("quick_tables")
@some_damages
def test_it_may_be_damaged_while_the_driver_runs(
    spoil: Callable[[Path], None], target: Destination, tmp_path: Path, query: Query
) -> None:
    assert target.database is not None
    folder = written(tmp_path / "study")
    with Exporter(folder, target, STUDY, poll_interval=0.02) as exporter:
        tell(exporter)
        assert exporter.flush(60)
        spoil(target.database)
        os.truncate(f"{target.database}-wal", 0)  # what is not written into the file yet is lost with it
        exporter.study_changed([], "something to send")
        assert not exporter.flush(0.5)
        assert named(exporter.problem(), target.database)
        move_away(target.database)
        assert exporter.flush(60), exporter.problem()
        assert exporter.problem() is None
    check(query)
    assert query("SELECT value FROM tags WHERE key = 'mlflow.note.content'")[0][0].endswith("\n\nsomething to send")


@each_damage
def test_a_complete_study_ends_all_the_same(spoil: Callable[[Path], None], target: Destination, tmp_path: Path) -> None:
    """There is nothing to send, so nobody has to wait; but it is said."""
    assert target.database is not None
    folder = written(tmp_path / "study")
    with Exporter(folder, target, STUDY, poll_interval=0.02) as exporter:
        tell(exporter)
        assert exporter.flush(60)
    mlflow_runs.release(target)
    spoil(target.database)
    with Exporter(folder, target, STUDY, poll_interval=0.02) as exporter:
        tell(exporter)
        assert exporter.flush(60)
        assert named(exporter.problem(), target.database)


@each_damage
def test_a_look_tells(spoil: Callable[[Path], None], target: Destination) -> None:
    assert target.database is not None
    assert damage(target.database) is None
    spoil(target.database)
    assert damage(target.database)
    assert not knows_run(target, "dada", "run")
    with pytest.raises(DamagedDatabase, match="nothing is lost"):
        database_schema.ensure(target.database)
    with pytest.raises(UserError, match=r"mlflow\.db .*nothing is lost"):
        dashboard.check(target)


def test_no_file_and_an_empty_one_are_no_damage(tmp_path: Path) -> None:
    assert damage(tmp_path / "mlflow.db") is None
    (tmp_path / "mlflow.db").touch()
    assert damage(tmp_path / "mlflow.db") is None


@each_damage
def test_a_study_that_has_begun_is_not_refused_for_it(
    spoil: Callable[[Path], None], target: Destination, tmp_path: Path
) -> None:
    assert target.database is not None
    spoil(target.database)
    assert resolve("sqlite:///mlflow.db", "trialfleet", tmp_path, begun=True) == target


def test_a_study_to_begin_is_told_what_to_do_about_it(tmp_path: Path) -> None:
    random_bytes(tmp_path / "mlflow.db")
    with pytest.raises(UserError, match="not an SQLite database") as caught:
        resolve("sqlite:///mlflow.db", "trialfleet", tmp_path)
    assert "nothing is lost" in caught.value.fix


@pytest.mark.usefixtures("quick_tables")
def test_what_is_left_beside_a_file_that_is_gone_does_not_spoil_the_new_one(
    target: Destination, tmp_path: Path
) -> None:
    """SQLite would play the write-ahead log of the old file into the new one."""
    assert target.database is not None
    target.database.unlink()
    for suffix in ("-wal", "-shm", "-journal"):
        (tmp_path / f"mlflow.db{suffix}").write_bytes(b"of another file")
    database_schema.ensure(target.database)
    assert [path.read_bytes() for path in tmp_path.glob("mlflow.db-*.old")] == [b"of another file"] * 3


@pytest.mark.parametrize("spoil", [half, zeros_inside], ids=lambda spoil: spoil.__name__)
def test_the_dashboard_names_the_file(spoil: Callable[[Path], None], target: Destination, tmp_path: Path) -> None:
    assert target.database is not None
    spoil(target.database)
    environment = {**os.environ, "PYTHONPATH": str(project_directory())}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "pipelines.dashboard"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {target.database} ")
    assert len(done.stderr.splitlines()) <= 3

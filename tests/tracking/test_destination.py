"""A tracking URI is refused at once, with the fix, or means the same wherever it is looked at."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trialfleet.errors import UserError
from trialfleet.tracking import destination as targets
from trialfleet.tracking.destination import check, masked, resolve


def test_relative_sqlite_paths_mean_the_folder_of_the_command(tmp_path: Path) -> None:
    target = resolve("sqlite:///results/mlflow.db?timeout=30", "x", tmp_path)
    assert target.database == tmp_path / "results" / "mlflow.db"
    assert target.uri == f"sqlite:///{tmp_path}/results/mlflow.db?timeout=30"
    assert not (tmp_path / "results").exists()  # nothing is made by looking


def test_absolute_sqlite_paths_stay(tmp_path: Path) -> None:
    assert resolve(f"sqlite:///{tmp_path}/m.db", "x", Path("/")).database == tmp_path / "m.db"


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("", "empty"),
        ("./mlruns", "removed"),
        ("mlruns", "removed"),
        ("file:///tmp/mlruns", "removed"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////proc/nowhere/mlflow.db", "can not be written"),
        ("sqlite:////dev/null/mlflow.db", "can not be written"),
        ("sqlite:////tmp", "is a folder"),
        ("http://", "names no server"),
        ("http://host:notaport", "names no server"),
        ("htp://host:5000", "knows no 'htp'"),
        ("mysql+nodriver://user:hidden@host/db", "not installed"),
    ],
)
def test_nonsense_is_refused_with_a_fix(uri: str, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        resolve(uri, "trialfleet", Path("/tmp"))
    assert "tracking.uri" in caught.value.message
    assert caught.value.fix
    assert "hidden" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database, but more than sixteen bytes")
    with pytest.raises(UserError, match="not an SQLite database"):
        resolve("sqlite:///notes.txt", "trialfleet", tmp_path)


def test_an_empty_experiment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="experiment"):
        resolve("sqlite:///m.db", " ", tmp_path)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "https://user:pw@tracking.example/base", "databricks"])
def test_servers_are_not_asked_whether_they_are_there(uri: str) -> None:
    check(uri)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:se/c@ret@host/db", "postgresql://me:se/c@ret@host/db"),  # no valid URI: '/' ends the host
        ("postgresql://me:s%2Fe@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("https://me:p@ss@host/path", "https://me:***@host/path"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_passwords_are_masked(uri: str, shown: str) -> None:
    assert masked(uri) == shown


def test_messages_of_libraries_are_masked() -> None:
    target = targets.Destination("postgresql://me:s%21cret@host/db", "x")
    text = target.without_secrets("can not open postgresql://me:s%21cret@host/db: password s!cret refused")
    assert "cret" not in text.replace("s!cret", "LEAK")
    assert "LEAK" not in text.replace("s!cret", "LEAK")


def test_passwords_do_not_name_the_delivery_log() -> None:
    one, other = (targets.Destination(f"http://me:{word}@host", "x") for word in ("old", "new"))
    assert one.key == other.key
    assert one.key != targets.Destination("http://me:old@host", "y").key


def test_checking_does_not_import_mlflow() -> None:
    code = "import sys; from trialfleet.tracking import destination, exporter; destination.check('sqlite:///x.db'); "
    code += "print([name for name in sys.modules if name.split('.')[0] in ('mlflow', 'sqlalchemy', 'pandas')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("mounts", "path", "network"),
    [
        ("/dev/sda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n", "/home/me", True),
        ("/dev/sda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n", "/homestead", False),
        ("/dev/sda / ext4 rw 0 0\ns:/x /mnt/my\\040disk lustre rw 0 0\n", "/mnt/my disk/a", True),
        ("s:/ / nfs rw 0 0\n/dev/sdb /scratch xfs rw 0 0\n", "/scratch/a", False),
        ("/dev/sda / ext4 rw 0 0\nme@host: /far fuse.sshfs rw 0 0\n", "/far/a", True),
    ],
)
def test_network_file_systems_are_told_from_local_ones(
    mounts: str, path: str, network: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_named: mounts)
    assert targets.on_network_file_system(Path(path)) is network

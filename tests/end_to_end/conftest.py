"""Whole commands, as a person types them, in an empty folder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests import xla
from tests.tasks.commands import Commands

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: Path) -> Path:
    """An empty folder to type commands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(compiled))
    monkeypatch.setenv("XLA_FLAGS", xla.flags())
    # The last two are for trainings within the test's own process (tests/training).
    for name in ("MLFLOW_TRACKING_URI", "PJRT_NPROC", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def database(here: Path, tables: Path) -> str:
    """URI of an MLflow database with its tables, in the folder where commands are typed."""
    shutil.copy(tables, here / "mlflow.db")
    return f"sqlite:///{here}/mlflow.db"


@pytest.fixture
def run(here: Path) -> Run:
    """Runs `python -m <words>`; the output of both streams is in stdout."""

    def command(*words: str, code: int = 0, environment: Mapping[str, str] | None = None) -> object:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "COLUMNS": "200", **(environment or {})},
        )
        assert done.returncode == code, done.stdout
        return done

    return command  # type: ignore[return-value]  # subprocess's generics


@pytest.fixture
def run_quickly(here: Path, commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Does what `run` does, but that Python and what a driver imports are there already."""

    def command(*words: str, code: int = 0, environment: Mapping[str, str] | None = None) -> object:
        variables = {**os.environ, "COLUMNS": "200", **(environment or {})}
        said = tmp_path_factory.mktemp("said") / "said"
        ended, shown = commands.run("-m", *words, place=here, said=said, environment=variables)
        assert ended == code, shown
        return subprocess.CompletedProcess(words, ended, shown)

    return command  # type: ignore[return-value]  # subprocess's generics

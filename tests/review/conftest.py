"""A study of a dozen trials that have ended, in files alone, and its commands in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import review
from trialfleet.commands import study as commands
from trialfleet.commands.study import Application
from trialfleet.errors import UserError

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are typed: `sweeps` has a study called wide of 12 trials."""
    review.make(tmp_path / "sweeps" / "wide", 12)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def ask(place: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Types `trialfleet study …`: the exit code, and what was said on both streams, errors included."""

    def typed(*words: str, application: Application | None = None) -> tuple[int, str]:
        code = 0
        try:
            commands.run("trialfleet study", words, application)
        except SystemExit as left:
            code = int(left.code or 0)
        except UserError as error:
            return 2, str(error)
        said = capsys.readouterr()
        return code, said.out + said.err

    return typed

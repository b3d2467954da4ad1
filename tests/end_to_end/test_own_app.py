"""An application of somebody's own gets the engine by one override: pruned, killed, resumed, reviewed in MLflow."""

import os
import signal
from pathlib import Path

import pytest

from tests.tasks.commands import Commands
from tests.tasks.own_app import OwnApp, check


@pytest.mark.slow
def test_on_local_processes(tmp_path: Path, commands: Commands, tables: Path) -> None:
    app = OwnApp(tmp_path / "app", "hydra/launcher=submitit_local", "epochs=300", commands=commands, tables=tables)
    driver = app.start()
    app.wait_for_reports(0)
    driver.kill()
    driver.communicate()
    worker = app.trial(0).claims()[0].process.pid
    os.kill(worker, signal.SIGKILL)
    app.edit()
    assert "the code has changed" in app.run()
    check(app)
    assert app.states()[0] == "COMPLETE"
    result = app.trial(0).result()
    assert result is not None
    assert result.objectives is not None
    assert result.objectives[0] < 1
    assert "is finished" in app.run()


@pytest.mark.slow
def test_in_the_commands_own_process(tmp_path: Path, commands: Commands, tables: Path) -> None:
    """Hydra's basic launcher: a bad trial is stopped all the same, and an interrupted one goes on from where it was."""
    app = OwnApp(tmp_path / "app", "epochs=300", commands=commands, tables=tables)
    driver = app.start()
    app.wait_for_reports(0)
    driver.kill()
    driver.communicate()
    app.run()
    check(app)
    assert app.steps(1) == [[1, 2]]  # judged at its first report beyond the other's
    for number in range(3):
        assert not list(app.trial(number).runs.glob("*/told_preempt"))

"""An application of somebody's own gets the engine by one override: pruned, killed, resumed, reviewed in MLflow."""

import os
import signal
from pathlib import Path

import pytest

from tests.tasks.own_app import OwnApp, check


@pytest.mark.slow
def test_on_local_processes(tmp_path: Path) -> None:
    app = OwnApp(tmp_path / "app", "hydra/launcher=submitit_local", "epochs=300")
    driver = app.start()
    app.wait_for_reports(0)
    driver.kill()
    driver.communicate()
    worker = app.trial(0).claims()[0].process.pid
    os.kill(worker, signal.SIGKILL)
    script = (app.folder / "train.py").read_text()
    (app.folder / "train.py").write_text(script.replace("return loss", "return 7.0  # tomorrow's edit"))
    assert "the code has changed" in app.run()
    check(app)
    assert app.states()[0] == "COMPLETE"
    result = app.trial(0).result()
    assert result is not None
    assert result.objectives != [7.0]
    assert "is finished" in app.run()

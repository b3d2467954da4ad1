"""Workers to be started, and what they share."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import composing
from tests.tasks.commands import OF_TRIAL, Commands, host_of_commands
from tests.worker.study import CONF, TASK, Study
from trialfleet.sweep.fleets.payload import write_payload


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    """Forks a process for each worker, which so need not import Hydra again."""
    with host_of_commands(*OF_TRIAL) as commands:
        yield commands


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all jobs share, the program beside it: the sweep's folder is in their environment, a test's own."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "conf").mkdir()
    (folder / "conf" / "config.yaml").write_text(CONF)
    (folder / "worker_task.py").write_text(TASK)
    with pytest.MonkeyPatch.context() as patch, composing() as composed:
        patch.syspath_prepend(folder)
        patch.setenv("SWEEP_DIR", str(folder / "sweep"))
        import worker_task  # type: ignore[import-not-found]  # written just now

        context, config = composed(folder / "conf")
        path = write_payload(folder, context, worker_task.task, config, "code")
        del sys.modules["worker_task"]
    return path


@pytest.fixture
def study(tmp_path: Path, payload: Path, commands: Commands) -> Study:
    return Study(tmp_path / "sweep", payload, commands)

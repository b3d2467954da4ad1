"""The private names of submitit and of its launchers: which are there, and that they do what is promised of them."""

import fcntl
import importlib
import inspect
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import submitit
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import (
    BaseSubmititLauncher,
    LocalLauncher,
    SlurmLauncher,
)

from tests.compat.versions import gone, locked
from trialfleet.compat.submitit import (
    SEEN,
    SEEN_LAUNCHER,
    LocalController,
    _ends,
    batch_script,
    executor_of,
    node_names,
)


def test_the_locked_versions_were_seen() -> None:
    assert locked("submitit") in SEEN, "if all else here passes with it, add it to SEEN in compat/submitit.py"
    assert locked("hydra-submitit-launcher") in SEEN_LAUNCHER, "if all else here passes with it, add it, too"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("submitit.slurm.slurm", "_make_sbatch_string"),
        ("submitit.slurm.slurm", "_parse_node_list"),
        ("submitit.local._local", "Controller"),
    ],
)
def test_the_private_names_are_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), gone("submitit", f"{module}.{name}", SEEN)


class OwnLauncher(BaseSubmititLauncher):  # type: ignore[misc]  # it has no types
    """A user's own: none of the classes with public names."""

    _EXECUTOR = "slurm"


@pytest.mark.parametrize(
    ("launcher", "executor"),
    [(LocalLauncher, "local"), (SlurmLauncher, "slurm"), (OwnLauncher, "slurm"), (BaseSubmititLauncher, None)],
)
def test_a_launcher_tells_its_executor(launcher: Any, executor: str | None) -> None:
    assert hasattr(launcher, "_EXECUTOR"), gone("hydra-submitit-launcher", "_EXECUTOR", SEEN_LAUNCHER)
    assert executor_of(launcher()) == executor


def test_any_other_launcher_has_none() -> None:
    assert executor_of(BasicLauncher()) is None


def test_a_script_has_what_the_launchers_keys_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters as `AutoExecutor` converts them from its public keys."""
    (tmp_path / "srun").write_text("")  # submitit looks whether there is one
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="slurm")
    executor.update_parameters(timeout_min=7, mem_gb=3, slurm_partition="gpu", slurm_setup=["module load cuda"])
    script = batch_script("python -m work", tmp_path, **executor.parameters, map_count=4).splitlines()
    for line in ("time=7", "mem=3GB", "partition=gpu", "array=0-3%4", f"output={tmp_path}/%A_%a_0_log.out"):
        assert f"#SBATCH --{line}" in script
    assert "module load cuda" in script
    assert script[-1].startswith("srun ")
    assert script[-1].endswith("python -m work")


def test_every_parameter_of_a_script_is_one_of_submitits_executor() -> None:
    """What the launcher's keys can say, the private function takes."""
    from submitit.slurm.slurm import _make_sbatch_string

    taken = set(inspect.signature(_make_sbatch_string).parameters)
    assert {"time", "mem", "setup", "exclude", "additional_parameters", "map_count", "signal_delay_s"} <= taken


@pytest.mark.parametrize(
    ("text", "names"),
    [("", []), ("node1", ["node1"]), ("a[1-2,04],b", ["a1", "a2", "a04", "b"]), ("n[08-10]", ["n08", "n09", "n10"])],
)
def test_a_list_of_nodes(text: str, names: list[str]) -> None:
    assert node_names(text) == names


def test_what_is_no_list_of_nodes_is_refused() -> None:
    with pytest.raises(ValueError, match="node"):
        node_names("node[1-")


def test_the_controller_starts_the_tasks(tmp_path: Path) -> None:
    """Each in an environment that says which it is, with its output in a file of its own."""
    code = "import os, sys; print('task', os.environ['SUBMITIT_LOCAL_GLOBALID']); print('word', file=sys.stderr)"
    done = _run(_controller(tmp_path, [sys.executable, "-c", code], tasks=2))
    assert done.returncode == 0, done.stderr
    outputs = [sorted(path.read_text().splitlines()) for path in sorted(tmp_path.glob("*_log.out"))]
    assert outputs == [["task 0", "word"], ["task 1", "word"]]


def test_the_controller_ends_the_task_at_its_time_limit(tmp_path: Path) -> None:
    done = _run(_controller(tmp_path, [sys.executable, "-c", "import time; time.sleep(600)"], time_limit=0))
    assert done.returncode == 0, done.stderr


def _controller(folder: Path, task: list[str], tasks: int = 1, time_limit: int = 60) -> LocalController:
    return LocalController(folder, task, tasks, time_limit, signal_delay=0, stderr_to_stdout=True, in_shell=False)


def _run(controller: LocalController) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **controller.environment}
    return subprocess.run(controller.command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="of Linux")
def test_a_process_is_waited_for_where_many_files_are_open() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    opened = os.pidfd_open(sleeper.pid)
    handle = fcntl.fcntl(opened, fcntl.F_DUPFD, 1024)
    os.close(opened)
    assert not _ends(handle, time.monotonic() + 0.01)
    sleeper.communicate(b"\n")
    assert _ends(handle, time.monotonic() + 60)
    os.close(handle)

"""`trialfleet doctor` and `python -m pipelines.doctor`: what they read, print and exit with."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trialfleet.commands import doctor
from trialfleet.config.location import conf_directory, project_directory
from trialfleet.doctor.asked import Asked, ask
from trialfleet.doctor.findings import Check, fail, note, ok
from trialfleet.errors import UserError

Capture = pytest.CaptureFixture[str]
GOOD = [Check("good", lambda: [ok("good", "all is well")], 60)]
FAIR = [Check("fair", lambda: [note("fair", "a thing is missing", "install the thing")], 60)]
BAD = [Check("bad", lambda: [fail("bad", "a thing is broken", "mend the thing")], 60)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs the command with these checks; its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(checks: list[Check], *words: str) -> int:
        monkeypatch.setattr(doctor, "all_checks", lambda asked, waits: checks)
        with pytest.raises(SystemExit) as ended:
            doctor.run("trialfleet doctor", words)
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return run


def test_one_line_for_each_check(run: Callable[..., int], capsys: Capture) -> None:
    assert run([*GOOD, *FAIR, *BAD]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok    good              all is well",
        "note  fair              a thing is missing. To do: install the thing",
        "FAIL  bad               a thing is broken. To do: mend the thing",
    ]


def test_the_same_as_json(run: Callable[..., int], capsys: Capture) -> None:
    assert run([*GOOD, *FAIR], "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "good", "status": "ok", "found": "all is well", "fix": ""},
        {"name": "fair", "status": "note", "found": "a thing is missing", "fix": "install the thing"},
    ]


def test_bad_usage(run: Callable[..., int], capsys: Capture) -> None:
    assert run(GOOD, "--no-such-option") == 2
    assert "--no-such-option" in capsys.readouterr().err
    for words in (["hydra/launcher=no_such"], ["hydra.sweeper.n_trial=3"], ["no override"]):
        with pytest.raises(UserError):
            doctor.run("trialfleet doctor", words)


def asked_by(monkeypatch: pytest.MonkeyPatch, *words: str) -> Asked:
    seen: list[Asked] = []
    monkeypatch.setattr(doctor, "all_checks", lambda asked, waits: seen.append(asked) or [])
    with pytest.raises(SystemExit):
        doctor.run("trialfleet doctor", words)
    return seen[0]


def test_options_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    address = "postgresql://me:se'cret@host/db?sslmode=require"
    asked = asked_by(
        monkeypatch, "--folder", "my sweeps", "--storage", address, "--tracking-uri", "http://host:5000", "-m",
        "lr=interval(0,1)", "hydra/launcher=submitit_slurm",
    )  # fmt: skip
    assert asked.folder == tmp_path / "my sweeps"
    assert (asked.storage, asked.tracking_uri) == (address, "http://host:5000")
    assert (asked.on_slurm, asked.job) == (True, True)
    asked = asked_by(monkeypatch, "--job")
    assert (asked.folder, asked.storage, asked.on_slurm, asked.job) == (tmp_path / "sweeps", None, False, True)
    assert asked.study_name is None  # the script would tell
    assert asked_by(monkeypatch, "hydra.job.name=train").study_name == "train"


def test_the_project_is_read_as_its_sweeps_are() -> None:
    words = ["hydra/sweeper=optuna", "tracking.uri=http://host:5000", "optimizer.learning_rate=interval(1e-4,1e-2)"]
    asked = ask([*words, "workload=grpo", "runtime.compilation_cache=/cache"], conf_directory(), "sweep", False)
    assert asked.study == Path("sweeps/grpo-gemma3_tiny").absolute()
    assert (asked.tracking_uri, asked.experiment, asked.cache) == ("http://host:5000", "trialfleet", "/cache")
    assert (asked.on_slurm, asked.job) == (False, False)
    gpu = ask(["hydra/launcher=slurm_gpu"], conf_directory(), "sweep", False)
    assert (gpu.on_slurm, gpu.launcher["gpus_per_node"]) == (True, 1)
    with pytest.raises(UserError, match="no_such"):
        ask(["no_such=1"], conf_directory(), "sweep", False)


def test_sigterm_ends_checks_on_the_way_out(run: Callable[..., int]) -> None:
    ended: list[str] = []

    def terminated() -> list[object]:
        os.kill(os.getpid(), signal.SIGTERM)
        return [ok("killed", "sent")]

    before = signal.getsignal(signal.SIGTERM)
    check = Check("killed", terminated, 60, lambda: ended.append("ended") or [])
    assert run([check, Check("after", lambda: [ok("after", "x")], 60)]) == 130
    assert ended == ["ended"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_both_commands_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    environment = {**os.environ, "PATH": str(tmp_path / "programs")}  # no Slurm, wherever this runs
    folder = tmp_path / "app"
    folder.mkdir()
    for module in (["trialfleet.commands", "doctor"], ["pipelines.doctor"]):
        command = [sys.executable, "-m", *module, "--json"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found = {one["name"]: one["status"] for one in json.loads(done.stdout)}
        names = ["versions", "driver", "jax", "host", "shm", "disk", "folder", "storage", "mlflow", "cache", "slurm"]
        assert list(found) == names
        assert found["slurm"] == "note"
        assert list(folder.iterdir()) == []
    refused = [sys.executable, "-m", "pipelines.doctor", "hydra/launcher=no_such"]
    done = subprocess.run(refused, cwd=project_directory(), capture_output=True, text=True)
    assert (done.returncode, "no_such" in done.stderr, "Traceback" in done.stderr) == (2, True, False)

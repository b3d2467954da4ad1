"""What a training script says to its study and hears from it: in a job, in a job's other processes, and by itself."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import trialfleet
from trialfleet.trial import attached, metrics, records, run
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.identity import Identity
from trialfleet.trial.run import Stop
from trialfleet.trial.sweep_run import PREEMPTED, SweepRun

OURS = Identity("study", "params")


@pytest.fixture
def trial(tmp_path: Path) -> TrialDir:
    return TrialDir(tmp_path / "00003")


@pytest.fixture
def own(trial: TrialDir) -> Iterator[SweepRun]:
    """This process is on the trial's second run."""
    trial.claim(1, "slurm:7", 0, OURS)
    own = SweepRun(trial, trial.claim(2, "slurm:8", 0, OURS), lambda: False, 0.0)
    with run.entered(own):
        yield own
    own.close()


@pytest.fixture
def child(trial: TrialDir) -> Callable[..., str]:
    """Runs code in a process that a trial's own process has started; what it printed."""
    folder = trial.run_dir(trial.claim(1, "slurm:7", 0, OURS).label)

    def run_code(code: str, **variables: str) -> str:
        environment = {**os.environ, attached.VARIABLE: str(folder), **variables}
        command = [sys.executable, "-c", f"import trialfleet\n{code}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run_code


def prune(trial: TrialDir) -> None:
    records.create(trial.verdict_json, {"prune_at": 3, "value": 0.5})


def reported(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return [(line.step, line.values) for line in metrics.read_from(folder / "metrics.jsonl")[0]]


def test_outside_of_a_study_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trialfleet.report(1, {"loss": 0.5})
    trialfleet.note(parameters=3)
    trialfleet.raise_if_stopped()
    assert not trialfleet.should_stop()
    assert trialfleet.earlier_checkpoint_dir() is None
    assert list(tmp_path.iterdir()) == []
    assert trialfleet.checkpoint_dir() == tmp_path / "checkpoints"
    assert trialfleet.artifact_dir() == tmp_path / "artifacts"


@pytest.mark.parametrize(
    ("step", "value", "named"),
    [(1.5, 1.0, "step must be"), ("1", 1.0, "step must be"), (1, "a", "loss must be"), (1, "0.3", "loss must be")],
)
@pytest.mark.usefixtures("own")
def test_what_is_no_number_is_refused(step: object, value: object, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        trialfleet.report(step, {"loss": value})  # type: ignore[arg-type, dict-item]


def test_a_report_takes_numbers_of_any_kind(own: SweepRun) -> None:
    trialfleet.report(np.int64(3), {"loss": np.float32(0.5), "n": 2})  # type: ignore[arg-type, dict-item]
    assert reported(own.directory) == [(3, {"loss": 0.5, "n": 2.0})]


def test_the_folders_are_the_runs_and_those_of_earlier_runs(own: SweepRun, trial: TrialDir) -> None:
    assert trialfleet.checkpoint_dir() == own.directory / "checkpoints"
    earlier = trial.run_dir("1.0") / "checkpoints"
    earlier.mkdir()
    (earlier / ".last.pt").touch()
    assert trialfleet.earlier_checkpoint_dir() is None  # it was being written
    (earlier / "last.pt").touch()
    assert trialfleet.earlier_checkpoint_dir() == earlier


@pytest.mark.parametrize(("superseded", "raised"), [(False, trialfleet.Pruned), (True, trialfleet.Preempted)])
@pytest.mark.usefixtures("own")
def test_a_stop_is_heard(trial: TrialDir, superseded: bool, raised: type[Exception]) -> None:
    assert not trialfleet.should_stop()
    prune(trial)
    if superseded:
        trial.claim(3, "slurm:9", 0, OURS)
    assert trialfleet.should_stop()
    with pytest.raises(raised):
        trialfleet.raise_if_stopped()


@pytest.mark.usefixtures("own")
def test_what_a_task_returns_that_was_told_to_stop_does_not_count(own: SweepRun, trial: TrialDir) -> None:
    assert attached.as_told(own.directory, None) is None
    error = ValueError("of the trial's own")
    assert attached.as_told(own.directory, error) is error
    prune(trial)
    assert trialfleet.should_stop()
    assert isinstance(attached.as_told(own.directory, None), trialfleet.Pruned)
    assert isinstance(attached.as_told(own.directory, error), trialfleet.Pruned)
    full = OSError(28, "No space left on device")
    assert attached.as_told(own.directory, full) is full


def test_a_process_that_the_trials_has_started_reports_for_it(trial: TrialDir, child: Callable[..., str]) -> None:
    child("trialfleet.report(1, {'loss': 0.5}); trialfleet.note(parameters=3)")
    folder = trial.run_dir("1.0")
    assert reported(folder) == [(1, {"loss": 0.5})]
    assert attached.notes_of(folder) == {"parameters": 3}


def test_what_several_processes_note_is_put_together(trial: TrialDir, child: Callable[..., str]) -> None:
    child("import os; trialfleet.note(a=1, m={'x': 1}); os.fork(); trialfleet.note(**{f'p{os.getpid()}': 0})")
    child("trialfleet.note(b=2, a=3, m={'y': 2})")
    notes = attached.notes_of(trial.run_dir("1.0"))
    assert {name: notes[name] for name in ("a", "b", "m")} == {"a": 3, "b": 2, "m": {"x": 1, "y": 2}}
    assert len(notes) == 5
    attached.forget(trial.run_dir("1.0"))
    assert attached.notes_of(trial.run_dir("1.0")) == {}


def test_a_process_that_is_forked_while_a_thread_asks_for_its_run_may_ask_too(child: Callable[..., str]) -> None:
    code = """
import os
from trialfleet.trial import attached
attached._lock.acquire()
import threading
def fork():
    if os.fork() == 0:
        trialfleet.report(1, {"loss": 0.5})
        os._exit(0)
    os.wait()
    print("reported")
thread = threading.Thread(target=fork)
thread.start()
thread.join()
"""
    assert child(code) == "reported"


@pytest.mark.parametrize("rank", ["RANK", "SLURM_PROCID"])
def test_of_several_processes_the_first_one_reports_and_all_hear(
    trial: TrialDir, child: Callable[..., str], rank: str
) -> None:
    prune(trial)
    said = child("trialfleet.report(1, {'loss': 0.5}); print(trialfleet.should_stop())", **{rank: "1"})
    assert said == "True"
    assert reported(trial.run_dir("1.0")) == []
    assert (trial.run_dir("1.0") / f"told_{Stop.PRUNE.value}").exists()


def test_a_process_that_the_trials_has_started_hears_that_the_job_ends(
    trial: TrialDir, child: Callable[..., str]
) -> None:
    code = "print(trialfleet.should_stop())"
    assert child(code) == "False"
    (trial.run_dir("1.0") / PREEMPTED).touch()
    assert child(code) == "True"
    assert isinstance(attached.as_told(trial.run_dir("1.0"), None), trialfleet.Preempted)


def test_slurms_warning_to_all_processes_of_a_job_ends_none(child: Callable[..., str]) -> None:
    code = "import os; print(trialfleet.should_stop()); os.kill(os.getpid(), 12); print(trialfleet.should_stop())"
    assert child(code).split() == ["False", "True"]


def test_what_is_public_is_documented_and_light() -> None:
    for name in trialfleet.__all__:
        assert getattr(trialfleet, name).__doc__, name
    code = "import json, sys, trialfleet; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    assert not {"optuna", "mlflow", "jax", "numpy", "omegaconf", "pydantic"} & set(loaded)

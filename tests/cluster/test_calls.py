"""How often a study calls Slurm's commands: seldom, and it ends where more than a few calls a minute have to wait."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.tasks import studies
from tests.tasks.studies import NewStudy, Study

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

COMMANDS = ("sbatch", "squeue", "scontrol", "sacct", "scancel")
# A command in front of Slurm's: notes when it is let through, and waits while there were too many in the last minute.
SHIM = """\
#!{python} -SE
import fcntl, os, sys, time
with open({ledger!r}, "a+") as ledger:
    while True:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        ledger.seek(0)
        since = time.time() - 60.0
        if sum(float(line.split()[0]) > since for line in ledger) < {most}:
            ledger.write(f"{{time.time()}} {name}\\n")
            ledger.flush()
            break
        fcntl.flock(ledger, fcntl.LOCK_UN)
        time.sleep(0.2)
os.execv({real!r}, [{real!r}, *sys.argv[1:]])
"""
QUIET = ("hydra.sweeper.watch.jobs=1.0", "hydra.sweeper.watch.max_jobs=60.0")
WARM = "hydra.sweeper.worker.minutes=60"


class Gate:
    """Slurm's commands as the driver and its jobs find them on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, most: int = 10**6) -> None:
        self.ledger = folder / "ledger"
        folder.mkdir()
        for name in COMMANDS:
            real = shutil.which(name)
            assert real is not None
            shim = folder / name
            text = SHIM.format(python=sys.executable, ledger=str(self.ledger), name=name, real=real, most=most)
            shim.write_text(text)
            shim.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    def calls(self, begin: float = 0.0, end: float = float("inf")) -> list[str]:
        """The commands that were let through between two moments."""
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        return [name for at, name in lines if begin <= float(at) <= end]


def ends(study: Study, n_trials: int) -> list[float]:
    """When each trial's result came, in order."""
    return sorted(study.trial(number).result_json.stat().st_mtime for number in range(n_trials))


def test_jobs_that_go_on_leave_the_controller_alone(
    new_study: NewStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call for ten trials at most, once all slots are at work; and one submission for all of it."""
    gate = Gate(tmp_path / "gate", monkeypatch)
    study = new_study("hydra.sweeper.n_trials=40", "hydra.sweeper.n_jobs=2", WARM, *QUIET)
    study.run()
    study.check(40)
    ended = ends(study, 40)
    assert len(gate.calls(ended[9], ended[-3])) <= 2, gate.calls(ended[9], ended[-3])
    assert gate.calls().count("sbatch") == 1
    assert len(gate.calls()) <= 15, gate.calls()


@pytest.mark.slow
def test_a_study_whose_jobs_go_on_ends_with_four_calls_a_minute(
    new_study: NewStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with_four_calls_a_minute(new_study, tmp_path, monkeypatch, WARM)


def ends_with_four_calls_a_minute(
    new_study: NewStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str
) -> None:
    """Run a study of six trials, two at a time, behind a gate, and see that nothing was lost or begun anew."""
    monkeypatch.setattr(studies, "PATIENCE", 500.0)  # seconds
    gate = Gate(tmp_path / "gate", monkeypatch, most=4)
    study = new_study("hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2", *words)
    study.run()
    study.check(6)
    assert study.undisturbed_by_restarts()
    assert gate.calls()

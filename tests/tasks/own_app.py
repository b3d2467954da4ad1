"""An application that is not this project's: a copy of examples/plain in a folder of its own, swept by one override."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from jobs.cluster.processes import wait_until
from tests.tasks.commands import Commands
from tests.tasks.studies import PATIENCE, PROJECT
from trialfleet.trial import metrics, records
from trialfleet.trial.directory import TrialDir

SWEEP = (
    "-m",
    "hydra/sweeper=trialfleet",
    "hydra/sweeper/pruner=median",
    "hydra.sweeper.pruner.n_startup_trials=1",
    "hydra.sweeper.n_jobs=1",
    "hydra.sweeper.n_trials=3",
    "hydra.sweeper.watch={files:0.05,max_files:0.5,jobs:0.2,max_jobs:1.0}",
    "hydra.sweeper.lease={beat:0.3,stale_after:3}",
    # A good one, one that is hopeless from the second epoch on, and one of the sampler's.
    "hydra.sweeper.enqueue=[{lr:2.0},{lr:0.001}]",
    "lr=tag(log,interval(1e-3,10))",
)


class OwnApp:
    """The application in `folder`.

    Args:
        overrides: of the sweep, typed each time.
        commands: that fork the commands of `run`; those of `start` are started as a person's are.
        tables: an empty MLflow database.
        environment: variables of its own; of the others those that are no business of an application's are left out.
    """

    def __init__(
        self,
        folder: Path,
        *overrides: str,
        commands: Commands,
        tables: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        shutil.copytree(PROJECT / "examples" / "plain", folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.folder = folder
        # A module of the application's own, beside the script: jobs import it.
        (folder / "end.py").write_text("def end(loss):\n    return loss\n")
        script = (folder / "train.py").read_text().replace("return loss\n", "return end(loss)\n")
        (folder / "train.py").write_text(script.replace("import hydra\n", "import hydra\nfrom end import end\n"))
        shutil.copy(tables, folder / "mlflow.db")
        self.commands = commands
        self.study = folder / "sweeps" / "train"
        self.command = [sys.executable, "train.py", *SWEEP, *overrides]
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment = {**kept, "COLUMNS": "200", **(environment or {})}

    def start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self) -> str:
        said = self.folder.with_name("said")
        code, words = self.commands.run(
            *self.command[1:], place=self.folder, said=said, environment=self.environment, patience=PATIENCE
        )
        assert code == 0, words
        return words

    def trial(self, number: int) -> TrialDir:
        return TrialDir(self.study / "trials" / f"{number:05d}")

    def lines(self, number: int) -> list[list[metrics.Line]]:
        """What each run of a trial reported."""
        trial = self.trial(number)
        files = [trial.run_dir(claim.label) / "metrics.jsonl" for claim in trial.claims()]
        return [metrics.read_from(file)[0] for file in files]

    def steps(self, number: int) -> list[list[int]]:
        return [[line.step for line in run] for run in self.lines(number)]

    def wait_for_reports(self, number: int, runs: int = 1) -> None:
        """Wait until a trial's run has saved and reported some steps."""
        wait_until(lambda: (found := self.steps(number))[runs - 1 :] and len(found[-1]) > 5, PATIENCE)

    def edit(self) -> None:
        """Tomorrow's edits of the script and of its module, which no job may run."""
        (self.folder / "end.py").write_text("def end(loss):\n    return 7.0\n")
        script = (self.folder / "train.py").read_text()
        (self.folder / "train.py").write_text(script.replace("return end(loss)", "return 8.0"))

    def states(self) -> list[str]:
        results = [records.read(self.trial(number).result_json) or {} for number in range(3)]
        return [str(result.get("state")) for result in results]

    def in_mlflow(self) -> dict[str, str]:
        """Name → status of the runs in the database beside the study."""
        with sqlite3.connect(self.folder / "mlflow.db") as connection:
            rows = connection.execute("SELECT name, status FROM runs WHERE lifecycle_stage = 'active'").fetchall()
        connection.close()
        assert len(rows) == len(dict(rows))
        return {name.removesuffix(" ★ best"): status for name, status in rows}


def check(app: OwnApp) -> None:
    """A study whose first trial was cut once, and that was resumed, is whole."""
    assert app.states() == ["COMPLETE", "PRUNED", app.states()[2]]
    assert app.states()[2] in ("COMPLETE", "PRUNED")
    first, second = app.steps(0)
    assert 1 < second[0] <= first[-1] + 2  # went on from a checkpoint, whose step perhaps was not reported
    assert app.in_mlflow() == {
        "train": "FINISHED",
        **{f"trial {n:05d}": "FINISHED" if state == "COMPLETE" else "KILLED" for n, state in enumerate(app.states())},
    }

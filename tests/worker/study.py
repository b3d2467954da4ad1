"""A sweep's folder with submissions that are made by hand, and workers as real processes on them."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.tasks.commands import PROJECT, Commands
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result
from trialfleet.trial.submission import Assignment, Submission, TrialRecord

UID = "0123456789abcdef"  # of the study
PARAMS = {"x": 0.5}  # of each trial, as far as its study knows
CONF = """
defaults:
  - override hydra/sweeper: trialfleet
  - _self_
hydra:
  sweep:
    dir: ${oc.env:SWEEP_DIR}
  sweeper:
    tracking: {uri: "${tracking.uri}"}
tracking:
  uri: https://me:s3cret@mlflow.example
do: complete
x: 0
"""
TASK = """
import os, signal, sys, time
from pathlib import Path
from trialfleet.trial import run


class Odd(Exception):
    pass


def task(config):
    own = run.current()
    do = config.do
    print("the task speaks")
    if do == "complete":
        own.report(1, {"loss": 0.5})
        own.note(seconds={"compile": 2.0}, device="cpu")
        return 0.25 + config.x
    if do == "raise":
        raise Odd("no such thing")
    if do == "exit":
        sys.exit(3)
    if do == "interrupt":
        raise KeyboardInterrupt
    if do == "prune":
        raise type("TrialPruned", (Exception,), {"__module__": "optuna.exceptions"})
    if do == "preempted":
        raise run.Preempted
    if do == "signal":  # sent to itself, so that nothing depends on when it comes
        os.kill(os.getpid(), getattr(signal, config.signal))
        while own.stop() is None:
            time.sleep(0.01)
        own.checkpoints.mkdir()
        (own.checkpoints / "7").touch()
        raise run.Preempted(own.stop())
    if do == "from checkpoint":
        return float(max(int(path.name) for folder in own.earlier_checkpoints for path in folder.iterdir()))
    if do == "peer lost":
        raise run.PeerLost("another process of this training is gone")
    if do == "second fails":
        if os.environ["SLURM_PROCID"] == "1":
            raise Odd("only here")
        while own.stop() is None:  # as in a collective, but that this one can be told to stop
            time.sleep(0.01)
        raise run.Preempted(own.stop())
    if do == "superseded":
        (own.directory.parent / "2.0").mkdir()
        claim = (own.directory / "claim").read_text().replace('"attempt": 1', '"attempt": 2')
        (own.directory.parent / "2.0" / "claim").write_text(claim)
        return 1.0
    if do == "this":  # whatever the test has written down
        exec(Path(config.code).read_text(), {"own": own, "trial": own.directory.parent.parent})
        return 1.0
    if do == "ended":
        os.link(config.result, own.directory.parent.parent / "result.json")
        return 1.0
    return {"not a number": float("nan"), "nothing": None, "text": "high", "pair": (1, 2)}[do]
"""


@dataclass
class Study:
    """A sweep's folder with one submission, made by hand."""

    folder: Path
    payload: Path
    commands: Commands

    def trial(self, number: int) -> TrialDir:
        return TrialDir(self.folder / "trials" / f"{number:05d}")

    def submit(self, *overrides: list[str], attempt: int = 1) -> Path:
        """One trial for each list of overrides, all in one submission."""
        assignments = []
        for number, own in enumerate(overrides):
            record = TrialRecord(number, own, PARAMS, study=UID, attempt=attempt)
            record.write(self.trial(number).trial_json)
            digest = str(record.identity.params)
            assignments.append(Assignment(number, attempt, str(self.trial(number).path), digest, own))
        path = self.folder / ".submitit" / f"uuid{attempt}.json"
        Submission("uuid", str(self.payload), str(self.folder), UID, 1, 0.0, assignments).write(path)
        return path

    def does(self, *bodies: str) -> Path:
        """One trial for each body of Python, all in one submission: `own` is its run there, and `trial` its folder."""
        files = [self.folder.parent / f"does-{number}" for number in range(len(bodies))]
        for file, body in zip(files, bodies, strict=True):
            file.write_text(body)
        return self.submit(*(["do=this", f"+code={file}"] for file in files))

    def ended(self, number: int = 0) -> Result:
        """How the trial ended."""
        found = self.trial(number).result()
        assert found is not None, self.log(number)
        return found

    def log(self, number: int = 0) -> str:
        return (self.trial(number).run_dir("1.0") / "log").read_text()

    def run(self, submission: Path, element: int = 0, first: str = "", **environment: str) -> tuple[int, str]:
        """A worker's exit code, and what it said outside of its run's log.

        Args:
            first: code that the worker's process runs before anything else.
        """
        return self.commands.run(
            "-m",
            "trialfleet.worker",
            str(submission),
            place=self.folder.parent,
            said=self.folder.parent / "said",
            environment=self.environment(element, **environment),
            first=first,
        )

    def start(self, submission: Path, *program: str, **environment: str) -> "subprocess.Popen[str]":
        """A worker as a launcher starts it."""
        return subprocess.Popen(
            [sys.executable, "-u", *(program or ("-m", "trialfleet.worker")), str(submission)],
            env=self.environment(0, **environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder.parent,
        )

    def environment(self, element: int, **more: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SUBMITIT_"))}
        paths = os.pathsep.join(map(str, (self.payload.parent, PROJECT)))
        own = {"PYTHONPATH": paths, "SWEEP_DIR": str(self.folder), "TRIALFLEET_ELEMENT": str(element)}
        return {**inherited, **own, **more}


def slurm(job: int, restart: int = 0, **more: str) -> dict[str, str]:
    return {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": str(job), "SLURM_RESTART_COUNT": str(restart), **more}

"""A trial's folder as driver and job write it, for tests that run neither."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trialfleet.trial.directory import trial_dir
from trialfleet.trial.metrics import Writer
from trialfleet.trial.process import Process

Report = tuple[int, dict[str, float]]  # step and values


class Folder:
    """One trial of a study; submitted with the first parameters that it is given."""

    def __init__(self, study: Path, number: int, params: Mapping[str, Any] | None = None) -> None:
        self.number = number
        self.dir = trial_dir(study, number)
        if params is not None:
            self.submit(params)

    def submit(
        self, params: Mapping[str, Any], attempt: int = 1, job: str | None = None, at: float | None = None
    ) -> "Folder":
        """Write trial.json."""
        record = {"number": self.number, "overrides": [], "params": dict(params), "attempt": attempt}
        ref = job and {"launcher": "slurm", "id": job}
        _write(self.dir.trial_json, {**record, "job": ref}, at)
        return self

    def run(self, *reports: Report, label: str = "1.0", at: float | None = None) -> Path:
        """Claim a run, if it is not claimed yet, and append reports to its metrics."""
        run, (attempt, restart) = self.dir.run_dir(label), label.split(".")
        if not (run / "claim").exists():
            claim = {"attempt": int(attempt), "restart": int(restart), "job": "slurm:7", "node": "n1"}
            _write(run / "claim", {**claim, "process": Process("h", "b", 1, 1).to_json()}, at)
        if reports:
            append_reports(run, *reports)
        return run

    def end(
        self,
        *objectives: float,
        state: str = "COMPLETE",
        error: str | None = None,
        run: str | None = None,
        seconds: Mapping[str, float] | None = None,
        at: float | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write result.json.

        Args:
            error: "type: message".
        """
        kind, _, message = (error or "").partition(": ")
        record = {
            "state": state,
            "objectives": list(objectives) if state == "COMPLETE" else None,
            "error": error and {"type": kind, "message": message, "traceback": ""},
            "seconds": dict(seconds or {}),
            "run": run,
            "notes": dict(notes or {}),
        }
        _write(self.dir.result_json, record, at)


def append_reports(run: Path, *reports: Report) -> None:
    """Append to the metrics.jsonl in a run's folder."""
    writer = Writer(run / "metrics.jsonl")
    for step, values in reports:
        writer.append(step, values)
    writer.close()


def _write(path: Path, record: Mapping[str, Any], at: float | None) -> None:
    """As ASCII: so the halves of surrogate pairs are in the file, too, which a job of any language may write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    if at is not None:
        os.utime(path, (at, at))

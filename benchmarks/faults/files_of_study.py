"""The folder of a study as faults look at it: which trials there are, who runs them, and as which job."""

import json
from pathlib import Path
from typing import Any


class StudyFiles:
    """What a study's folder says; subclasses say where it is."""

    @property
    def folder(self) -> Path:
        raise NotImplementedError

    def trials(self) -> list[Path]:
        folder = self.folder / "trials"
        try:
            return sorted(entry for entry in folder.iterdir() if entry.name.isdecimal() and len(entry.name) == 5)
        except FileNotFoundError:
            return []

    def unfinished(self) -> list[Path]:
        return [trial for trial in self.trials() if not (trial / "result.json").exists()]

    def running(self) -> list[Path]:
        """Trials that have a run, and have not ended."""
        return [trial for trial in self.unfinished() if any(trial.glob("runs/*/claim"))]

    def claim(self, trial: Path) -> dict[str, Any]:
        """What the newest claim of a trial says; empty if there is none."""
        for claim in sorted(trial.glob("runs/[0-9]*/claim"), key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                found = json.loads(claim.read_text())
            except (OSError, ValueError):
                continue
            if isinstance(found, dict) and "process" in found:
                return found
        return {}

    def job(self, trial: Path) -> str | None:
        """Slurm's id of the trial's job."""
        try:
            job = json.loads((trial / "trial.json").read_text()).get("job")
        except (OSError, ValueError):
            return None
        return str(job["id"]) if job else None

    def worker(self, trial: Path) -> int | None:
        """The process that runs a trial, if it lives."""
        process = self.claim(trial).get("process")
        if not process:
            return None
        try:
            stat = Path(f"/proc/{process['pid']}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return int(process["pid"]) if int(stat[19]) == process["start_time"] and stat[0] != "Z" else None

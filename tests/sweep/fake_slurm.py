"""Slurm's commands as fakes on PATH that say what a test wants them to say."""

from pathlib import Path
from typing import Any

from trialfleet.sweep.fleets.slurm import SlurmFleet

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
HEADER = "trialfleet|JOBID|STATE|NODELIST|REASON|COMMAND|"
FAKE = """\
#!/bin/sh
echo "$(basename "$0") $*" >> "{folder}/calls"
cat "{folder}/{name}.says"
cat "{folder}/{name}.complains" >&2
exit "$(cat "{folder}/{name}.code")"
"""


class FakeSlurm:
    """Commands that say what they are told to, and remember how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 1000.0
        self.notices: list[str] = []
        self.submissions = folder / "study" / ".submitit"
        self.submissions.mkdir(parents=True)
        for name in COMMANDS:
            (folder / name).write_text(FAKE.format(folder=folder, name=name))
            (folder / name).chmod(0o755)
            self.say(name)
        self.queue()

    def say(self, command: str, *lines: str, code: int = 0, complaint: str = "") -> None:
        self.print(command, "".join(f"{line}\n" for line in lines).encode(), code, complaint)

    def print(self, command: str, output: bytes, code: int = 0, complaint: str = "") -> None:
        """Whatever comes out of a command, be it text or not."""
        (self.folder / f"{command}.says").write_bytes(output)
        (self.folder / f"{command}.complains").write_text(complaint)
        (self.folder / f"{command}.code").write_text(str(code))

    def queue(self, *rows: str) -> None:
        """Rows as 'job state[@node] [reason]', all of one submission's script."""
        self.say("squeue", HEADER, *(self.row(row) for row in rows))

    def row(self, row: str, script: str = "") -> str:
        """A line of squeue's for 'job state[@node] [reason]', of submission abc's script unless another is named."""
        job, state, *reason = row.split(" ", 2)
        state, _, node = state.partition("@")
        why = reason[0] if reason else "None"
        return f"trialfleet|{job}|{state}|{node}|{why}|{script or self.submissions / 'abc.sh'}|"

    def nodes(self, *rows: str, features: str = "(null)") -> None:
        """Rows as 'node state partition', a star behind the default partition."""
        self.say("sinfo", *(f"trialfleet|{'|'.join(row.split())}|{features}|" for row in rows))

    def calls(self, command: str) -> list[str]:
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.split(" ")[0] == command]

    def fleet(self, settle: float = 0.0, **parameters: Any) -> SlurmFleet:
        """A fleet whose launcher has these parameters; what it tells the user goes to `notices`."""
        fleet = SlurmFleet({"signal_delay_s": 30, **parameters}, None, 8, self.submissions, {}, settle)
        fleet.notice = self.notices.append
        return fleet

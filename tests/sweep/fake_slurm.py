"""Slurm's commands as fakes on PATH that say what a test wants them to say."""

from pathlib import Path

from trialfleet.sweep.slurm_fleet import SlurmFleet

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")
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
        self.submissions = folder / "study" / ".submitit"
        self.submissions.mkdir(parents=True)
        for name in COMMANDS:
            (folder / name).write_text(FAKE.format(folder=folder, name=name))
            (folder / name).chmod(0o755)
            self.say(name)

    def say(self, command: str, *lines: str, code: int = 0, complaint: str = "") -> None:
        (self.folder / f"{command}.says").write_text("".join(f"{line}\n" for line in lines))
        (self.folder / f"{command}.complains").write_text(complaint)
        (self.folder / f"{command}.code").write_text(str(code))

    def queue(self, *rows: str) -> None:
        """Rows as 'job state [reason]', all of one submission's script."""
        lines = []
        for row in rows:
            job, state, *reason = row.split(" ", 2)
            lines.append(f"{job}|{state}|{reason[0] if reason else 'None'}|{self.submissions}/abc.sh")
        self.say("squeue", *lines)

    def calls(self, command: str) -> list[str]:
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.split(" ")[0] == command]

    def fleet(self, settle: float = 0.0) -> SlurmFleet:
        return SlurmFleet({"signal_delay_s": 30}, None, 8, self.submissions, {}, settle)

"""A claim: this run of the trial is this process's, and nobody else's."""

from dataclasses import dataclass, field

from trialfleet.trial.identity import Identity
from trialfleet.trial.process import Process

NOBODY = Process("", "", 0, 0)  # stands in a claim that cannot be read


@dataclass(frozen=True, order=True)
class Claim:
    """Run `attempt`.`restart` of a trial belongs to `process`, which is (part of) `job`."""

    attempt: int
    restart: int  # how often Slurm had restarted the job when this run began
    label: str  # the run's directory: "1.0"
    job: str  # the job's identity: the same for all restarts of a Slurm job; "" if the file is damaged
    process: Process
    node: str  # where it runs, by the launcher's name for it
    identity: Identity = field(default=Identity(None, None), compare=False)

    @property
    def damaged(self) -> bool:
        """Whether the file says nothing that can be read: a run of this label began, and nobody knows whose."""
        return self.job == ""

    def newer_than(self, other: "Claim") -> bool:
        return (self.attempt, self.restart) > (other.attempt, other.restart)


class NotClaimed(Exception):
    """This process may not run the trial: somebody else does, did, or will. Not an error."""

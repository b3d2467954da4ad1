"""Who a process is to its launcher.

Slurm says so in its own variables. A fleet of another launcher sets TRIALFLEET_CLAIMANT to `<launcher>:<id of the
job>` for each of its jobs, and TRIALFLEET_ELEMENT, _RESTART and _RANK where they are not 0; without any of these, a
job is a process of this machine.
"""

from dataclasses import dataclass

from trialfleet.trial.process import Process


@dataclass(frozen=True)
class JobEnvironment:
    """What a process knows of its job.

    Attributes:
        job: launcher and id, the same for all restarts of a Slurm job, unique to the process on a laptop.
        restart: how often the launcher has restarted the job.
        element: of the submission.
        rank: of the process in its job.
        slurm_id: the job's id as Slurm has it.
    """

    job: str
    restart: int
    element: int
    rank: int
    slurm_id: str | None

    @classmethod
    def read(cls, environ: dict[str, str]) -> "JobEnvironment":
        if job := environ.get("TRIALFLEET_CLAIMANT"):
            element, restart, rank = (
                int(environ.get(f"TRIALFLEET_{one}", 0)) for one in ("ELEMENT", "RESTART", "RANK")
            )
            return cls(job, restart, element, rank, None)
        if "SLURM_JOB_ID" not in environ or environ.get("SUBMITIT_EXECUTOR") != "slurm":
            own = Process.own()
            rank = int(environ.get("SUBMITIT_LOCAL_GLOBALID", 0))
            name = f"local:{own.host}:{own.boot_id}:{own.pid}:{own.start_time}"
            return cls(name, 0, int(environ["TRIALFLEET_ELEMENT"]), rank, None)
        task = environ.get("SLURM_ARRAY_TASK_ID")
        job = environ["SLURM_JOB_ID"] if task is None else f"{environ['SLURM_ARRAY_JOB_ID']}_{task}"
        return cls(
            f"slurm:{job}",
            int(environ.get("SLURM_RESTART_COUNT", 0)),
            int(task or 0),
            int(environ.get("SLURM_PROCID", 0)),
            job,
        )

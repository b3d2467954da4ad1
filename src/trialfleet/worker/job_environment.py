"""Who a process is to its launcher."""

from dataclasses import dataclass

from trialfleet.trial.process import Process


@dataclass(frozen=True)
class JobEnvironment:
    """Who this process is to its launcher."""

    job: str  # the same for all restarts of a Slurm job, unique to the process on a laptop
    restart: int
    element: int  # of the submission
    rank: int
    slurm_id: str | None

    @classmethod
    def read(cls, environ: dict[str, str]) -> "JobEnvironment":
        if "SLURM_JOB_ID" not in environ or environ.get("SUBMITIT_EXECUTOR") != "slurm":
            own = Process.own()
            rank = int(environ.get("SUBMITIT_LOCAL_GLOBALID", 0))
            name = f"local:{own.host}:{own.boot_id}:{own.pid}:{own.start_time}"
            return cls(name, 0, int(environ["TRIALFLEET_ELEMENT"]), rank, None)
        element = environ.get("SLURM_ARRAY_TASK_ID")
        job = environ["SLURM_JOB_ID"] if element is None else f"{environ['SLURM_ARRAY_JOB_ID']}_{element}"
        return cls(
            f"slurm:{job}",
            int(environ.get("SLURM_RESTART_COUNT", 0)),
            int(element or 0),
            int(environ.get("SLURM_PROCID", 0)),
            job,
        )

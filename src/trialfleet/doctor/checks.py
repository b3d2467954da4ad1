"""All checks, in the order in which they are reported."""

from functools import partial

from trialfleet.doctor import devices, folders, host, storage, tracking, versions
from trialfleet.doctor.asked import Asked
from trialfleet.doctor.findings import Check
from trialfleet.doctor.slurm import Slurm
from trialfleet.doctor.tiny_job import TinyJob

_QUICK = 20.0  # seconds; what is quick takes far less, unless something hangs
_SLURM = 60.0  # a few commands, each with a limit of its own
_DATABASE = 90.0  # MLflow takes seconds to be imported, much longer on a busy machine


def all_checks(asked: Asked, job_waits: float) -> list[Check]:
    """Args:
    job_waits: seconds that the job may wait in line.
    """
    slurm = Slurm(asked)
    job = TinyJob(asked, slurm, job_waits)
    return [
        Check("versions", versions.look, _QUICK),
        Check("driver", devices.driver, devices.SMI_SECONDS + _QUICK),
        Check("jax", partial(devices.jax, asked.platform), devices.SECONDS + devices.SMI_SECONDS + _QUICK),
        Check("host", host.machine, _QUICK),
        Check("shm", host.shared_memory, _QUICK),
        Check("disk", partial(host.disk, asked), _QUICK),
        Check("folder", partial(folders.study_folder, asked), _QUICK),
        Check("storage", partial(storage.look, asked), _DATABASE),
        Check("mlflow", partial(tracking.look, asked), _DATABASE),
        Check("cache", partial(folders.cache, asked.cache), _QUICK),
        Check("slurm", slurm.commands, _SLURM),
        Check("slurm.controller", slurm.controller, _SLURM),
        Check("slurm.partitions", slurm.partitions, _SLURM),
        Check("slurm.limits", slurm.limits, _SLURM),
        Check("slurm.launcher", slurm.launcher, _SLURM),
        Check("job", job.look, job.seconds, job.end),
    ]

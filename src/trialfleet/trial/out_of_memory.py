"""Out of memory: of a device, whose size is what it is, or of the host, of which a job can ask for more."""

import errno

from trialfleet.trial import causes

RECORD = "out_of_memory.json"  # in a run's folder: the run ended because the host's memory did not suffice
HOST, DEVICE = "host", "device"

# What jax, torch and the libraries below them say; each has a type of its own, and none can be imported here.
_DEVICE = ("CUDA out of memory", "HIP out of memory", "CUDA_ERROR_OUT_OF_MEMORY")
# What Slurm's step daemon, its cgroup plugin and the kernel write into a job's log.
_HOST = ("oom_kill event", "oom-kill event", "OOM Killed", "Out Of Memory", "Exceeded job memory limit")


def ran_out(failure: BaseException) -> str | None:
    """Which memory an exception, or what caused it, complains of; None if of none."""
    for cause in causes.chain(failure):
        if isinstance(cause, MemoryError) or causes.number(cause) == errno.ENOMEM:
            return HOST
        if not isinstance(cause, OSError) and _of_device(causes.text(cause)):
            return DEVICE
    return None


def _of_device(text: str) -> bool:
    of_xla = "RESOURCE_EXHAUSTED" in text and "memory" in text  # its word for other exhausted resources, too
    return of_xla or any(word in text for word in _DEVICE)


def killed(log: str) -> bool:
    """Whether the end of a job's log says that it was killed for its use of the host's memory."""
    return any(word in log for word in _HOST)

"""Many processes as one training: how they find each other, and what they must agree on."""

import hashlib
import json
import os
import re
import signal
import subprocess
import threading
from typing import Any

import jax
import numpy as np

_SILENCE = 20  # seconds after which a process that says nothing is dead, and the others end too


def join() -> None:
    """Joins the other processes of this trial, if there are any; before anything asks jax for devices.

    Who they are is said by jax's own variables (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID)
    or by Slurm's, when srun started more than one task.
    """
    if jax.distributed.is_initialized():
        return
    found = _from_environment(dict(os.environ))
    if found is not None:
        address, count, index = found
        handler = signal.getsignal(signal.SIGTERM)
        jax.distributed.initialize(
            address, count, index, heartbeat_timeout_seconds=_SILENCE, shutdown_timeout_seconds=_SILENCE
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # jax has put a handler of its own in its place


def _from_environment(environment: dict[str, str]) -> tuple[str, int, int] | None:
    """Address of the coordinator, number of processes, index of this one; None if it is alone."""
    if "JAX_COORDINATOR_ADDRESS" in environment:
        count, index = int(environment["JAX_NUM_PROCESSES"]), int(environment["JAX_PROCESS_ID"])
        return (environment["JAX_COORDINATOR_ADDRESS"], count, index) if count > 1 else None
    count = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if count == 1 or "SLURM_PROCID" not in environment:
        return None
    host = _first_host(environment["SLURM_STEP_NODELIST"])
    return f"{host}:{_port(environment)}", count, int(environment["SLURM_PROCID"])


def _port(environment: dict[str, str]) -> int:
    """A port of this step's own: jax takes one from the job's id alone, which two steps of a job share.

    So do the jobs of two clusters whose nodes are one machine: hence the folder they were submitted from.
    """
    parts = ("SLURM_SUBMIT_DIR", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    name = ":".join(environment.get(part, "") for part in parts)
    return 20000 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 10000


def _first_host(nodes: str) -> str:
    """The first host of a list such as 'node[01-04,9],other'."""
    found = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    if found is None:
        return subprocess.check_output(["scontrol", "show", "hostnames", nodes], text=True).split()[0]
    return found[1] + (found[2] or "")


def lost_a_peer(error: BaseException) -> bool:
    """Whether an error is what is left of a training whose other processes are gone.

    The libraries below jax (gloo, NCCL, the coordination service) have no common word for it, and jax raises it as
    one of several types. In one of several processes, what they say, and what jax's runtime raises without naming
    a fault of the program's own, is taken for it.
    """
    if jax.process_count() == 1:
        return False
    if isinstance(error, jax.errors.JaxRuntimeError):
        return not str(error).startswith(_OWN_FAULTS)
    return _OF_PEERS.search(str(error)) is not None


_OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "OUT_OF_RANGE")
_OF_PEERS = re.compile(
    r"\bgloo\b|\bnccl|coordination service|connection (reset|closed)|socket closed|heartbeat"
    r"|DEADLINE_EXCEEDED|UNAVAILABLE:",
    re.IGNORECASE,
)


def agreed_json(value: Any) -> Any:
    """The value of process 0, on all of them. JSON values only."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(1 << max(1023, length - 1).bit_length(), np.uint8)  # few sizes: each is a program of its own
    padded[: min(length, len(data))] = data[:length]
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))[:length]))


def place() -> tuple[int, int]:
    """This process's index, and how many there are."""
    return jax.process_index(), jax.process_count()


def all_json(value: Any) -> list[Any]:
    """The values of all processes, in their order, on all of them. JSON values only."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = max(1024, largest(len(data)))
    padded = np.full(1 << (size - 1).bit_length(), ord(" "), np.uint8)  # few sizes: each is a program of its own
    padded[: len(data)] = data
    return [json.loads(bytes(row)) for row in np.asarray(multihost_utils.process_allgather(padded))]


def largest(value: int) -> int:
    """The largest of all processes' values."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))

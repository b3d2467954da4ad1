"""The size and place of a test cluster: what a person may choose."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ACCOUNTING = ("none", "dbd")
MAX_NODES = 48
PORTS_PER_CLUSTER = 64
# Below 32768, where Linux begins to hand out ports of its own choice to clients.
PORT_BLOCKS = range(17024, 32768 - PORTS_PER_CLUSTER, PORTS_PER_CLUSTER)
# Slurm counts GPUs by device file and accepts any character device: these exist in every container, too.
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx")
DEVICES = tuple(f"/dev/{name}" for name in _DEVICES)


def _option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """How the cluster looks to its users. Everything is pretended except the daemons."""

    nodes: int = _option(4, "virtual nodes")
    cpus: int = _option(8, "CPUs each node claims to have")
    memory: int = _option(16000, "MiB of memory each node claims to have")
    gpus: int = _option(2, f"GPUs each node claims to have, {len(DEVICES)} at most")
    prefix: str = _option("n", "node names are PREFIX1, PREFIX2, …")
    accounting: str = _option("none", "dbd adds slurmdbd on MariaDB, so that sacct works", ACCOUNTING)
    port: int = _option(16800, f"first of the {PORTS_PER_CLUSTER} ports of this cluster")
    min_job_age: int = _option(300, "seconds until Slurm forgets a job that has ended")

    def __post_init__(self) -> None:
        limits = {
            "nodes": (1, MAX_NODES),
            "cpus": (1, 4096),
            "memory": (1, 2**31),
            "gpus": (0, len(DEVICES)),
            "port": (1024, 65536 - PORTS_PER_CLUSTER),
            "min_job_age": (2, 10**6),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be between {low} and {high}, not {getattr(self, name)}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,9}", self.prefix):
            raise ValueError(f"prefix must begin a short host name, and {self.prefix!r} does not")
        if self.accounting not in ACCOUNTING:
            raise ValueError(f"accounting must be one of {', '.join(ACCOUNTING)}, not {self.accounting!r}")

    @property
    def node_names(self) -> list[str]:
        """The names of the virtual nodes, in order."""
        return [f"{self.prefix}{number}" for number in range(1, self.nodes + 1)]

    @property
    def dbd_port(self) -> int:
        """Where slurmdbd listens; slurmctld listens at `port` itself."""
        return self.port + 1

    @property
    def node_ports(self) -> range:
        """Where the nodes' slurmds listen."""
        return range(self.port + 2, self.port + 2 + self.nodes)

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text()))


def default_directory() -> Path:
    """One cluster a user, unless TRIALFLEET_CLUSTER_DIR says otherwise."""
    chosen = os.environ.get("TRIALFLEET_CLUSTER_DIR")
    return Path(chosen or f"{tempfile.gettempdir()}/trialfleet-cluster-{os.geteuid()}")


def port_is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # As Slurm does, or the rests of connections just closed would make the port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port_block() -> int:
    """A `port` for Settings whose whole block is free now.

    The search starts at a place given by this process's id, so that test processes started together do not
    all settle on the first free block.
    """
    for turn in range(len(PORT_BLOCKS)):
        base = PORT_BLOCKS[(os.getpid() + turn) % len(PORT_BLOCKS)]
        if all(port_is_free(port) for port in range(base, base + PORTS_PER_CLUSTER)):
            return base
    raise OSError(f"no {PORTS_PER_CLUSTER} free ports in a row below {PORT_BLOCKS.stop}")

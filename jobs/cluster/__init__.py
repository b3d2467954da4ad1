"""A real Slurm of several virtual nodes on one machine, for tests and for trying things out.

    cluster = Cluster("/tmp/my-cluster")
    cluster.up(Settings(nodes=2, port=free_port_block()))
    cluster.run("sbatch", "--wrap", "hostname")
    cluster.down()

The daemons are Debian's own, unchanged, each on a port of its own; nothing is faked but the size of the
nodes and their GPUs. `python -m jobs.slurm_cluster` is the same thing for the command line.
"""

from jobs.cluster.cluster import Cluster
from jobs.cluster.errors import ClusterError, Unavailable
from jobs.cluster.packages import install, unavailable
from jobs.cluster.settings import Settings, default_directory, free_port_block

__all__ = [
    "Cluster",
    "ClusterError",
    "Settings",
    "Unavailable",
    "default_directory",
    "free_port_block",
    "install",
    "unavailable",
]

"""What can go wrong with the test cluster."""


class ClusterError(RuntimeError):
    """The cluster could not do what was asked; the message says what to read or to do next."""


class Unavailable(ClusterError):
    """Slurm cannot be had on this machine at all; the message is the reason."""

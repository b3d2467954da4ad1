"""A real Slurm cluster of several virtual nodes on this one machine, for tests and for trying things out.

    python -m jobs.slurm_cluster up --nodes 2
    eval "$(python -m jobs.slurm_cluster env)"
    sbatch --gres=gpu:1 --wrap 'echo $CUDA_VISIBLE_DEVICES'
    python -m jobs.slurm_cluster down

Needs Linux with Slurm's Debian packages, which `up` installs itself when root runs it, and a Python of 3.11
or later with nothing else. Partitions: main (the default), short (jobs of a minute), low and high (`high`
preempts `low`, whose jobs are requeued).
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from jobs.cluster import Cluster, ClusterError, Settings, default_directory, install


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status is 0 if it did what it says."""
    options = vars(_parser().parse_args(argv))
    command: Callable[..., int] = options.pop("command")
    cluster = Cluster(options.pop("dir"))
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a script's background commands start deaf to it
        signal.signal(number, _interrupt)
    try:
        return command(cluster, **options)
    except (ClusterError, ValueError) as error:
        print(f"slurm_cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _install(cluster: Cluster, accounting: str) -> int:
    installed = install(accounting)
    print(f"installed {' '.join(installed)}" if installed else "all packages are there")
    return 0


def _up(cluster: Cluster, foreground: bool, **chosen: Any) -> int:
    before = cluster.settings if cluster.exists else Settings()
    cluster.up(dataclasses.replace(before, **chosen))
    print(f"In service: {' '.join(cluster.nodes)}. To use them:\n\n    {_export(cluster)}\n", flush=True)
    if not cluster.names_resolve:
        print("Node names do not resolve, as jax.distributed wants: root can, or use --prefix 127.0.0.")
    if foreground:
        try:
            signal.pause()
        except KeyboardInterrupt:
            cluster.down()
    return 0


def _status(cluster: Cluster) -> int:
    daemons = cluster.status()
    for name, pid in daemons.items():
        print(f"{name:12} {pid or 'does not run'}")
    if daemons["slurmctld"]:
        for query in (("sinfo", "--Node", "--partition=main"), ("squeue",)):
            print(f"\n{cluster.run(*query).stdout}", end="")
    return 0 if all(daemons.values()) else 1


def _env(cluster: Cluster) -> int:
    print(_export(cluster))
    return 0


def _export(cluster: Cluster) -> str:
    return f"export SLURM_CONF={shlex.quote(str(cluster.conf))}"


def _method(method: Callable[..., None]) -> Callable[..., int]:
    """A command that is a method of Cluster and nothing else."""

    def command(cluster: Cluster, **arguments: str) -> int:
        method(cluster, **arguments)
        return 0

    return command


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.slurm_cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Callable[..., int], help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(command=function)
        command.add_argument("--dir", default=default_directory(), help="the cluster's place (%(default)s)")
        return command

    options = {option.name: option for option in dataclasses.fields(Settings)}
    installer = add("install", _install, "install Debian's packages, as root")
    _add_option(installer, options["accounting"], default="none")
    up = add("up", _up, "start what is not running")
    up.add_argument("--foreground", action="store_true", help="stay, and take it down on SIGTERM or Ctrl-C")
    for option in options.values():
        _add_option(up, option, default=argparse.SUPPRESS)
    add("down", _method(Cluster.down), "end every process of the cluster and its jobs, and remove all files")
    add("status", _status, "show daemons, nodes and jobs; fail if a daemon does not run")
    add("env", _env, "print the line that makes Slurm's commands speak to the cluster")
    for name, method, help in (
        ("stop-controller", Cluster.stop_controller, "end slurmctld: it saves its state, jobs run on"),
        ("start-controller", Cluster.start_controller, "start slurmctld with the state it saved"),
    ):
        add(name, _method(method), help)
    for name, node_method, help in (
        ("crash-node", Cluster.crash_node, "kill slurmd, steps and tasks, as if the node lost power"),
        ("kill-slurmd", Cluster.kill_slurmd, "kill the node's slurmd alone: its steps run on"),
        ("start-node", Cluster.start_node, "start the node's slurmd, and wait until it takes jobs"),
    ):
        add(name, _method(node_method), help).add_argument("node", help="its name, or its number")
    return parser


def _add_option(parser: argparse.ArgumentParser, option: dataclasses.Field[Any], default: str) -> None:
    parser.add_argument(
        f"--{option.name.replace('_', '-')}",
        type=type(option.default),
        default=default,
        choices=option.metadata["choices"],
        metavar=None if option.metadata["choices"] else option.name.upper(),
        help=f"{option.metadata['help']} ({option.default})",
    )


if __name__ == "__main__":
    sys.exit(main())

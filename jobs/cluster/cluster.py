"""The life of a test cluster: up, failures of its parts, down."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jobs.cluster import accounting, hosts, packages, processes
from jobs.cluster.config_files import write_config
from jobs.cluster.errors import ClusterError
from jobs.cluster.processes import Daemon, wait_until
from jobs.cluster.settings import PORTS_PER_CLUSTER, Settings, default_directory, port_is_free

# The kernel takes 107 characters for a socket's path; Slurm puts sockets at spool/NODE/NODE_JOB.STEP.
LONGEST_DIRECTORY = 56
_IN_SERVICE = {"IDLE", "MIXED", "ALLOCATED", "COMPLETING", "PLANNED"}
_SURROUNDING_JOB = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCANCEL_")


class Cluster:
    """One cluster in one directory, which holds all there is of it, running or not.

    Any number of objects and commands may speak of the same directory, one after another; what runs is found
    again by its records there. Methods that start or stop something do nothing where that is done already.
    """

    def __init__(self, directory: Path | str | None = None) -> None:
        """Speak of the cluster in `directory`, whether there is one yet or not."""
        # Without symbolic links, as the kernel will tell where processes work.
        self.directory = Path(directory or default_directory()).resolve()
        self.conf = self.directory / "slurm.conf"
        self._settings_file = self.directory / "cluster.json"

    @property
    def exists(self) -> bool:
        """Whether there is a cluster in the directory, running or not."""
        return self._settings_file.exists()

    @property
    def settings(self) -> Settings:
        """What the cluster was brought up with. Raises ClusterError if there is none."""
        if not self.exists:
            raise ClusterError(f"there is no cluster in {self.directory}")
        return Settings.load(self._settings_file)

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes."""
        return self.settings.node_names

    @property
    def names_resolve(self) -> bool:
        """Whether a node's name is an address, as for the coordinator of `jax.distributed`."""
        return hosts.resolve(self.nodes)

    @property
    def env(self) -> dict[str, str]:
        """An environment in which Slurm's commands speak to this cluster, and to no job we may be part of."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_SURROUNDING_JOB)}
        return {**kept, "PATH": packages.PATH, "SLURM_CONF": str(self.conf)}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands, or any other. Raises ClusterError with its complaint if it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120.0)
        if check and done.returncode:
            raise ClusterError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
        return done

    # ---------------------------------------------------------------- up and down

    def up(self, settings: Settings | None = None) -> None:
        """Start whatever is not running; all nodes are in service when this returns.

        Without `settings`, those of before, or the defaults. Installs Slurm where root has to. A failure
        leaves nothing of a cluster that did not run before, except logs, and shows the end of the right one.
        Raises Unavailable, or ClusterError if the settings are not those of the cluster that runs.
        """
        settings = settings or (self.settings if self.exists else Settings())
        running = self.exists and any(self.status().values())
        if running and settings != self.settings:
            raise ClusterError(f"a cluster with other settings runs in {self.directory}: take it down first")
        packages.install(settings.accounting)
        if not running:
            _refuse_taken_ports(settings)
        self._take_directory(settings)
        try:
            self._lay_out()
            self._start_all()
        except BaseException:  # an impatient Ctrl-C, too
            if not running:
                self._end_all()
                self._remove_all_but("log", self._settings_file.name)
            raise

    def down(self) -> None:
        """End every process of the cluster, its jobs' included, and remove its directory."""
        if self.exists:
            # For the sake of clients: an srun would wait for ever to be told that its job has ended. A cluster
            # that cannot do even this is killed all the same.
            with contextlib.suppress(ClusterError):
                if self._controller().pid():
                    self._cancel_jobs(timeout=5.0)
            self._end_all()
            shutil.rmtree(self.directory)

    def status(self) -> dict[str, int | None]:
        """The pids of all daemons that the cluster should have; None for one that does not run."""
        return {daemon.name: daemon.pid() for daemon in self._daemons()}

    def _take_directory(self, settings: Settings) -> None:
        if len(str(self.directory)) > LONGEST_DIRECTORY:
            raise ClusterError(f"{self.directory} is too long, sockets in it need {LONGEST_DIRECTORY} at most")
        self.directory.mkdir(parents=True, exist_ok=True)
        mine = self.directory.stat().st_uid == os.geteuid()
        if not mine or not (self.exists or _is_empty(self.directory)):
            raise ClusterError(f"{self.directory} is not a cluster's directory, or not yours")
        settings.save(self._settings_file)

    def _lay_out(self) -> None:
        settings = self.settings
        # Jobs of other users pass through here to their scripts and to munge's socket.
        for name in ("", "log", "munge", "run", "spool", *(f"spool/{node}" for node in settings.node_names)):
            (self.directory / name).mkdir(exist_ok=True)
            (self.directory / name).chmod(0o755)
        (self.directory / "state").mkdir(mode=0o700, exist_ok=True)
        write_config(settings, self.directory, _host(), _user())
        if hosts.editable():
            hosts.add(settings.node_names, self.directory)

    def _start_all(self) -> None:
        for daemon in [*self._services(), self._controller()]:
            daemon.start()
        for launch_or_wait in (Daemon.launch, Daemon.start):
            for node in self.nodes:
                launch_or_wait(self._slurmd(node))

    def _end_all(self) -> None:
        # The controller first, lest it give a dying node's jobs to the next.
        self._controller().kill()
        for node in self.nodes:
            self._kill_processes_of(node)
        for daemon in self._services():
            daemon.kill()
        if hosts.editable():
            hosts.remove(self.directory)

    def _remove_all_but(self, *kept: str) -> None:
        for entry in self.directory.iterdir():
            if entry.name in kept:
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    # ---------------------------------------------------------------- jobs

    def job_states(self, job: str) -> list[str]:
        """The state of the job, one for each task of an array; empty if Slurm knows of none, or is silent."""
        query = ("squeue", "--noheader", "--array", "--states=all", "--format=%T", f"--jobs={job}")
        return self.run(*query, check=False).stdout.split()

    def wait_for_job(self, job: str, *states: str, timeout: float = 60.0) -> None:
        """Wait until the job, or all tasks of the array, are in one of the states."""

        def arrived() -> bool:
            now = self.job_states(job)
            return bool(now) and set(now) <= set(states)

        if not wait_until(arrived, timeout, interval=0.1):
            details = self.run("scontrol", "show", "job", job, check=False).stdout
            raise ClusterError(f"job {job} is not {' or '.join(states)} after {timeout:g} s:\n{details}")

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait until the nodes are rid of them."""
        if not self._cancel_jobs(timeout=60.0):
            raise ClusterError(f"jobs do not end:\n{self.run('squeue').stdout}")

    def _cancel_jobs(self, timeout: float) -> bool:
        def jobs() -> list[str]:
            return self.run("squeue", "--noheader", "--format=%F").stdout.split()  # of arrays the whole

        if jobs():
            self.run("scancel", *jobs(), check=False)
        return wait_until(lambda: not jobs(), timeout, interval=0.1)

    def node_state(self, node: str) -> set[str]:
        """What Slurm says of a node: {"IDLE"}, {"DOWN", "DRAIN"} …; with NOT_RESPONDING if its slurmd is silent.

        Not `sinfo`, which after a restart of slurmctld calls a node mixed that had jobs then, whatever became of it.
        """
        shown = self.run("scontrol", "--oneliner", "show", "node", node).stdout
        words = re.findall(r"\bState=(\S+)", shown)
        state = set("+".join(words).rstrip("*~#!%$@^-").split("+")) - {""}
        return state | {"NOT_RESPONDING"} if "*" in "".join(words) else state

    # ---------------------------------------------------------------- failures

    def crash_node(self, node: str | int, notice: bool = True) -> None:
        """Let the node lose power: its slurmd, its steps and all their tasks are gone at once.

        Slurm notices by itself after some 30 s; with `notice` it is told.
        """
        name = self._node_name(node)
        self._kill_processes_of(name)
        if notice:
            self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=crashed")

    def kill_slurmd(self, node: str | int) -> None:
        """Kill the node's daemon alone: its steps and tasks live on, unreachable."""
        self._slurmd(self._node_name(node)).kill()

    def start_node(self, node: str | int) -> None:
        """Start the node's slurmd if need be, and wait until jobs may run on the node again."""
        self._slurmd(self._node_name(node)).start()

    def stop_controller(self) -> None:
        """End slurmctld as an administrator does: it saves its state, jobs run on, commands fail."""
        self._controller().stop()

    def start_controller(self) -> None:
        """Start slurmctld, with the state it saved."""
        self._controller().start()

    def _node_name(self, node: str | int) -> str:
        name = f"{self.settings.prefix}{node}" if str(node).isdigit() else str(node)
        if name not in self.nodes:
            raise ClusterError(f"there is no node {name}, only {', '.join(self.nodes)}")
        return name

    def _kill_processes_of(self, node: str) -> None:
        def none_left() -> bool:
            pids = self._processes_of(node)
            # Daemons before their tasks: none shall live to tell the controller how its tasks have ended.
            for pid in pids:
                processes.send(pid, signal.SIGKILL)
            return not pids

        # Again and again, for what was forked while the list was made.
        if not wait_until(none_left, timeout=20.0):
            raise ClusterError(f"processes of {node} cannot be killed: {sorted(self._processes_of(node))}")
        self._slurmd(node).kill()

    def _processes_of(self, node: str) -> list[int]:
        """Who would be gone if the node lost power, daemons first.

        Its slurmd and stepds, known by their working directory; tasks, known by their environment even where
        they are no longer a stepd's children; and whatever those have started.
        """
        spool = str(self.directory / "spool" / node)
        marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.conf}".encode()}
        running = processes.all_processes()
        daemons = {
            process.pid
            for process in running
            if process.name in ("slurmd", "slurmstepd") and processes.working_directory(process.pid) == spool
        }
        tasks = {process.pid for process in running if marks <= processes.environment(process.pid)}
        rest = processes.with_descendants(daemons | tasks, running) - daemons
        return [*daemons, *rest]

    # ---------------------------------------------------------------- daemons

    def _daemon(self, name: str, argv: list[str], answers: Callable[[], bool], cwd: str = "run") -> Daemon:
        record = self.directory / "run" / f"{name}.record"
        log = self.directory / "log" / f"{name}.log"
        return Daemon(name, argv, answers, record=record, log=log, cwd=self.directory / cwd, env=self.env)

    def _daemons(self) -> list[Daemon]:
        return [*self._services(), self._controller(), *map(self._slurmd, self.nodes)]

    def _services(self) -> list[Daemon]:
        """What Slurm itself needs, in order of start."""
        munge = self.directory / "munge"
        command = ["munged", "--foreground", "--force", f"--socket={munge}/socket", f"--key-file={munge}/key"]
        command += [f"--pid-file={munge}/pid", f"--seed-file={munge}/seed"]
        test = self._succeeds("munge", "--no-input", f"--socket={munge}/socket")
        munged = self._daemon("munged", command, test)
        return [munged, *(self._accounting() if self.settings.accounting == "dbd" else [])]

    def _accounting(self) -> list[Daemon]:
        socket_path = f"{self.directory}/run/mariadb"
        command = accounting.database_command(self.directory / "database", socket_path, _user())
        test = self._succeeds("mariadb", "--no-defaults", f"--socket={socket_path}", "--execute=select 1")
        database = self._daemon("mariadbd", command, test)
        # slurmdbd.conf has no word for the socket's path, but the client library has a variable.
        command = ["env", f"MYSQL_UNIX_PORT={socket_path}", "slurmdbd", "-D"]
        return [database, self._daemon("slurmdbd", command, self._succeeds("sacctmgr", "show", "cluster"))]

    def _controller(self) -> Daemon:
        return self._daemon("slurmctld", ["slurmctld", "-D"], self._controller_answers)

    def _controller_answers(self) -> bool:
        return " is UP" in self.run("scontrol", "ping", check=False).stdout

    def _slurmd(self, node: str) -> Daemon:
        # Stepds inherit the working directory: this is how they are told from those of other nodes.
        command = ["slurmd", "-D", "-N", node]
        return self._daemon(node, command, partial(self._in_service, node), cwd=f"spool/{node}")

    def _in_service(self, node: str) -> bool:
        state = self.node_state(node)
        if state & {"DOWN", "DRAIN"}:
            # Refused while Slurm is still busy with something else there; then the next try will do.
            self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        return bool(state) and state <= _IN_SERVICE

    def _succeeds(self, *command: str) -> Callable[[], bool]:
        return lambda: self.run(*command, check=False).returncode == 0


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _is_empty(directory: Path) -> bool:
    return not any(directory.iterdir())


def _refuse_taken_ports(settings: Settings) -> None:
    for port in (settings.port, settings.dbd_port, *settings.node_ports):
        if not port_is_free(port):
            raise ClusterError(f"port {port} is in use: choose a --port {PORTS_PER_CLUSTER} or more away")

"""Jobs as processes of this machine, under submitit's own local controller (time limits, several tasks).

Unlike submitit's, each job has a session of its own, so that a terminal's Ctrl-C reaches the driver alone, and
is known by its pid and start time, so that another driver can take it up.
"""

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trialfleet.compat.submitit import LocalController
from trialfleet.errors import UserError
from trialfleet.sweep.fleets import local_processes
from trialfleet.sweep.fleets.base import PYTHON_OPTIONS, WORKER, Busy, Fleet, MaybeSubmitted
from trialfleet.sweep.fleets.forking import Forking
from trialfleet.sweep.fleets.local_processes import MARKER, Member
from trialfleet.sweep.fleets.slurm_command import outside_of_jobs
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial.process import Process
from trialfleet.trial.submission import JobRef

LAUNCHER = "local"
ELEMENT = "TRIALFLEET_ELEMENT"  # tells a job which element of its submission it is, as Slurm's arrays do


class LocalFleet(Fleet):
    """Args:
    params: the node `hydra.launcher` of submitit_local; None to follow jobs without starting any.
    environment: what the jobs' environment has besides ours.
    imports: modules that jobs import, to fork jobs from a process that has them; None to start each from nothing.
    """

    limit = sys.maxsize
    at_hand = True

    def __init__(
        self,
        params: Mapping[str, Any] | None,
        environment: Mapping[str, str],
        imports: Sequence[str] | None = None,
    ) -> None:
        self._params = params
        plain = params is not None and not params.get("setup") and int(params["tasks_per_node"] or 1) == 1
        self._forking = Forking(imports) if imports is not None and plain else None
        self._environment = dict(environment)
        self._children: list[subprocess.Popen[bytes]] = []
        self._members: list[Member] | None = None  # as of the last refresh, once somebody asked
        self._cancelled: set[str] = set()
        self._handles: dict[Process, int] = {}  # of those that we started, until we have heard of their end
        self._told: set[int] = set()  # handles that could be read when they were last asked for

    @staticmethod
    def check(params: Mapping[str, Any]) -> None:
        """Raises:
        UserError: the launcher's settings ask for what a machine of its own cannot give.
        """
        if params["nodes"] != 1:
            raise UserError(f"hydra.launcher.nodes={params['nodes']}: local jobs have one node", "set it to 1")
        if params["timeout_min"] <= 0:
            raise UserError(
                f"hydra.launcher.timeout_min={params['timeout_min']}: no trial could begin", "give minutes above 0"
            )

    def prepare(self) -> None:
        if self._forking is not None:
            self._forking.prepare(self._shared())

    def close(self) -> None:
        if self._forking is not None:
            self._forking.close()
        self._close(set(self._handles.values()))

    def submit(self, submission: Path, uuid: str, count: int, memory: float = 1.0) -> list[JobRef]:
        assert self._params is not None, "this fleet only follows jobs"
        started: list[JobRef] = []
        try:
            for element in range(count):
                started.append(self._start(submission, uuid, element))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOMEM):
                raise
            words = f"this machine starts no more processes: {error.strerror}"
            raise MaybeSubmitted(words) if started else Busy(words, limit=False) from None
        return started

    def _start(self, submission: Path, uuid: str, element: int) -> JobRef:
        params = self._params
        assert params is not None
        folder = submission.parent / uuid
        folder.mkdir(exist_ok=True)
        setup = params.get("setup") or ()
        task = [sys.executable, *PYTHON_OPTIONS, "-m", WORKER, str(submission)]
        controller = LocalController(
            folder,
            task=task,
            tasks=int(params["tasks_per_node"] or 1),
            time_limit=int(60 * params["timeout_min"]),
            signal_delay=int(params.get("signal_delay_s", 30)),
            stderr_to_stdout=bool(params["stderr_to_stdout"]),
            in_shell=bool(setup),
        )
        shared = self._shared()
        own = {
            MARKER: marker(uuid, element),
            ELEMENT: str(element),
            "SUBMITIT_FOLDER": str(folder),
            **controller.environment,
            **_gpus(params["gpus_per_node"]),
        }
        if self._forking is not None:
            forked = self._forking.start(shared, own, controller.command, task, folder)
            if forked is not None:
                return self._followed(forked, uuid, element)
        environment = {**shared, **own}
        with open(folder / "controller.log", "ab") as log:
            child = subprocess.Popen(
                [*_shell(setup), *controller.command] if setup else controller.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._children.append(child)
        return self._followed(child.pid, uuid, element)

    def _shared(self) -> dict[str, str]:
        """The environment that all jobs have."""
        return {**outside_of_jobs(), **self._environment}

    def _followed(self, pid: int, uuid: str, element: int) -> JobRef:
        process = Process.of(pid)
        with contextlib.suppress(OSError):  # no more descriptors are to be had, or the kernel has no such thing
            self._handles[process] = os.pidfd_open(pid)
        return JobRef(LAUNCHER, str(pid), process.to_json(), marker(uuid, element))

    def refresh(self) -> bool:
        self._members = None
        self._children = [child for child in self._children if child.poll() is None]  # reaps what has ended
        self._close(_readable(self._handles.values()))
        return True

    def handles(self) -> Sequence[int]:
        self._close(self._told)  # they have woken the driver once, whether or not it has asked about their jobs
        self._told = _readable(self._handles.values())
        return list(self._handles.values())

    def job_ended(self) -> bool:
        return bool(_readable(self._handles.values()))

    def _close(self, ended: set[int]) -> None:
        closed = {handle for handle in self._handles.values() if handle in ended}
        for handle in closed:
            os.close(handle)
        self._handles = {process: handle for process, handle in self._handles.items() if handle not in closed}
        self._told -= closed

    def phase(self, job: JobRef) -> JobState:
        assert job.process is not None
        process = Process.from_json(job.process)
        if process in self._handles:
            return JobState.OVER if _readable([self._handles[process]]) else JobState.RUNNING
        if not process.is_here():
            return JobState.UNKNOWN
        return JobState.RUNNING if process.is_alive() else JobState.OVER

    def find(self, uuid: str, index: int) -> JobRef | None:
        wanted = marker(uuid, index)
        found = [member for member in self._seen() if member.marker == wanted]
        if not found:
            return None
        # The controller, or whoever of its job is there longest if it is gone.
        first = min(found, key=lambda member: (member.pid != member.session, member.start_time))
        try:
            process = Process.of(first.pid)
        except ProcessLookupError:
            return None
        return JobRef(LAUNCHER, str(process.pid), process.to_json(), wanted)

    def lives(self, job: JobRef) -> bool:
        return bool(local_processes.of_job(job, self._seen()))

    def cancel(self, jobs: Sequence[JobRef]) -> None:
        members = local_processes.ours() if jobs else []
        for job in jobs:
            name = job.marker or repr(job.process)
            if name in self._cancelled:
                local_processes.kill(job)
                continue
            self._cancelled.add(name)
            for member in local_processes.of_job(job, members):
                member.signal(signal.SIGTERM)

    def clear(self, job: JobRef) -> None:
        if self.phase(job) is not JobState.RUNNING:
            local_processes.kill(job)

    def _seen(self) -> list[Member]:
        """Our processes as of the last refresh: /proc is looked through once for all jobs, if somebody asks."""
        if self._members is None:
            self._members = local_processes.ours()
        return self._members


def _readable(handles: Iterable[int]) -> set[int]:
    """Those of jobs that have ended."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return {handle for handle, _ in poll.poll(0)}


def marker(uuid: str, element: int) -> str:
    """What the environment of all processes of a submission's element says (JobRef.marker)."""
    return f"{uuid}.{element}"


def _shell(setup: Sequence[str]) -> list[str]:
    """A shell that runs the setup commands and then becomes the words that follow."""
    return ["bash", "-c", " && ".join([*setup, 'exec "$@"']), "setup"]


def _gpus(count: int | None) -> dict[str, str]:
    """The GPUs that a job sees: the first ones, as many as asked for; all that the command sees if nobody said."""
    return {} if count is None else {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(count)))}

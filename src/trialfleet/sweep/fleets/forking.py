"""The driver's side of a process that becomes jobs by forks (`trialfleet.worker.fork_server`)."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trialfleet.sweep.fleets.base import PYTHON_OPTIONS, MaybeSubmitted
from trialfleet.trial.fork_protocol import MOST, READY, ROOM

MODULE = "trialfleet.worker.fork_server"
OURS = "trialfleet.worker.preloaded"
READY_SECONDS = 30.0  # from its start, for its imports; each job that is not forked would need as long for its own
ANSWER_SECONDS = 10.0  # a fork takes milliseconds
PADDING = 8192  # bytes, for a job's own words and variables


class Forking:
    """Starts jobs by forks, once the process is there that can.

    Args:
        modules: that jobs import besides those of ours.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._of: tuple[Mapping[str, str], str] | None = None  # the environment and folder of the process
        self._ready, self._begun = False, 0.0  # the latter on the monotonic clock
        self._given_up = not (sys.platform == "linux" and hasattr(os, "fork"))

    def prepare(self, environment: Mapping[str, str]) -> None:
        """Begin to import, for the first job of these that have this environment."""
        if not self._given_up and self._process is None:
            self._begin(_surroundings(environment))

    def start(
        self,
        environment: Mapping[str, str],
        own: Mapping[str, str],
        controller: Sequence[str],
        task: Sequence[str],
        submissions: Path,
    ) -> int | None:
        """Start a job.

        Args:
            environment: that all jobs have; own: that this one has besides.
            controller, task: the words of its two processes.
            submissions: the job's folder.

        Returns:
            its pid; None if it cannot be forked, now or ever, and is to be started as any program.

        Raises:
            MaybeSubmitted: the process has not answered.
        """
        if self._given_up or not self._is_ready(_surroundings(environment)):
            return None
        job = {
            "environment": {**own, **environment, **own},  # what it is found by comes first
            "folder": os.getcwd(),  # noqa: PTH109
            "controller": list(controller),
            "task": list(task),
            "submissions": str(submissions),
            "log": str(submissions / "controller.log"),
        }
        request = json.dumps(job).encode()
        assert self._socket is not None
        try:
            self._socket.send(request)
        except OSError:  # it is gone, or the environment is larger than a message can be
            self._give_up()
            return None
        said = self._heard(ANSWER_SECONDS)
        if said is None:
            self._give_up()
            raise MaybeSubmitted("the process that forks jobs did not answer")
        if "pid" not in said:
            self._give_up()
            return None
        return int(said["pid"])

    def _is_ready(self, of: tuple[Mapping[str, str], str]) -> bool:
        """Whether a process with this environment and folder has imported what it should, and can fork."""
        if self._process is None or of != self._of:
            self.close()
            self._begin(of)
        if not self._ready and not self._given_up:
            said = self._heard(max(0.0, self._begun + READY_SECONDS - time.monotonic()))
            if said is not None and said.get("state") != READY:
                self._give_up()
            self._ready = said is not None and not self._given_up
        return self._ready

    def _begin(self, of: tuple[Mapping[str, str], str]) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST)
        command = [sys.executable, *PYTHON_OPTIONS, "-m", MODULE, str(its.fileno()), "-" * PADDING]
        try:
            self._process = subprocess.Popen(
                [*command, OURS, *self._modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**of[0], ROOM: "-" * PADDING},
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        except OSError:
            ours.close()
            self._given_up = True
            return
        finally:
            its.close()
        self._socket, self._of, self._ready, self._begun = ours, of, False, time.monotonic()

    def _heard(self, seconds: float) -> dict[str, Any] | None:
        """The process's next word; None if none comes in time, or it is gone."""
        assert self._socket is not None
        with contextlib.suppress(OSError, ValueError):
            if select.select([self._socket], [], [], seconds)[0]:
                said: dict[str, Any] = json.loads(self._socket.recv(MOST) or b'{"state": "gone"}')
                return said
        return None

    def _give_up(self) -> None:
        self._given_up = True
        self.close()

    def close(self) -> None:
        """End the process; jobs that it has started go on."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket = self._process = self._of = None


def _surroundings(environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """What jobs have from the process that forks them."""
    return dict(environment), os.getcwd()  # noqa: PTH109

"""What the fleets need of submitit, and of its launchers for Hydra, that has no public name.

submitit submits a pickled function and waits for its pickled result, and its public names do nothing less. What is
wanted of it is less: the same batch scripts and the same local controller, for a command of ours.

`submitit.slurm.slurm._make_sbatch_string`
    The batch script for a command. `SlurmExecutor` makes it only for its own command, and only to submit it.
`submitit.slurm.slurm._parse_node_list`
    The names in a list like `node[1-3,7]`. The public `SlurmJobEnvironment.hostnames` reads its own job's list alone.
`submitit.local.local.Controller`, `submitit.local._local` and the variables `SUBMITIT_LOCAL_…`
    The program that holds a local job to its time limit and starts its tasks. `LocalExecutor` starts it as a child of
    the terminal's session, where Ctrl-C reaches it. For a forked task its `wait`, and `LocalJobEnvironment._usr_sig`.
`BaseSubmititLauncher._EXECUTOR`
    Which of submitit's executors a launcher of hydra-submitit-launcher uses. The classes of the launchers have public
    names, but a user's own that inherits from their base is none of these.
"""

import os
import select
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

SEEN = ("1.5.3", "1.5.4")
SEEN_LAUNCHER = ("1.4.0rc3",)  # hydra-submitit-launcher

LONGEST_WAIT = 1e6  # seconds that the kernel takes
Executor = Literal["local", "slurm"]


def executor_of(launcher: Any) -> Executor | None:
    """Which of submitit's executors a Hydra launcher uses; None if it is none of hydra-submitit-launcher's."""
    name = getattr(launcher, "_EXECUTOR", None)
    return name if name in ("local", "slurm") else None


def batch_script(command: str, folder: Path, **parameters: Any) -> str:
    """The text of a script for sbatch.

    Args:
        command: of the shell; each task runs it.
        folder: where Slurm puts the job's output.
        parameters: as `SlurmExecutor` has them, from `AutoExecutor.parameters` for example; `map_count` makes it an
            array of so many jobs.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    return _make_sbatch_string(command=command, folder=folder, **parameters)


def node_names(node_list: str) -> list[str]:
    """The names in a list of nodes as Slurm writes it: `node[1-3,7],other`.

    Raises:
        ValueError: it is no such list.
    """
    from submitit.slurm.slurm import SlurmParseException, _parse_node_list

    try:
        return list(_parse_node_list(node_list))
    except SlurmParseException as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True)
class LocalController:
    """submitit's program that starts the tasks of a local job, and ends them at its time limit.

    Attributes:
        folder: where it puts its tasks' output.
        task: the command of each task, in words.
        tasks: how many there are.
        time_limit: seconds.
        signal_delay: seconds before the limit, at which the tasks are warned.
        stderr_to_stdout: whether both go into one file.
        in_shell: whether a shell with the user's setup commands comes first; the job is then named after that.
    """

    folder: Path
    task: Sequence[str]
    tasks: int
    time_limit: int
    signal_delay: int
    stderr_to_stdout: bool
    in_shell: bool

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "submitit.local._local", str(self.folder)]

    @property
    def environment(self) -> dict[str, str]:
        """What the program's environment must say besides."""
        return {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_NTASKS": str(self.tasks),
            "SUBMITIT_LOCAL_COMMAND": shlex.join(self.task),
            "SUBMITIT_LOCAL_TIMEOUT_S": str(self.time_limit),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(self.signal_delay),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "1" if self.stderr_to_stdout else "",
            "SUBMITIT_LOCAL_WITH_SHELL": "1" if self.in_shell else "",
        }


def control(folder: Path, task: Callable[[Mapping[str, str], int, int], NoReturn]) -> None:
    """Be that program in this process, whose task is no other program but a fork.

    Args:
        task: with its environment, and descriptors for its output and its errors.
    """
    from submitit.core.utils import JobPaths
    from submitit.local import local

    class Controller(local.Controller):
        def start_tasks(self) -> None:
            self.folder.mkdir(exist_ok=True)
            paths = JobPaths(self.folder, self.pid, 0)
            self.stdouts = [paths.stdout.open("a")]
            self.stderrs = self.stdouts if self.stderr_to_stdout else [paths.stderr.open("a")]
            own = {"LOCALID": "0", "GLOBALID": "0", "JOB_ID": self.pid}
            environment = {**os.environ, **{f"SUBMITIT_LOCAL_{name}": value for name, value in own.items()}}
            out, err = self.stdouts[0].fileno(), self.stderrs[0].fileno()
            forked: Any = _Forked(lambda: task(environment, out, err))  # of a process all that is asked here
            self.tasks.append(forked)

        def wait(self, freq: int = 24) -> Sequence[int | None]:
            """Wait for the task's end or the time limit; warn it before the limit.

            submitit looks 24 times a second, which hundreds of jobs on a machine feel.
            """
            try:
                handle = os.pidfd_open(self.tasks[0].pid)
            except (AttributeError, OSError):  # not on this system
                return super().wait(freq)
            try:
                limit = time.monotonic() + self.timeout_s
                if self.signal_delay_s <= self.timeout_s and not _ends(handle, limit - self.signal_delay_s):
                    self._forward_signal(local.LocalJobEnvironment._usr_sig())
                _ends(handle, limit)
            finally:
                os.close(handle)
            return [self.tasks[0].poll()]

    Controller(folder).run()


def _ends(handle: int, until: float) -> bool:
    """Wait for a process's end until so many seconds of the monotonic clock; whether it has come."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while (left := until - time.monotonic()) > 0:
        if poll.poll(1000.0 * min(left, LONGEST_WAIT)):
            return True
    return False


class _Forked:
    """A forked process, with what the controller asks of a task's."""

    def __init__(self, becomes: Callable[[], NoReturn]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            becomes()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

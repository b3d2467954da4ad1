"""One sweep of the application: its command is started, waited for, killed, and given again."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import side_file
from .sweepers import Launcher, Sweeper

PATIENCE = 90.0  # seconds; only what never comes takes so long
APPLICATION = Path(__file__).parent / "application"


class NeverCame(Exception):
    """What a moment waits for did not happen; it says what, and what the command had printed."""


@dataclass(frozen=True)
class Done:
    """A command that has ended: its exit code and what it printed."""

    code: int
    said: str


# A shell makes the commands that it runs in the background deaf to SIGINT, and what these start, too. This becomes the
# command, after it has put that right. (Not before an exec in this process's fork: what loads JAX must not be forked.)
HEARING = """\
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Controller:
    """A running command, in a process group of its own, as a shell gives it one."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self._process, self._output = process, output

    def ended(self) -> bool:
        return self._process.poll() is not None

    def said(self) -> str:
        return self._output.read_text(errors="replace")

    def done(self) -> Done:
        """Wait for its end; one that never ends is killed, and its code says so."""
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        return Done(self._process.returncode, self.said())

    def kill(self) -> None:
        """SIGKILL to the controller alone: what it started knows nothing of it."""
        self._process.kill()
        self._process.wait()

    def interrupt(self) -> None:
        """SIGINT to the whole process group, as a terminal's Ctrl-C is."""
        os.killpg(self._process.pid, signal.SIGINT)


class Sweep:
    """A sweep in a folder of its own. Leaving it as a context lets all jobs go on, and ends those that remain.

    Args:
        folder: an empty one.
        total: jobs of the sweep.
        application: of the application's overrides, by which jobs fail or wait.
    """

    def __init__(self, folder: Path, sweeper: Sweeper, launcher: Launcher, total: int, *application: str) -> None:
        self.folder = folder / "app"
        shutil.copytree(APPLICATION, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.sweeper, self.launcher, self.total = sweeper, launcher, total
        self._side = folder / "side.jsonl"
        self._outputs = folder
        self._application = application
        self._started: list[Controller] = []
        self.let("doors")

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *_: object) -> None:
        self.let("doors")
        self.let("open")
        for controller in self._started:
            if not controller.ended():
                controller.kill()
        pids = {line.pid for line in side_file.unfinished(self.lines())}
        with contextlib.suppress(NeverCame):
            self.wait_until(lambda: not any(map(side_file.alive, pids)), "the end of all jobs", patience=10.0)
        for pid in filter(side_file.alive, pids):
            os.kill(pid, signal.SIGKILL)

    # ---- commands

    def command(self, *, total: int | None = None, space: str | None = None, fixed: int = 1) -> list[str]:
        return [
            *(sys.executable, "train.py", "--multirun"),
            *self.sweeper.overrides,
            *self.sweeper.persistent,
            *self.launcher.overrides,
            self.sweeper.total.format(self.total if total is None else total),
            self.sweeper.slots.format(self.launcher.slots),
            *(space or self.sweeper.space, f"fixed={fixed}"),
            *self._application,
        ]

    def start(self, command: list[str] | None = None) -> Controller:
        """Start the sweep's command, or another one."""
        output = self._outputs / f"said.{len(self._started)}"
        with open(output, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", HEARING, *(command or self.command())],
                cwd=self.folder,
                env={**os.environ, "RESUME_CONTRACT_SIDE_FILE": str(self._side)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(Controller(process, output))
        return self._started[-1]

    def run(self, command: list[str] | None = None) -> Done:
        return self.start(command).done()

    # ---- what is seen

    def lines(self) -> list[side_file.Said]:
        return side_file.read(self._side)

    def starts(self) -> int:
        return len(side_file.starts(self.lines()))

    def ends(self) -> int:
        return len(side_file.ends(self.lines()))

    def has_folder(self) -> bool:
        """Whether there is anything besides the application and what any command makes of it."""
        own = {path.name for path in APPLICATION.iterdir()} | {"__pycache__", "outputs"}
        return any(path.name not in own for path in self.folder.iterdir())

    def overrides(self) -> dict[Path, bytes | None]:
        """What `.hydra/overrides.yaml` has in the folder of each job that ended; None if it is not there."""
        files = {line.folder / ".hydra" / "overrides.yaml" for line in side_file.ends(self.lines())}
        return {file: file.read_bytes() if file.exists() else None for file in files}

    # ---- what holds jobs up

    def let(self, name: str) -> None:
        """Open what jobs wait for: doors, open, or open.<order>."""
        self._side.with_suffix(f".{name}").touch()

    def shut_doors(self) -> None:
        self._side.with_suffix(".doors").unlink()

    def wait_until(
        self, condition: Callable[[], bool], what: str, *, of: Controller | None = None, patience: float = PATIENCE
    ) -> None:
        """Wait for a condition.

        Args:
            what: is waited for, in words.
            of: the command that is to bring it about; its end ends the waiting.

        Raises:
            NeverCame: it did not become true.
        """
        until = time.monotonic() + patience
        while not condition():
            over = of is not None and of.ended() and not condition()
            if over or time.monotonic() > until:
                raise NeverCame(f"never came: {what}" + (f"\n{of.said()}" if of is not None else ""))
            time.sleep(0.01)

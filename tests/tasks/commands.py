"""Python's commands without Python's start: `python -m tests.tasks.commands MODULE…` imports these, and forks.

Each command is a process of its own that does what `python -m NAME …` or `python FILE …` would do, in the folder and
with the environment that it is given; it only finds imported what it would have spent a second on. Reads one JSON line
for each, the arguments of `Commands.start`, and answers with its process id; or {"poll": id}, for its exit code.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.cluster.processes import wait_until

PROJECT = Path(__file__).resolve().parents[2]
# What the driver of a sweep and the process of a trial import, whatever they are told to do.
OF_DRIVER = ("pipelines.train", "trialfleet.config", "trialfleet.sweep.sweeper", "trialfleet.sweep.session")
# What it needs to write to MLflow; and what a training imports, which starts none of jax's back ends.
OF_MLFLOW = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking", "mlflow.entities")
OF_TRAINING = ("orbax.checkpoint", "trialfleet.training.loop", "trialfleet.workloads.asr.workload")
OF_TRIAL = ("hydra.core.utils", "cloudpickle", "trialfleet.trial.submission", "trialfleet.trial.sweep_run")


class Command:
    """A command that was started; looks like a subprocess.Popen."""

    def __init__(self, commands: "Commands", pid: int) -> None:
        self._commands, self.pid = commands, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._commands.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 600.0) -> int:
        if not wait_until(lambda: self.poll() is not None, timeout, interval=0.01):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Commands:
    """Runs commands, each a fork of `host`."""

    def __init__(self, host: "subprocess.Popen[str]") -> None:
        self._host = host

    def run(self, *words: str, said: Path, patience: float = 600.0, **named: Any) -> tuple[int, str]:
        """A command's exit code, and what it said; takes what `start` takes.

        Args:
            patience: seconds; one that takes longer is killed.
        """
        said.write_bytes(b"")
        command = self.start(*words, said=said, **named)
        try:
            command.wait(patience)
        except subprocess.TimeoutExpired:
            command.kill()
        return command.wait(), said.read_text()

    def start(
        self, *words: str, place: Path, said: Path, environment: Mapping[str, str] | None = None, first: str = ""
    ) -> Command:
        """Start a command.

        Args:
            words: what would be typed after `python`.
            place: where it would be typed.
            said: its output, of both streams, is appended to this file.
            environment: all of its variables; this process's by default.
            first: code that the process runs before anything else.
        """
        variables = dict(os.environ if environment is None else environment)
        request = {"words": words, "place": str(place), "said": str(said), "environment": variables, "first": first}
        pid = self.ask(request)
        assert pid is not None
        return Command(self, pid)

    def ask(self, request: Mapping[str, Any]) -> int | None:
        """The host's answer."""
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        self._host.stdin.write(json.dumps(request) + "\n")
        self._host.stdin.flush()
        answer: int | None = json.loads(self._host.stdout.readline())
        return answer


@contextmanager
def host_of_commands(*imports: str) -> Iterator[Commands]:
    """Commands that find these modules imported."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.tasks.commands", *imports],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    ) as process:
        yield Commands(process)
        assert process.stdin is not None
        process.stdin.close()


def get_ready(*imports: str) -> None:
    """Do once, before the first fork, what each command would do at its start whatever it is told."""
    import hydra
    from hydra.core.plugins import Plugins

    if any(name.startswith("mlflow") for name in imports):
        importlib.import_module("trialfleet.tracking.mlflow_runs").prepare_environment()
    for name in imports:
        importlib.import_module(name)
    Plugins.instance()  # Hydra looks through all of its plugins
    # Its parser is slow at what it meets for the first time.
    with hydra.initialize_config_dir(str(PROJECT / "tests" / "tasks" / "conf")):
        overrides = (f"hydra.searchpath=[file://{PROJECT}/conf]", "hydra.sweeper.watch={files:0.02,jobs:0.1}", "x=1.5")
        hydra.compose("descent", list(overrides), return_hydra_config=True)
    gc.collect()
    gc.freeze()  # or each process's collector would go through, and copy, all that was imported


def leave(entry: Callable[[], Any]) -> None:
    """Run `entry` and end this process, whatever happens."""
    code = 1
    try:
        code = entry() or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  # a forked process must end here, not in its parent's code
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):  # it may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _become(request: Mapping[str, Any]) -> None:
    """Do what the request says, in this process."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for opened, descriptor in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(opened, descriptor)
    os.close(nothing)
    os.close(said)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["place"])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = [request["place"], *paths]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # deaf where a shell began the tests in the background
    words = request["words"]
    sys.orig_argv = [sys.executable, *words]
    exec(request["first"], {})
    if words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


def main() -> None:
    get_ready(*sys.argv[1:])
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_poll(request["poll"]) if "poll" in request else _fork(request)), flush=True)


def _poll(child: int) -> int | None:
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _fork(request: Mapping[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        leave(lambda: _become(request))
    return child


if __name__ == "__main__":
    main()

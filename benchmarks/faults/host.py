"""Starts a study's commands in a tenth of a second: a process that has everything imported, and forks each driver.

The driver is the real one, from the command line on; its jobs are processes of their own, started as always.
`python -m benchmarks.faults.host` reads one JSON line for each order and answers with one number.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
CONF = Path(__file__).parent / "conf"


@dataclass
class Driver:
    """A driver that was started; looks like a subprocess.Popen."""

    host: "Host"
    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            code = self.host.ask({"poll": self.pid})
            self.returncode = None if code == ALIVE else code
        return self.returncode

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None if it lives on for so long."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.returncode

    def send(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Host:
    """The process that starts drivers; for several threads."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(PROJECT), str(PROJECT / "src"), str(Path(__file__).parent / "site")])
        environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-m", "benchmarks.faults.host"]
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=environment
        )

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._process:  # it ends with its input
            assert self._process.stdin is not None
            self._process.stdin.close()

    def start(
        self, place: Path, log: Path, overrides: Sequence[str], environment: Mapping[str, str], first: str
    ) -> Driver:
        """Start a driver in the folder `place`.

        Args:
            log: what it says is appended there.
            first: code that it runs before anything else.
        """
        request = {"place": str(place), "log": str(log), "overrides": list(overrides), "first": first}
        return Driver(self, self.ask({**request, "environment": dict(environment)}))

    def ask(self, request: Mapping[str, Any]) -> int:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(f"{json.dumps(request)}\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


# -------------------------------------------------------------------- in the host's own process

ALIVE = 1000  # the answer of a driver that has no exit code yet


def main() -> None:
    _import_everything()
    for line in sys.stdin:
        request = json.loads(line)
        print(_poll(request["poll"]) if "poll" in request else _fork(request), flush=True)


def _import_everything() -> None:
    import mlflow.tracking  # noqa: F401  # before the first fork, not after each
    import psycopg  # noqa: F401
    import submitit  # noqa: F401

    from benchmarks.faults import task  # noqa: F401
    from pipelines import cli  # noqa: F401
    from trialfleet.sweep import session  # noqa: F401


def _poll(pid: int) -> int:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else ALIVE


def _fork(request: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _become_driver(request)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  # a forked process must end here, not in its parent's code
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _become_driver(request: Mapping[str, Any]) -> None:
    import hydra

    from benchmarks.faults.task import task
    from pipelines import cli
    from trialfleet.config.location import conf_directory

    os.setsid()
    os.chdir(request["place"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.environ.update(request["environment"])
    sys.argv = ["faults", "--config-dir", str(CONF), "-m", *request["overrides"]]
    sys.orig_argv = ["python", "-m", "benchmarks.faults.study", *sys.argv[1:]]
    exec(request["first"], {})
    cli.main(hydra.main(config_path=str(conf_directory()), config_name="faults")(task))


if __name__ == "__main__":
    main()

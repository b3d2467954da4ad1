"""Python's commands without Python's start: `python -m tests.tasks.commands MODULE…` imports these, and forks.

Each command is a process of its own that does what `python -m NAME …` or `python FILE …` would do, in the folder and
with the environment that it is given; it only finds imported what it would have spent a second on. Reads one JSON line
for each, the arguments of `Commands.run`, and answers with its exit code.
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

PROJECT = Path(__file__).resolve().parents[2]
# What the driver of a sweep and the process of a trial import, whatever they are told to do.
OF_DRIVER = ("pipelines.train", "trialfleet.config", "trialfleet.sweep.sweeper", "trialfleet.sweep.session")
# What it needs to write to MLflow; and what a training imports, which starts none of jax's back ends.
OF_MLFLOW = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking", "mlflow.entities")
OF_TRAINING = ("orbax.checkpoint", "trialfleet.training.loop", "trialfleet.workloads.asr.workload")
OF_TRIAL = ("hydra.core.utils", "cloudpickle", "trialfleet.trial.submission", "trialfleet.trial.sweep_run")


class Commands:
    """Runs commands, each a fork of `host`."""

    def __init__(self, host: "subprocess.Popen[str]") -> None:
        self._host = host

    def run(
        self, *words: str, place: Path, said: Path, environment: Mapping[str, str] | None = None, first: str = ""
    ) -> tuple[int, str]:
        """A command's exit code, and what it said.

        Args:
            words: what would be typed after `python`.
            place: where it would be typed.
            said: the file that takes its output, of both streams.
            environment: all of its variables; this process's by default.
            first: code that the process runs before anything else.
        """
        variables = dict(os.environ if environment is None else environment)
        request = {"words": words, "place": str(place), "said": str(said), "environment": variables, "first": first}
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        self._host.stdin.write(json.dumps(request) + "\n")
        self._host.stdin.flush()
        return int(self._host.stdout.readline()), said.read_text()


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
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(said, descriptor)
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
        child = os.fork()
        if child == 0:
            leave(lambda: _become(json.loads(line)))  # noqa: B023  # at once
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()

"""Studies whose driver, or a job of which, dies at its n-th write: `python -m tests.tasks.dying PLACE WHO WAY,… N …`.

For each N a study is begun in PLACE/N; its driver (or its first job) ends at once, as by SIGKILL, before or after
its N-th write, or in the middle of it (the ways take turns); then the same command runs until the study is
finished. What comes of it is for the test to judge.

Everything is imported once and each process is forked from there, jobs included: the code is the real one, from
the command line to the worker, but a life costs a fraction of a second. Prints the numbers at which somebody died.
"""

import os
import sys
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import hydra

from tests.tasks.commands import get_ready, leave
from tests.tasks.descent import task
from tests.tasks.studies import PROJECT
from trialfleet.config.location import conf_directory
from trialfleet.sweep import session  # noqa: F401  # imported before the first fork, not after each
from trialfleet.sweep.fleets import slurm  # noqa: F401  # imported before the first fork, not after each
from trialfleet.sweep.fleets.local import ELEMENT, LocalFleet
from trialfleet.sweep.study.journal import OwnJournal
from trialfleet.trial import metrics
from trialfleet.trial.process import Process
from trialfleet.trial.submission import JobRef
from trialfleet.worker import main as main_of_worker
from trialfleet.worker import signals

OVERRIDES = ("hydra.sweeper.n_trials=3", "steps=4", "seconds=0.01", "hydra.sweeper.watch={files:0.02,jobs:0.1}")
WARM = {"warm driver": "driver", "warm job": "job"}  # the same where jobs run one trial after another
DIED = 9
LIVES = 5


class Fate:
    """Strikes at write number `at`."""

    def __init__(self, way: str, at: int) -> None:
        self.way, self.at, self.count = way, at, 0

    def meet(self, write: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        self.count += 1
        if self.count != self.at:
            return write()
        if self.way == "half" and half is not None:
            half()
        if self.way == "after":
            write()
        os._exit(DIED)


def let_die(fate: Fate) -> None:
    """All writes of this process meet `fate`: those that bring a file into being, and those that append."""
    for name in ("link", "replace"):
        real = getattr(os, name)
        setattr(os, name, _fateful(real, fate))
    append, append_line = OwnJournal.append_logs, metrics.Writer.append

    def append_logs(self: OwnJournal, logs: list[dict[str, Any]]) -> None:
        def half() -> None:
            with open(self._file_path, "ab") as file:
                file.write(b'{"op_code": 4, "worker_id": "')

        fate.meet(lambda: append(self, logs), half)

    def append_report(self: metrics.Writer, step: int, values: Any, steps: int | None = None) -> None:
        fate.meet(
            lambda: append_line(self, step, values, steps), lambda: os.write(self._descriptor, b'{"step": 1, "ti')
        )

    OwnJournal.append_logs = append_logs  # type: ignore[method-assign]
    metrics.Writer.append = append_report  # type: ignore[method-assign]


def _fateful(real: Callable[..., Any], fate: Fate) -> Callable[..., Any]:
    return lambda *args, **named: fate.meet(lambda: real(*args, **named))


class Forked:
    """A job that was forked, as far as the fleet looks at its controller."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        return os.waitstatus_to_exitcode(status[1]) if (status := os.waitpid(self.pid, os.WNOHANG))[0] else None


def fork_jobs(driver: Fate | None, job: Fate | None) -> None:
    """Local jobs are forks of the driver; starting one is a write of the driver's."""

    def start(self: LocalFleet, submission: Path, uuid: str, element: int) -> JobRef:
        def fork() -> int:
            pid = os.fork()
            if pid == 0:
                os.setsid()
                os.environ.update({**self._environment, ELEMENT: str(element)})
                signals.install()
                if driver is not None:
                    driver.at = 0  # it was the driver's
                if job is not None and element == 0 and not (submission.parent.parent / "trials/00000/runs").exists():
                    let_die(job)
                leave(lambda: main_of_worker.main(str(submission)))
            return pid

        pid = fork() if driver is None else driver.meet(fork)
        self._children.append(Forked(pid))  # type: ignore[arg-type]
        return JobRef("local", str(pid), Process.of(pid).to_json())

    LocalFleet._start = start  # type: ignore[method-assign]


LATE = (  # what a driver imports only when it comes to need it
    "numpy.random",
    "optuna.storages._rdb.models",
    "rich._emoji_codes",
    "sqlalchemy.dialects.sqlite",
    "alembic.command",
    "mako.template",
)


def live(place: Path, who: str, fate: Fate | None, overrides: Sequence[str] = OVERRIDES, first: str = "") -> int:
    """One life of a driver in `place`; its exit code.

    Args:
        first: code that the driver's process runs before anything else.
    """
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.chdir(place)
        log = os.open("driver.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        fork_jobs(fate if who == "driver" else None, fate if who == "job" else None)
        if fate is not None and who == "driver":
            let_die(fate)
        conf = str(PROJECT / "tests" / "tasks" / "conf")
        sys.argv = ["descent", "--config-dir", conf, "-m", *overrides]
        sys.orig_argv = ["python", "-m", "tests.tasks", *sys.argv[1:]]
        exec(first, {})
        leave(lambda: hydra.main(config_path=str(conf_directory()), config_name="descent")(task)())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(place: Path, who: str, ways: Sequence[str], numbers: Sequence[int]) -> None:
    get_ready(*LATE)
    overrides = [*OVERRIDES, f"hydra.sweeper.worker.local={str(who in WARM).lower()}"]
    who = WARM.get(who, who)
    for number, way in zip(numbers, cycle(ways), strict=False):
        folder = place / str(number)
        folder.mkdir()
        code = live(folder, who, Fate(way, number), overrides)
        struck = code == DIED if who == "driver" else any(folder.glob("sweeps/descent/trials/*/runs/2.0"))
        for _ in range(LIVES):
            if code == 0:
                break
            code = live(folder, who, None, overrides)
        print(number, "died" if struck else "lived", code, flush=True)
        if who == "driver" and not struck:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(","), [int(word) for word in sys.argv[4:]])

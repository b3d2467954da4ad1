"""Studies of the test task as processes of their own, for tests that kill them: start, wait, look, judge.

What is judged is always the same (`Study.check`): each trial is there once and has ended, and its objective
is bit for bit that of its parameters undisturbed.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil

from jobs.cluster.processes import wait_until
from tests.tasks.commands import Command, Commands
from tests.tasks.descent import undisturbed
from trialfleet.trial import metrics, records
from trialfleet.trial.directory import TrialDir

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds; only a hang takes so long, however busy the machine is
STEPS = 10  # of descent.yaml

Driver = subprocess.Popen[bytes] | Command


class Study:
    """A study in `folder`/sweeps/descent.

    Args:
        folder: where the command is typed.
        overrides: what is typed each time.
        environment: variables of its own; the others are inherited.
        command: what is typed before `-m` and the overrides.
        commands: that fork the drivers; without, each is started as a person's are.
    """

    def __init__(
        self,
        folder: Path,
        *overrides: str,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "tests.tasks"),
        commands: Commands | None = None,
    ) -> None:
        self.place = folder
        self.folder = folder / "sweeps" / "descent"
        self.log = folder / "driver.log"
        self.overrides = overrides
        self.environment = dict(environment or {})
        self.command = list(command)
        self.commands = commands
        self.drivers: list[Driver] = []

    # ---------------------------------------------------------------- drivers

    @property
    def env(self) -> dict[str, str]:
        """The environment of a driver: this one's, with the task on the path."""
        return {**os.environ, **self.environment, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}

    def argv(self, *more: str) -> list[str]:
        return [*self.command, "-m", *self.overrides, *more]

    def start(self, *more: str) -> Driver:
        """Start a driver; its output goes to `log`."""
        argv = self.argv(*more)
        with open(self.log, "ab") as log:
            log.write(f"$ {shlex.join(argv)}\n".encode())
            log.flush()
            if self.commands is not None and argv[0] == sys.executable:
                driver: Driver = self.commands.start(*argv[1:], place=self.place, said=self.log, environment=self.env)
            else:
                driver = subprocess.Popen(
                    argv,
                    cwd=self.place,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        self.drivers.append(driver)
        return driver

    def run(self, *more: str, code: int = 0) -> str:
        """Run a driver to its end; what it said."""
        before = len(self.said())
        driver = self.start(*more)
        self.finish(driver, code)
        return self.said()[before:]

    def finish(self, driver: Driver, code: int = 0) -> None:
        try:
            driver.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            driver.send_signal(signal.SIGABRT)
            raise AssertionError(f"the driver hangs:\n{self.report()}") from None
        assert driver.returncode == code, f"exit code {driver.returncode}, not {code}:\n{self.report()}"

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def clean_up(self) -> None:
        """End what is left of the drivers, and of jobs that were started with a file of this study."""
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()
                driver.wait()
        for process in psutil.process_iter(["cmdline"]):
            if any(word.startswith(f"{self.folder}{os.sep}") for word in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    # ---------------------------------------------------------------- what is there

    def numbers(self) -> list[int]:
        folder = self.folder / "trials"
        return sorted(int(entry.name) for entry in folder.iterdir()) if folder.is_dir() else []

    def trial(self, number: int) -> TrialDir:
        return TrialDir(self.folder / "trials" / f"{number:05d}")

    def record(self, number: int) -> dict[str, Any]:
        """trial.json; empty before it is there."""
        return records.read(self.trial(number).trial_json) or {}

    def job(self, number: int) -> str | None:
        """The launcher's id of the trial's job."""
        job = self.record(number).get("job")
        return None if job is None else str(job["id"])

    def labels(self, number: int) -> list[str]:
        """The runs that the trial had, oldest first."""
        return [claim.label for claim in self.trial(number).claims()]

    def steps(self, number: int, label: str) -> list[int]:
        """The steps that a run reported."""
        lines, _ = metrics.read_from(self.trial(number).run_dir(label) / "metrics.jsonl")
        return [line.step for line in lines]

    def saved(self, number: int) -> list[Path]:
        """The trial's checkpoints."""
        return list(self.trial(number).runs.glob("*/checkpoints/[0-9]*"))

    def ended(self) -> list[int]:
        return [number for number in self.numbers() if self.trial(number).result_json.exists()]

    def running(self) -> list[int]:
        """Trials that report and have not ended."""
        started = [number for number in self.numbers() if any(self.trial(number).runs.glob("*/metrics.jsonl"))]
        return [number for number in started if not self.trial(number).result_json.exists()]

    def worker(self, number: int) -> int:
        """The process that runs the trial, or ran it last."""
        return self.trial(number).claims()[-1].process.pid

    def stored(self) -> list[optuna.trial.FrozenTrial]:
        """The trials in the Optuna study."""
        backend = optuna.storages.journal.JournalFileBackend(str(self.folder / "optuna_journal.log"))
        study = optuna.load_study(study_name="descent", storage=optuna.storages.JournalStorage(backend))
        return study.get_trials(deepcopy=False)

    def states(self) -> Counter[str]:
        return Counter(trial.state.name for trial in self.stored())

    # ---------------------------------------------------------------- wait and judge

    def wait_for(self, what: Callable[[], Any], driver: Driver | None = None) -> None:
        """Wait until `what` holds; fails when `driver` ends before."""

        def holds_or_dead() -> bool:
            return bool(what()) or (driver is not None and driver.poll() is not None)

        arrived = wait_until(holds_or_dead, PATIENCE)
        assert arrived, f"waited in vain:\n{self.report()}"
        assert what(), f"the driver ended early:\n{self.report()}"

    def check(self, n_trials: int, steps: int = STEPS) -> None:
        """All trials ended well, each once, with the objective of its parameters undisturbed."""
        stored = self.stored()
        assert [trial.state.name for trial in stored] == ["COMPLETE"] * n_trials, self.report()
        for trial in stored:
            wanted = undisturbed(trial.params["x"], trial.params["y"], steps)
            result = self.trial(trial.number).result()
            assert result is not None
            assert (trial.value, result.objectives) == (wanted, [wanted]), f"trial {trial.number}\n{self.report()}"
            claims = self.trial(trial.number).claims()
            assert len({(claim.attempt, claim.restart) for claim in claims}) == len(claims)
            assert result.run in [claim.label for claim in claims]

    def undisturbed_by_restarts(self) -> bool:
        """Whether every trial had one run only."""
        return all(self.labels(number) == ["1.0"] for number in self.numbers())

    def report(self) -> str:
        """What to show when something is wrong."""
        lines = [f"{number}: {self.record(number)}, runs {self.labels(number)}" for number in self.numbers()]
        logs = [log for number in self.numbers() for log in self.trial(number).runs.glob("*/log")]
        logs += list((self.folder / ".submitit").glob("*/*log*"))
        tails = [f"--- {log}\n{log.read_text()[-600:]}" for log in logs if log.stat().st_size]
        return "\n".join([self.said()[-6000:], *lines, *tails[-6:]])


NewStudy = Callable[..., Study]


def in_folders_of(parent: Path, *always: str, commands: Commands | None = None) -> Iterator[NewStudy]:
    """A fixture's generator: makes studies, each in a folder of its own, and ends them at the end of the test.

    Args:
        always: overrides of all of them.
        commands: that fork their drivers.
    """
    made: list[Study] = []

    def new(*overrides: str, **named: Any) -> Study:
        place = parent / str(len(made))
        place.mkdir()
        made.append(Study(place, *always, *overrides, commands=commands, **named))
        return made[-1]

    yield new
    for study in made:
        study.clean_up()

"""Processes that are killed, suspended or asked to go: the driver, jobs, and a second driver that nobody wants."""

import contextlib
import json
import os
import signal
from pathlib import Path

from benchmarks.faults.fault import fault
from benchmarks.faults.study import PATIENCE, Study

CLASS = "processes"


@fault(CLASS)
def kill_driver(study: Study) -> bool:
    return _to_driver(study, signal.SIGKILL)


@fault(CLASS)
def terminate_driver(study: Study) -> bool:
    return _to_driver(study, signal.SIGTERM)


def _to_driver(study: Study, number: int) -> bool:
    if study.driver is None or study.driver.poll() is not None:
        return False
    study.driver.send(number)
    study.driver.wait(PATIENCE)
    return True


@fault(CLASS)
def suspend_driver(study: Study) -> bool:
    """The command is typed again meanwhile. Who wakes when the other has taken over must write nothing."""
    old = study.driver
    if old is None or old.poll() is not None or study.others:
        return False
    old.send(signal.SIGSTOP)
    study.others.append(old)
    study.later(1.0, 6.0, lambda: old.send(signal.SIGCONT))
    study.pause(study.chance.uniform(0.0, 0.5))
    study.start()
    return True


@fault(CLASS)
def nap_of_driver(study: Study) -> bool:
    """Stopped for a moment, with nobody in its place."""
    driver = study.driver
    if driver is None or driver.poll() is not None or study.others:
        return False
    driver.send(signal.SIGSTOP)
    study.pause(study.chance.uniform(0.1, 1.0))
    driver.send(signal.SIGCONT)
    return True


@fault(CLASS, between=True)
def kill_starts(study: Study) -> bool:
    """A few drivers in a row, each of which is killed while it opens the study and takes up what is there."""
    for _ in range(study.chance.randint(1, 4)):
        study.start()
        study.pause(study.chance.uniform(0.02, 0.5))
        _to_driver(study, signal.SIGKILL)
    return True


@fault(CLASS)
def second_driver(study: Study) -> bool:
    """The same command while a driver is at work: it is refused."""
    if study.driver is None or study.driver.poll() is not None or study.others:
        return False
    second = study.launch()
    code = second.wait(PATIENCE)
    if study.driver.poll() is None and code != 2:
        study.notes.append(("doubled", f"a second driver was not refused, it left with {code}"))
    return True


@fault(CLASS)
def kill_worker(study: Study) -> bool:
    return _to_worker(study, signal.SIGKILL)


@fault(CLASS)
def terminate_worker(study: Study) -> bool:
    return _to_worker(study, signal.SIGTERM)


@fault(CLASS)
def suspend_worker(study: Study) -> bool:
    pid = _worker(study)
    if pid is None:
        return False
    os.kill(pid, signal.SIGSTOP)
    study.later(0.3, 3.0, lambda: _continue(pid))
    return True


def _continue(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _to_worker(study: Study, number: int) -> bool:
    pid = _worker(study)
    if pid is None:
        return False
    os.kill(pid, number)
    return True


def _worker(study: Study) -> int | None:
    """The process of one of the trials that run."""
    workers = [pid for trial in study.running() if (pid := study.worker(trial)) is not None]
    return study.chance.choice(workers) if workers else None


@fault(CLASS, "local")
def kill_controller(study: Study) -> bool:
    """The process that a local job's worker is a child of."""
    trials = study.running()
    trial = study.chance.choice(trials) if trials else None
    job = None if trial is None else _job(trial)
    if job is None or not job.get("process"):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(job["process"]["pid"], signal.SIGKILL)
        return True
    return False


def _job(trial: Path) -> dict[str, dict[str, int]] | None:
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, dict[str, int]] | None = json.loads((trial / "trial.json").read_text())["job"]
        return found
    return None


@fault(CLASS)
def jobs_exit_before_their_claim(study: Study) -> bool:
    """For a moment each job that starts ends before it reaches its trial."""
    exits = study.control / "exits"
    exits.write_text("all")
    study.later(0.3, 1.5, lambda: exits.unlink(missing_ok=True))
    return True

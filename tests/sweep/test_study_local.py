"""Studies of local jobs, from the command line to the end, with all that can die dying on the way."""

import contextlib
import os
import pty
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest

from jobs.cluster.processes import wait_until
from tests.tasks.forked import QuickStudy
from tests.tasks.studies import PATIENCE, NewStudy, Study

NewQuickStudy = Callable[..., QuickStudy]
N = "hydra.sweeper.n_trials="
LONG = ("steps=40", "seconds=0.05")  # two seconds: long enough to do something to it


@pytest.mark.everyday
def test_a_study_runs_to_its_end_and_then_has_nothing_to_do(new_study: NewStudy) -> None:
    study = new_study(f"{N}4")
    study.run()
    study.check(4)
    assert study.undisturbed_by_restarts()
    assert "is finished: 4 of 4" in study.run()
    assert len(study.stored()) == 4


@pytest.mark.slow
def test_more_trials_go_on_where_the_study_ended(quick_study: NewQuickStudy) -> None:
    study = quick_study("steps=10")
    study.run(f"{N}2")
    study.run(f"{N}4")
    study.check(4)
    assert len({trial.params["x"] for trial in study.stored()}) == 4


@pytest.mark.slow
def test_trials_that_somebody_else_asked_for_are_left_alone(quick_study: NewQuickStudy) -> None:
    study = quick_study("steps=10", f"{N}2")
    storage = f"sqlite:///{study.place}/shared.db"
    theirs = optuna.create_study(study_name="descent", storage=storage, direction="minimize").ask()
    study.run(f"hydra.sweeper.storage={storage}")
    trials = optuna.load_study(study_name="descent", storage=storage).get_trials()
    assert [trial.state.name for trial in trials] == ["RUNNING", "COMPLETE", "COMPLETE"]
    assert trials[0].number == theirs.number
    assert study.numbers() == [1, 2]


# -------------------------------------------------------------------- the driver dies


@pytest.mark.slow
def test_a_driver_killed_at_any_moment_is_taken_up_again(new_study: NewStudy) -> None:
    chance = random.Random(0)
    study = new_study(f"{N}5", "hydra.sweeper.n_jobs=3")
    for _ in range(4):
        driver = study.start()
        time.sleep(chance.uniform(0.5, 3.0))
        driver.kill()
        driver.wait()
    study.run()
    study.check(5)
    assert study.undisturbed_by_restarts()  # killing a driver harms no job


def test_running_jobs_are_adopted_not_restarted(new_study: NewStudy) -> None:
    study = new_study(f"{N}2", *LONG)
    driver = study.start()
    study.wait_for(lambda: len(study.running()) == 2, driver)
    workers = [study.worker(number) for number in (0, 1)]
    driver.kill()
    driver.wait()
    study.run()
    study.check(2, steps=40)
    assert study.undisturbed_by_restarts()
    assert [study.worker(number) for number in (0, 1)] == workers


def test_a_second_driver_is_refused_and_told_who_holds_the_study(new_study: NewStudy) -> None:
    study = new_study(f"{N}2", "mode=hang")
    driver = study.start()
    study.wait_for(study.running, driver)
    said = study.run(code=2)
    assert f"this study has a driver already: process {driver.pid} on {os.uname().nodename}" in said
    assert driver.poll() is None


@pytest.mark.slow
def test_a_suspended_driver_is_replaced_and_writes_nothing_when_it_wakes(new_study: NewStudy) -> None:
    study = new_study(f"{N}4", *LONG)
    suspended = study.start()
    study.wait_for(study.running, suspended)
    suspended.send_signal(signal.SIGSTOP)
    said = study.run()
    assert "is silent; taking over in 3 s" in said
    study.check(4, steps=40)

    def contents() -> dict[str, bytes]:
        files = [path for path in study.folder.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in files}

    before = contents()
    suspended.send_signal(signal.SIGCONT)
    study.finish(suspended, code=2)
    assert "another driver took the study over" in study.said()
    assert "Traceback" not in study.said()
    assert contents() == before


@pytest.mark.slow
def test_without_a_terminal_a_signal_detaches(new_study: NewStudy) -> None:
    study = new_study(f"{N}2", *LONG)
    for lives, number in enumerate((signal.SIGTERM, signal.SIGINT), 1):
        driver = study.start()
        study.wait_for(lambda lives=lives: study.said().count("  started ") == 2 * lives, driver)  # type: ignore[misc]
        driver.send_signal(number)
        study.finish(driver)
        assert "detached; 2 trial(s) are unfinished, their jobs left alone" in study.said()
    study.run()
    study.check(2, steps=40)
    assert study.undisturbed_by_restarts()


# -------------------------------------------------------------------- a job dies


def test_a_killed_worker_goes_on_from_its_checkpoint(new_study: NewStudy) -> None:
    study = new_study(f"{N}1", *LONG)
    driver = study.start()
    study.wait_for(lambda: len(study.saved(0)) >= 3, driver)
    os.kill(study.worker(0), signal.SIGKILL)
    study.finish(driver)
    study.check(1, steps=40)
    assert study.labels(0) == ["1.0", "2.0"]
    assert study.steps(0, "2.0")[0] >= 7


@pytest.mark.slow
def test_a_worker_that_lost_its_controller_is_followed_to_its_end(new_study: NewStudy) -> None:
    study = new_study(f"{N}1", *LONG)
    driver = study.start()
    study.wait_for(study.running, driver)
    controller = study.job(0)
    assert controller is not None
    os.kill(int(controller), signal.SIGKILL)
    study.finish(driver)
    study.check(1, steps=40)
    assert study.labels(0) == ["1.0"]


def test_a_trial_that_always_dies_without_progress_fails_after_its_retries(quick_study: NewQuickStudy) -> None:
    study = quick_study("steps=10", f"{N}2", "mode=die", "above=1.0", "hydra.sweeper.max_retries=1", *_one_dies())
    said = study.run()
    assert study.states() == {"FAIL": 1, "COMPLETE": 1}
    assert "lost 2 times in a row without a newer checkpoint (max_retries=1)" in said
    assert study.labels(0) == ["1.0", "2.0"]


@pytest.mark.slow
def test_a_trial_that_dies_again_and_again_but_progresses_completes(quick_study: NewQuickStudy) -> None:
    study = quick_study(
        "steps=10", f"{N}1", "mode=die later", "hydra.sweeper.max_retries=1", *_one_dies(), "save_every=1"
    )
    study.run()
    study.check(1)
    assert len(study.labels(0)) > 3


# -------------------------------------------------------------------- a trial fails by itself


def _one_dies() -> tuple[str, ...]:
    """Two known points, the first of which is above 1.0."""
    return ("hydra.sweeper.enqueue=[{x:1.5,y:1.0},{x:0.5,y:1.0}]",)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("raise", "RuntimeError: step 5 went wrong"),
        ("undefined", "WrongReturn: the task must return a number (not NaN), it returned nan"),
        (
            "word",
            "WrongReturn: the task must return a number (not NaN), it returned 'a word': ValueError: "
            "could not convert string to float: 'a word'",
        ),
        ("exit", "SystemExit: 3"),
    ],
)
def test_a_failure_of_the_trial_itself_is_told_and_not_retried(
    quick_study: NewQuickStudy, mode: str, words: str
) -> None:
    study = quick_study("steps=10", f"{N}2", f"mode={mode}", "above=1.0", *_one_dies())
    said = study.run()
    assert words in said
    first, second = study.stored()
    assert (first.state.name, second.state.name) == ("FAIL", "COMPLETE")
    assert first.user_attrs["trialfleet:error"] == words
    assert study.undisturbed_by_restarts()


def test_too_many_failures_end_the_study(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}8", "mode=raise", "hydra.sweeper.max_failure_rate=0.25")
    said = study.run(code=1)
    assert "trials failed, more than max_failure_rate=0.25 of n_trials=8 allows" in said
    assert study.states()["FAIL"] in (3, 4)  # two ran at the same time
    assert study.states()["RUNNING"] == 0


def test_a_full_disk_is_not_the_trials_fault(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}1", "mode=full", "steps=20")
    said = study.run()
    study.check(1, steps=20)
    assert study.labels(0) == ["1.0", "2.0"]
    assert "again      attempt 2" in said


# -------------------------------------------------------------------- pruning


def test_a_pruned_trial_ends_within_an_evaluation_of_its_verdict(quick_study: NewQuickStudy) -> None:
    # The first is good and over before the others are judged; they start far worse and stay so.
    points = "hydra.sweeper.enqueue=[{x:1.5,y:0.1},{x:0.1,y:0.1},{x:0.11,y:0.1}]"
    study = quick_study(f"{N}3", "hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1", points)
    study.run("hydra.sweeper.n_jobs=1", "steps=30", "seconds=0.1")
    first, *others = study.stored()
    assert first.state.name == "COMPLETE"
    assert [trial.state.name for trial in others] == ["PRUNED", "PRUNED"]
    for trial in others:
        verdict = study.trial(trial.number).verdict_json.read_text()
        found = re.search(r'"prune_at": (\d+)', verdict)
        assert found is not None
        (label,) = study.labels(trial.number)
        ended_at = study.steps(trial.number, label)[-1]
        # The driver looks every 0.1 s, as long as a step takes here; the machine may be busy.
        assert ended_at < 29, "the trial never heard of its verdict"
        assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]


# -------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with little room of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"only who may mount can fill a disk: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_pauses_the_study_and_fails_nothing(small_disk: Path) -> None:
    study = Study(small_disk, f"{N}4", "steps=20", "seconds=0.1", "save_every=1")
    try:
        driver = study.start()
        study.wait_for(lambda: len(study.running()) == 2, driver)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        time.sleep(8.0)
        assert driver.poll() is None, study.report()
        filler.unlink()
        study.finish(driver)
        study.check(4, steps=20)
    finally:
        study.clean_up()


# -------------------------------------------------------------------- Ctrl-C


class LiveTable:
    """A driver at a terminal: what is typed reaches it as from a keyboard, Ctrl-C included."""

    def __init__(self, study: Study) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self.driver = subprocess.Popen(
            # Not in a function between fork and exec: other tests may have brought threads into this process.
            ["setsid", "--ctty", *study.argv()],
            cwd=study.place,
            env={**study.env, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        study.drivers.append(self.driver)
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def shows(self, text: str) -> bool:
        with contextlib.suppress(BlockingIOError, OSError):  # nothing new; or nobody there any more
            while chunk := os.read(self._master, 65536):
                self.shown += chunk.decode(errors="replace")
        return text in self.shown

    def wait_for(self, text: str) -> None:
        assert wait_until(lambda: self.shows(text), PATIENCE), self.shown[-3000:]

    def ended(self) -> int:
        """The exit code; the terminal is read meanwhile, or the driver would wait for it."""
        assert wait_until(lambda: self.shows("\0") or self.driver.poll() is not None, PATIENCE), self.shown[-3000:]
        self.shows("\0")
        return int(self.driver.returncode)


def _at_a_terminal(study: Study) -> LiveTable:
    terminal = LiveTable(study)
    study.wait_for(lambda: terminal.shows("\0") or len(study.running()) == 2, terminal.driver)
    terminal.wait_for("2 running")
    return terminal


def test_ctrl_c_once_asks_and_waiting_takes_the_results_in(new_study: NewStudy) -> None:
    study = new_study(f"{N}6", *LONG)
    terminal = _at_a_terminal(study)
    terminal.type("\x03")
    terminal.wait_for("interrupted: no new trials")
    terminal.type("w\n")
    assert terminal.ended() == 0
    assert "no more trials were started: interrupted" in terminal.shown
    study.check(2, steps=40)
    assert study.undisturbed_by_restarts()  # Ctrl-C did not reach the jobs


@pytest.mark.slow
def test_ctrl_c_twice_detaches_and_leaves_the_jobs_running(new_study: NewStudy) -> None:
    study = new_study(f"{N}2", *LONG)
    terminal = _at_a_terminal(study)
    terminal.type("\x03")
    terminal.wait_for("interrupted: no new trials")
    terminal.type("\x03")
    assert terminal.ended() == 0
    assert "2 trial(s) are unfinished, their jobs left alone" in terminal.shown
    study.run()
    study.check(2, steps=40)
    assert study.undisturbed_by_restarts()


@pytest.mark.slow
def test_ctrl_c_and_resume_goes_on_as_if_nothing_had_been(new_study: NewStudy) -> None:
    study = new_study(f"{N}3", *LONG)
    terminal = _at_a_terminal(study)
    terminal.type("\x03")
    terminal.wait_for("interrupted: no new trials")
    terminal.type("r\n")
    assert terminal.ended() == 0
    study.check(3, steps=40)


@pytest.mark.slow
def test_ctrl_c_and_cancel_ends_the_jobs_and_tells_the_trials_so(new_study: NewStudy) -> None:
    study = new_study(f"{N}4", "mode=hang")
    terminal = _at_a_terminal(study)
    workers = [study.trial(number).claims()[-1].process for number in (0, 1)]
    terminal.type("\x03")
    terminal.wait_for("interrupted: no new trials")
    terminal.type("c\n")
    assert terminal.ended() == 0
    assert wait_until(lambda: not any(worker.is_alive() for worker in workers), PATIENCE)
    assert study.states() == {"FAIL": 2}
    assert study.stored()[0].user_attrs["trialfleet:error"] == "Cancelled: the study was cancelled"
    study.overrides = (f"{N}4",)
    study.run("study.allow_changes=[mode]")  # those two do not count as failures
    assert study.states() == {"FAIL": 2, "COMPLETE": 2}

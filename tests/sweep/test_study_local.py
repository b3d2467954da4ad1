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
from tests.tasks.descent import undisturbed
from tests.tasks.forked import QuickStudy
from tests.tasks.studies import PATIENCE, NewStudy, Study
from trialfleet.sweep.study.lease import Lease

NewQuickStudy = Callable[..., QuickStudy]
N = "hydra.sweeper.n_trials="
LONG = ("steps=40", "seconds=0.05")  # two seconds: long enough to do something to it


@pytest.mark.everyday
@pytest.mark.slow
def test_a_study_runs_to_its_end_and_then_has_nothing_to_do(new_study: NewStudy) -> None:
    study = new_study(f"{N}4")
    study.run()
    study.check(4)
    assert study.undisturbed_by_restarts()
    assert "is finished: 4 of 4" in study.run()
    assert len(study.stored()) == 4


def test_more_trials_go_on_where_the_study_ended(finished_study: NewQuickStudy) -> None:
    study = finished_study(f"{N}2")
    study.run(f"{N}3")
    study.check(3, steps=4)
    assert len({trial.params["x"] for trial in study.stored()}) == 3


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
    study = new_study(f"{N}3", "hydra.sweeper.n_jobs=3")
    for _ in range(2):
        driver = study.start()
        time.sleep(chance.uniform(0.5, 3.0))
        driver.kill()
        driver.wait()
    study.run()
    study.check(3)
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


def test_a_second_driver_is_refused_and_told_who_holds_the_study(finished_study: NewQuickStudy) -> None:
    """Nor is the study put aside under its driver."""
    study = finished_study(f"{N}2")
    lease = Lease(study.folder / "driver.lock", stale_after=60.0, beat_every=0.05)
    lease.acquire()
    try:
        for more in (f"{N}3", "study.fresh=true"):
            said = study.run(more, code=1)
            assert f"this study has a driver already: process {os.getpid()} on {os.uname().nodename}" in said
        assert study.numbers() == [0, 1]
    finally:
        lease.release()


@pytest.mark.slow
def test_a_suspended_driver_is_replaced_and_writes_nothing_when_it_wakes(new_study: NewStudy) -> None:
    study = new_study(f"{N}2", *LONG)
    suspended = study.start()
    study.wait_for(study.running, suspended)
    suspended.send_signal(signal.SIGSTOP)
    said = study.run()
    assert "is silent; taking over in 3 s" in said
    study.check(2, steps=40)

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
    study = new_study(f"{N}2", "steps=40", "seconds=0.2")  # longer than the second driver takes to start
    for lives, number in enumerate((signal.SIGTERM, signal.SIGINT), 1):
        driver = study.start()
        study.wait_for(lambda lives=lives: study.said().count("  started ") == 2 * lives, driver)  # type: ignore[misc]
        driver.send_signal(number)
        study.finish(driver, code=128 + number)
        assert "detached; 2 trial(s) are unfinished, their jobs left alone" in study.said()
    study.run()
    study.check(2, steps=40)
    assert study.undisturbed_by_restarts()


# -------------------------------------------------------------------- a job dies


def test_a_killed_worker_goes_on_from_its_checkpoint_and_one_without_a_controller_is_followed(
    new_study: NewStudy,
) -> None:
    study = new_study(f"{N}2", "steps=60", "seconds=0.05")
    driver = study.start()
    study.wait_for(lambda: len(study.saved(0)) >= 3, driver)
    os.kill(study.worker(0), signal.SIGKILL)
    study.wait_for(lambda: 1 in study.running(), driver)
    controller = study.job(1)
    assert controller is not None
    os.kill(int(controller), signal.SIGKILL)
    study.finish(driver)
    study.check(2, steps=60)
    assert study.labels(0) == ["1.0", "2.0"]
    assert study.steps(0, "2.0")[0] >= 7
    assert study.labels(1) == ["1.0"]


# -------------------------------------------------------------------- a trial fails by itself


# Each trial does something else: see descent.MODES.
ONE_MODE_EACH = """
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tests.tasks import dying

task, modes = dying.task, {modes!r}

def each(config):
    return task(OmegaConf.merge(config, dict(mode=modes[HydraConfig.get().job.num])))

dying.task = each
"""
NO_NUMBER = "WrongReturn: the task must return a number (not NaN), it returned"
FAILURES = {  # what is told of the trial; and how often it was run, with max_retries=1
    "raise": ("RuntimeError: step 5 went wrong", 1),
    "undefined": (f"{NO_NUMBER} nan", 1),
    "word": (f"{NO_NUMBER} 'a word': ValueError: could not convert string to float: 'a word'", 1),
    "exit": ("SystemExit: 3", 1),
    "die": ("Lost: lost 2 times in a row without a newer checkpoint (max_retries=1)", 2),
}
LOSSES = {  # a trial that gets on completes, however often it is lost; and a full disk is not its fault
    "die later": 5,
    "full": 2,
    None: 1,
}


def test_a_trials_own_failure_is_told_and_not_retried_and_a_lost_run_is(quick_study: NewQuickStudy) -> None:
    modes = [*FAILURES, *LOSSES]
    jobs = ("hydra.sweeper.n_jobs=4", "hydra.sweeper.max_retries=1", "hydra.sweeper.max_failure_rate=1")
    study = quick_study(f"{N}{len(modes)}", "steps=10", "save_every=1", *jobs)
    said = study.run(first=ONE_MODE_EACH.format(modes=modes))
    assert "again      attempt 2" in said
    trials = dict(zip(modes, study.stored(), strict=True))
    for mode, (words, runs) in FAILURES.items():
        assert trials[mode].state.name == "FAIL"
        assert words in said
        assert trials[mode].user_attrs["trialfleet:error"] == words
        assert len(study.labels(trials[mode].number)) == runs, mode
    for mode, runs in LOSSES.items():
        trial = trials[mode]
        assert trial.state.name == "COMPLETE"
        assert trial.value == undisturbed(trial.params["x"], trial.params["y"], 10)
        assert len(study.labels(trial.number)) == runs, mode


def test_too_many_failures_end_the_study(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}8", "mode=raise", "hydra.sweeper.max_failure_rate=0.25")
    said = study.run(code=1)
    assert "trials failed, more than max_failure_rate=0.25 of n_trials=8 allows" in said
    assert study.states()["FAIL"] in (3, 4)  # two ran at the same time
    assert study.states()["RUNNING"] == 0


def test_a_finished_study_that_failed_says_so_each_time(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}1", "mode=raise")
    for _ in range(2):
        assert "raise hydra.sweeper.n_trials, or start anew, once it is mended" in study.run(code=1)
    assert len(study.stored()) == 1


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
    study = Study(small_disk, f"{N}3", "steps=20", "seconds=0.1", "save_every=1")
    try:
        driver = study.start()
        study.wait_for(lambda: len(study.running()) == 2, driver)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        time.sleep(4.0)
        assert driver.poll() is None, study.report()
        filler.unlink()
        study.finish(driver)
        study.check(3, steps=20)
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
    assert "unknown" not in terminal.shown
    return terminal


def test_ctrl_c_asks_and_the_study_goes_on_or_takes_the_last_results_in(new_study: NewStudy) -> None:
    study = new_study(f"{N}8", *LONG)
    terminal = _at_a_terminal(study)
    terminal.type("\x03")
    terminal.wait_for("interrupted: no new trials")
    terminal.type("r\n")
    study.wait_for(lambda: terminal.shows("\0") or len(study.numbers()) > 2, terminal.driver)
    terminal.shown = ""
    terminal.type("\x03")
    terminal.wait_for("interrupted: no new trials")
    terminal.type("w\n")
    assert terminal.ended() == 130
    assert "no more trials were started: interrupted" in terminal.shown
    count = len(study.stored())
    assert 2 < count < 8
    study.check(count, steps=40)
    assert study.undisturbed_by_restarts()  # Ctrl-C did not reach the jobs


@pytest.mark.slow
def test_ctrl_c_twice_detaches_and_a_later_commands_ctrl_c_and_cancel_ends_the_jobs(new_study: NewStudy) -> None:
    study = new_study(f"{N}4", "mode=hang")
    terminal = _at_a_terminal(study)
    workers = [study.trial(number).claims()[-1].process for number in (0, 1)]
    terminal.type("\x03")
    terminal.wait_for("interrupted: no new trials")
    terminal.type("\x03")
    assert terminal.ended() == 130
    assert "2 trial(s) are unfinished, their jobs left alone" in terminal.shown
    assert all(worker.is_alive() for worker in workers)

    terminal = _at_a_terminal(study)
    terminal.type("\x03")
    terminal.wait_for("interrupted: no new trials")
    terminal.type("c\n")
    assert terminal.ended() == 130
    assert wait_until(lambda: not any(worker.is_alive() for worker in workers), PATIENCE)
    assert study.undisturbed_by_restarts()
    assert study.states() == {"FAIL": 2}
    assert study.stored()[0].user_attrs["trialfleet:error"] == "Cancelled: the study was cancelled"
    study.overrides = (f"{N}4",)
    study.run("study.allow_changes=[mode]")  # those two do not count as failures
    assert study.states() == {"FAIL": 2, "COMPLETE": 2}

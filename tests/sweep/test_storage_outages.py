"""Storage and file system that fail for a while, under a driver or a job at work: it says so, waits, and goes on."""

import errno
import os
import shutil
from collections.abc import Callable, Iterable

import optuna
import pytest

from tests.sweep import postgres
from tests.tasks.forked import QuickStudy
from tests.tasks.studies import NewStudy

NewQuickStudy = Callable[..., QuickStudy]
N = "hydra.sweeper.n_trials="
CALLS = 130  # more than a driver makes that goes on with a study of one trial to three
JOBS_CALLS = 20  # more than a job makes
LAST_WORDS = (".budget.json", "driver.lock")  # are saved on the way out, if the disk lets us

# From its call number `at` on, so many of a process's calls to the study's files, and appends to the journal, fail.
# Of the jobs, this happens to one.
OUTAGE = """
import os, threading
from trialfleet.worker import main as worker
from trialfleet.worker import task
from trialfleet.sweep import file_system_failures, outages, session
from trialfleet.sweep.study import consistency
from trialfleet.sweep.study.journal import OwnJournal
from trialfleet.sweep.ui import summary
from trialfleet.trial import sweep_run

me, count, struck, over = os.getpid(), 0, False, False
outages.FIRST_REST = outages.LONGEST_REST = outages.Outages._rest = session.START_AGAIN = 0.02
file_system_failures.FIRST_PAUSE = 0.02
worker.BEGIN_PATIENCE = worker.COMMIT_PATIENCE = task.WORD_PATIENCE = sweep_run.PATIENCE = 0.2

def last_words(*given):  # what cannot be read for these is left out of them
    global over
    over = True
    return show(*given)

show, summary._show_best = summary._show_best, last_words

def meet(path):
    global count, struck
    if over:
        return
    concerned = (os.getpid() == me) == ({who!r} == "driver") and threading.current_thread() is threading.main_thread()
    if not concerned or "/sweeps/" not in str(path):
        return
    count += 1
    if {at} <= count < {at} + {times} and (struck or {who!r} == "driver" or not os.path.exists("../struck")):
        struck = True
        with open("{place}/struck", "a") as file:
            print(path, file=file)
        raise OSError({number}, os.strerror({number}), str(path))

def failing(real):
    def call(path, *more, **named):
        meet(path)
        return real(path, *more, **named)
    return call

for name in ("replace", "link", "open", "rename", "unlink", "listdir"):
    setattr(os, name, failing(getattr(os, name)))
append = OwnJournal.append_logs
OwnJournal.append_logs = lambda self, logs: (meet(self._file_path), append(self, logs))[1]
"""
FOR_EVER = 10**6


def outage(study: QuickStudy, at: int, times: int, number: int = errno.EIO, who: str = "driver") -> str:
    """What makes the calls of a driver, or of a job, fail."""
    text = OUTAGE.replace("../struck", f"{study.place}/struck")
    return text.format(at=at, times=times, number=number, who=who, place=study.place)


def struck(study: QuickStudy) -> list[str]:
    """The files, by their path in the study's folder, at which calls failed."""
    log = study.place / "struck"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split("/sweeps/descent/")[-1] for line in lines]


def survive(study: QuickStudy, outages: Iterable[tuple[int, int]]) -> int:
    """Let a study of one trial go on to three in an outage, and judge it, for each of these: at a call, an error.

    Returns:
        how often anything was struck.
    """
    begun, times = study.place.with_name(f"{study.place.name}.begun"), 0
    shutil.copytree(study.place, begun, symlinks=True)
    for at, number in outages:
        shutil.rmtree(study.place)
        shutil.copytree(begun, study.place, symlinks=True)
        said = study.run(f"{N}3", first=outage(study, at, 2, number))
        study.check(3, steps=4)
        assert study.undisturbed_by_restarts(), f"at call {at}:\n{study.report()}"
        files = struck(study)
        silent = all(file.startswith(LAST_WORDS) for file in files)
        assert silent or os.strerror(number) in said, f"at call {at}, {files}:\n{said}"
        times += bool(files)
    return times


def test_errors_that_pass_are_waited_for_wherever_they_come(finished_study: NewQuickStudy) -> None:
    """At some calls, of each kind of error; benchmarks/proofs takes many more."""
    outages = [(5, errno.EIO), (18, errno.ESTALE), (65, errno.EIO), (78, errno.ESTALE)]
    assert survive(finished_study(f"{N}1"), outages) > 1


def survive_as_job(study: QuickStudy, at: int, times: int) -> bool:
    """Let the calls of one of two jobs fail, and judge the study; whether anything was struck."""
    study.run(f"{N}2", first=outage(study, at, times, who="job"))
    study.check(2, steps=4)
    return bool(struck(study))


@pytest.mark.parametrize("times", [2, FOR_EVER])
def test_errors_of_a_jobs_file_system_fail_no_trial(quick_study: NewQuickStudy, times: int) -> None:
    """Those that pass, and those that last as long as the run does, in the task as well as around it."""
    calls = (8, 14) if times == FOR_EVER else (1, 8)
    assert sum(survive_as_job(quick_study(), at, times) for at in calls) >= 1


def test_a_driver_leaves_cleanly_when_patience_is_over_and_the_same_command_goes_on(
    finished_study: NewQuickStudy,
) -> None:
    study = finished_study(f"{N}1")
    said = study.run(f"{N}3", "hydra.sweeper.patience=0.2", first=outage(study, 60, FOR_EVER))
    assert "still so after 0 s (hydra.sweeper.patience)" in " ".join(said.split())
    assert "resume:" in said
    assert "Traceback" not in said
    study.run(f"{N}3")
    study.check(3, steps=4)


def start_on_a_full_disk(study: QuickStudy, calls: Iterable[int]) -> None:
    """The disk is full from this call on, in one command after the other; then there is room."""
    for at in calls:
        said = study.run(code=1, first=outage(study, at, FOR_EVER, errno.ENOSPC))
        assert f"{study.folder}" in said
        assert "No space left on device" in said
        assert "make room there; the same command goes on then" in said
        assert "Traceback" not in said
    study.run()
    study.check(1, steps=4)


def test_a_disk_that_is_full_at_the_start_is_said_in_a_few_words(quick_study: NewQuickStudy) -> None:
    """At two calls; benchmarks/proofs has more."""
    start_on_a_full_disk(quick_study(f"{N}1"), (1, 7))


@pytest.mark.slow
def test_a_database_may_be_restarted_under_a_study(new_study: NewStudy) -> None:
    with postgres.running_or_skip() as server:
        study = new_study(f"{N}4", "hydra.sweeper.n_jobs=2", f"hydra.sweeper.storage={server.url}", "seconds=0.1")
        driver = study.start()
        study.wait_for(study.running, driver)
        server.stop()
        study.wait_for(lambda: "waiting until it passes" in study.said(), driver)
        server.start()
        study.finish(driver)
        with postgres.closed_after(optuna.storages.RDBStorage(server.url)) as storage:
            trials = optuna.load_study(study_name="descent", storage=storage).get_trials()
            study.stored = lambda: trials  # type: ignore[method-assign]  # it looks into the folder
            study.check(4)
    assert study.undisturbed_by_restarts()


AT_THE_END = """
import errno, os
from trialfleet.sweep import session

def conclude(*given):
    calls, replace = [], os.replace
    def failing(*paths):
        calls.append(paths)
        if len(calls) < 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(paths[0]))
        return replace(*paths)
    os.replace = failing
    return finish(*given)

finish, session.conclude = session.conclude, conclude
"""


def test_an_error_at_the_last_write_is_shown_while_it_is_waited_for(quick_study: NewQuickStudy) -> None:
    study = quick_study()
    said = study.run(f"{N}1", first=AT_THE_END)
    assert os.strerror(errno.EIO) in said
    assert "hydra.sweeper.patience" in said
    study.check(1, steps=4)

"""What ends the driver's rest before its time, and what does not."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trialfleet.sweep import watcher
from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.wakes import Wakes
from trialfleet.sweep.watcher import Watcher
from trialfleet.trial.worker_folder import WorkerFolder

LONG = 60.0  # seconds; only a rest that nothing ends would take so long


@pytest.fixture
def wakes(tmp_path: Path) -> Iterator[Wakes]:
    """Of a study with a trial that has begun."""
    (tmp_path / "trials" / "00003").mkdir(parents=True)
    made = Wakes(tmp_path, lambda: None)
    made.follow(3, tmp_path / "trials" / "00003")
    assert made.wait(LONG, ()) == {3}  # what was there before it was watched may be new
    yield made
    made.close()


def later(do: Callable[[], object]) -> None:
    threading.Timer(0.05, do).start()


def test_a_claim_a_report_and_a_result_are_news_of_their_trial(wakes: Wakes, tmp_path: Path) -> None:
    trial = tmp_path / "trials" / "00003"
    run = trial / "runs" / "1.0"
    later(lambda: run.mkdir(parents=True))
    assert wakes.wait(LONG, ()) == {3}
    for file in (run / "claim", run / "metrics.jsonl", trial / "result.json"):
        later(file.touch)
        assert wakes.wait(LONG, ()) == {3}
    with open(run / "metrics.jsonl", "a") as reports:
        reports.write("one more")
        reports.flush()
        assert wakes.wait(LONG, ()) == {3}


def test_other_files_and_trials_that_have_ended_are_none(wakes: Wakes, tmp_path: Path) -> None:
    trial = tmp_path / "trials" / "00003"
    (trial / "trial.json").touch()
    (trial / "verdict.json").touch()
    assert wakes.wait(0.01, ()) == set()
    wakes.forget(trial)
    (trial / "result.json").touch()
    assert wakes.wait(0.01, ()) == set()


def test_a_worker_that_waits_and_a_request_end_the_rest(wakes: Wakes, tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "requests").mkdir()
    wakes.wait(0.01, ())
    (tmp_path / "workers" / "uuid.0").mkdir()
    assert wakes.wait(LONG, ()) == set()
    later(lambda: WorkerFolder(tmp_path, "uuid.0").wait_for(1, frozenset()))
    assert wakes.wait(LONG, ()) == set()
    later((tmp_path / "requests" / "1.json").touch)
    assert wakes.wait(LONG, ()) == set()


def test_the_end_of_a_process_ends_the_rest(wakes: Wakes) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        handle = os.pidfd_open(process.pid)
        assert wakes.wait(LONG, (handle,)) == set()
        os.close(handle)


def test_the_end_of_a_process_ends_the_rest_while_others_report(
    wakes: Wakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "trials" / "00003" / "runs" / "1.0"
    run.mkdir(parents=True)
    wakes.wait(LONG, ())
    monkeypatch.setattr("trialfleet.sweep.wakes.LONGEST_REST", LONG)
    monkeypatch.setattr("trialfleet.sweep.wakes.REPORTS_REST", 1e9)
    handle = os.eventfd(1)  # can be read, as that of a process that has ended
    (run / "metrics.jsonl").touch()
    began = time.monotonic()
    assert wakes.wait(LONG, (handle,)) == {3}
    assert time.monotonic() - began < LONG / 2
    os.close(handle)


def test_reports_wait_for_others_as_long_as_turns_are_long_and_a_result_waits_for_nothing(
    wakes: Wakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [tmp_path / "trials" / f"0000{number}" / "runs" / "1.0" for number in (4, 5)]
    for number, run in zip((4, 5), runs, strict=True):
        run.mkdir(parents=True)
        wakes.follow(number, run.parent.parent)
    assert wakes.wait(LONG, ()) == {4, 5}
    monkeypatch.setattr("trialfleet.sweep.wakes.REPORTS_REST", 1e9)  # as if the turn had been a long one

    monkeypatch.setattr("trialfleet.sweep.wakes.LONGEST_REST", 0.2)
    later(lambda: [(run / "metrics.jsonl").touch() for run in runs])
    assert wakes.wait(LONG, ()) == {4, 5}  # both in one turn, and before the rest of a minute is over

    monkeypatch.setattr("trialfleet.sweep.wakes.LONGEST_REST", LONG)
    later(lambda: [(runs[0] / "metrics.jsonl").write_text("one more"), (runs[1].parent.parent / "result.json").touch()])
    began = time.monotonic()
    assert wakes.wait(LONG, ()) == {4, 5}
    assert time.monotonic() - began < LONG / 2


def test_where_nothing_is_told_it_rests_for_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutInotify:
        def inotify_init1(self, flags: int) -> int:
            return -1

    monkeypatch.setattr(watcher.ctypes, "CDLL", lambda name, use_errno: WithoutInotify())
    deaf = Watcher()
    assert not deaf.add(tmp_path)
    (tmp_path / "new").touch()
    began = time.monotonic()
    assert deaf.wait(0.02) == ([], False)
    assert time.monotonic() - began >= 0.02
    deaf.close()


def test_a_trial_is_looked_at_after_its_rest_or_when_it_is_woken() -> None:
    trial = ActiveTrial.__new__(ActiveTrial)
    trial.started, trial._running_since = 1.0, None
    trial.rest(100.0, least=0.25, longest=2.0)
    assert trial._next_look == 100.25
    trial.rest(110.0, least=0.25, longest=2.0)
    assert trial._next_look == 110.5
    trial.rest(300.0, least=0.25, longest=2.0)
    assert trial._next_look == 302.0
    trial.wake()
    assert trial._next_look == 0.0


def test_a_trial_with_a_link_to_one_of_its_runs_is_let_go(wakes: Wakes, tmp_path: Path) -> None:
    trial = tmp_path / "trials" / "00003"
    (trial / "runs" / "1.0").mkdir(parents=True)
    (trial / "runs" / "latest").symlink_to("1.0")
    assert wakes.wait(LONG, ()) == {3}
    wakes.forget(trial)
    (trial / "runs" / "1.0" / "metrics.jsonl").touch()
    assert wakes.wait(0.01, ()) == set()

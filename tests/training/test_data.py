"""Positions, plans and who reads what."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from jobs.cluster.processes import wait_until
from tests.training.toy import ToySource
from trialfleet.training.data import EvaluationOrder, Feed, Loader, Position, total_steps
from trialfleet.training.decoding import _begin_worker, decoded
from trialfleet.training.mesh import batch_sharding, make_mesh

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def loader(toy):
    mesh = make_mesh(toy("mesh.data=2", "mesh.fsdp=2").mesh)
    return Loader(ToySource("train", 8), batch_sharding(mesh), 8, 2)


def rows(feed, count):
    return [feed.next() for _ in range(count)]


def test_a_feed_goes_on_from_any_position(loader):
    whole = Feed(loader, 3, Position(0, 0, 0), None, 2)
    batches = rows(whole, 20)
    whole.close()
    for start in (0, 5, 7, 8, 13):
        at = batches[start].position
        feed = Feed(loader, 3, at, None, 2)
        for expected, got in zip(batches[start:], rows(feed, 20 - start), strict=True):
            assert got.position == expected.position
            for name, leaf in expected.batch.items():
                assert np.array_equal(leaf, got.batch[name])
        feed.close()


def test_an_epoch_has_every_row_once_and_its_own_order(loader):
    feed = Feed(loader, 0, Position(0, 0, 0), None, 2)
    batches = rows(feed, 16)
    feed.close()
    epochs = [[int(i) for fed in part for i in np.ravel(fed.batch["id"])] for part in (batches[:8], batches[8:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(64))
    assert epochs[0] != epochs[1]
    assert [fed.ends_epoch for fed in batches] == [*[False] * 7, True] * 2


def test_noise_belongs_to_the_position(loader):
    feed = Feed(loader, 0, Position(0, 0, 0), None, 2)
    batches = rows(feed, 16)
    feed.close()
    noise = np.concatenate([np.ravel(fed.batch["noise"]) for fed in batches])
    assert len(np.unique(noise)) == noise.size


@pytest.mark.slow
def test_processes_make_the_same_batches_and_are_gone_afterwards(loader):
    """From any position, those of evaluations, too; what goes wrong in one of them is raised here."""
    start, before = Position(1, 3, 0), set(psutil.Process().children(recursive=True))
    alone = Feed(loader, 3, start, None, 2)
    expected = rows(alone, 8)
    alone.close()
    feed = Feed(loader, 3, start, None, 2, workers=2)
    for one, other in zip(expected, rows(feed, 8), strict=True):
        assert one[1:] == other[1:]
        for name, leaf in one.batch.items():
            assert np.array_equal(leaf, other.batch[name])
    feed.close()
    again = EvaluationOrder(loader.batches, loader.source.epoch(0, 0))
    made = decoded(again, 1, 2)
    assert [next(made).position.plan for _ in range(10)] == [*range(8), 0, 1]
    made.close()
    broken = decoded(Broken(), 1, 2)
    with pytest.raises(OSError, match="the disk is gone"):
        next(broken)
    left = set(psutil.Process().children(recursive=True)) - before
    assert {" ".join(process.cmdline()) for process in left if "spawn_main" in " ".join(process.cmdline())} == set()


@pytest.mark.slow
def test_processes_leave_signals_to_the_training_and_end_when_it_is_gone(tmp_path):
    """Those that a launcher sends to all processes of a job mean the training, which saves and ends."""
    code = (
        "import os, signal, sys, time, psutil\n"
        "from trialfleet.training.decoding import decoded\n"
        "from tests.training.test_data import Numbers\n"
        "made = decoded(Numbers(), 2, 2)\n"
        "next(made)\n"
        "children = psutil.Process().children(recursive=True)\n"
        "found = [one for one in children if 'spawn_main' in ' '.join(one.cmdline())]\n"
        "for one in found:\n"
        "    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2): one.send_signal(number)\n"
        "assert [next(made) for _ in range(9)] == list(range(1, 10))\n"
        "print(*(one.pid for one in found), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "training.py"
    script.write_text(f"if __name__ == '__main__':\n{textwrap.indent(code, '    ')}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    numbers = list(map(int, done.stdout.split()))
    assert len(numbers) == 2
    assert wait_until(lambda: not any(map(psutil.pid_exists, numbers)), 30)


@pytest.mark.slow
def test_a_process_outlives_the_thread_that_started_it():
    """One that is killed with a lock in its hand leaves a closing that waits for ever."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=echo, args=(theirs,), daemon=True)
    begun = threading.Event()
    thread = threading.Thread(target=lambda: (process.start(), begun.wait()))
    thread.start()
    for said in ("a", "b", "end"):
        ours.send(said)
        assert ours.poll(60)
        assert ours.recv() == said
        begun.set()
        thread.join()
    process.join(60)
    assert process.exitcode == 0


def echo(theirs):
    _begin_worker(0, 1)
    said = ""
    while said != "end":
        theirs.send(said := theirs.recv())


class Numbers:
    """An order of numbers."""

    def __len__(self):
        return 1000

    def __getitem__(self, number):
        return number


class Broken:
    """An order whose first element cannot be made."""

    def __len__(self):
        return 1

    def __getitem__(self, number):
        raise OSError("the disk is gone")


def test_an_error_in_the_source_is_raised_where_the_batch_is_wanted(loader, monkeypatch):
    def broken(row, rng):
        raise OSError("the disk is gone")

    monkeypatch.setattr(loader.source, "example", broken)
    feed = Feed(loader, 0, Position(0, 0, 0), None, 2)
    with pytest.raises(OSError, match="the disk is gone"):
        feed.next()
    feed.close()


def test_steps_are_the_sum_of_the_epochs(toy):
    source = ToySource("train", 8)
    for overrides, steps in [
        (["training.max_steps=5"], 5),
        (["training.max_steps=null", "training.max_epochs=3"], 24),
        (["training.max_steps=20", "training.max_epochs=3"], 20),
        (["training.max_steps=30", "training.max_epochs=3"], 24),
        (["training.max_steps=null", "training.max_epochs=3", "training.overfit_batches=2"], 6),
    ]:
        assert total_steps(source, 0, toy(*overrides).training, 1) == steps

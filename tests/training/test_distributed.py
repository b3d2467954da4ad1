"""One training by two processes: the same numbers as by one, and one will."""

import signal
import socket
import time
from pathlib import Path

import jax
import pytest

from tests import xla
from tests.training.harness import TOY
from tests.training.lives import start
from trialfleet.training.distributed import _first_host, _from_environment, lost_a_peer
from trialfleet.trial import metrics, records

MESH = (
    "mesh.data=2",
    "mesh.fsdp=2",
    "training.max_steps=12",
    "training.report_every=1",
    "training.checkpoints.every_steps=100",
)


@pytest.fixture
def shared(compiled):
    """The toy's training; its programs are compiled once for all processes, whichever worker runs these tests."""
    return [*TOY, *MESH, f"runtime.compilation_cache={compiled}"]


def start_two(folder: Path, earlier: list[Path], *overrides: str):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        start(
            folder,
            earlier,
            *overrides,
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
            XLA_FLAGS=xla.flags(devices=2),
        )
        for index in range(2)
    ]


def losses(folder: Path) -> dict[int, float]:
    lines = metrics.read_from(folder / "metrics.jsonl")[0]
    return {line.step: line.values["train/loss"] for line in lines if "train/loss" in line.values}


@pytest.mark.slow
def test_two_processes_train_stop_together_and_are_gone_on_with_by_one(tmp_path, shared):
    """The default workload's in benchmarks/proofs."""
    together(tmp_path, shared)


def together(tmp_path, shared):
    """Train by two processes, compare with one, stop both by a signal to one, and go on by one."""
    both, alone, cut, rest = (tmp_path / name for name in ("both", "alone", "cut", "rest"))
    assert [process.wait() for process in start_two(both, [], *shared)] == [0, 0]
    one = start(alone, [], *shared, XLA_FLAGS=xla.flags(devices=4))
    assert one.wait() == 0
    assert losses(both) == pytest.approx(losses(alone), abs=1e-5)
    scores = records.read(both / "result0.json")["metrics"]
    assert scores == records.read(both / "result1.json")["metrics"]

    # A signal to the second process only: both leave at the same step, with one checkpoint of all shards.
    first, second = start_two(cut, [], *shared, "training.max_steps=100000")
    while not any(step >= 4 for step in losses(cut)):
        assert first.poll() is None
        time.sleep(0.02)
    second.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=60) for process in (first, second)] == [0, 0]
    ended = [records.read(cut / f"result{index}.json") for index in range(2)]
    assert ended[0]["why"] == ended[1]["why"]
    (saved,) = (cut / "checkpoints").glob("*/manifest.json")
    step = int(saved.parent.name)
    more = [*shared, f"training.max_steps={step + 3}", "training.resume=must"]
    assert start(rest, [cut], *more, XLA_FLAGS=xla.flags(devices=4)).wait() == 0
    assert sorted(losses(rest)) == [step + 1, step + 2, step + 3]


@pytest.mark.slow
def test_a_process_that_dies_takes_the_others_with_it(tmp_path, shared):
    folder = tmp_path / "run"
    first, second = start_two(folder, [], *shared, "training.max_steps=100000")
    while not any(step >= 4 for step in losses(folder)):
        assert first.poll() is None
        time.sleep(0.02)
    second.kill()
    assert second.wait() == -signal.SIGKILL
    assert first.wait(timeout=90) != 0


def test_slurm_says_who_takes_part():
    slurm = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_STEP_NODELIST": "gpu[07-08]",
        "SLURM_JOB_ID": "5",
        "SLURM_STEP_ID": "0",
    }
    address, count, index = _from_environment(slurm)
    other, *_ = _from_environment({**slurm, "SLURM_STEP_ID": "1"})
    assert address.startswith("gpu07:")
    assert (count, index) == (2, 1)
    elsewhere, *_ = _from_environment({**slurm, "SLURM_SUBMIT_DIR": "/another/study"})
    assert len({address, other, elsewhere}) == 3  # two steps of one job must not meet at one port
    assert _from_environment({**slurm, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert _from_environment({}) is None


@pytest.mark.parametrize(
    ("nodes", "first"), [("n1", "n1"), ("a,b", "a"), ("gpu[07-08]", "gpu07"), ("rack2-n[3,5-9],x", "rack2-n3")]
)
def test_the_first_host_of_a_list(nodes, first):
    assert _first_host(nodes) == first


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ValueError("UNKNOWN: Gloo all-reduce failed: Read error [10.0.0.1]:9139: Connection reset by peer"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: NCCL operation ncclGroupEnd() failed: unhandled system error"), True),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Task is not reachable"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"), False),
        (ValueError("operands could not be broadcast together"), False),
        (FileNotFoundError("no such data"), False),
    ],
)
def test_the_loss_of_another_process_is_told_from_a_fault_of_ones_own(monkeypatch, error, lost):
    assert not lost_a_peer(error)  # of one process alone
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert lost_a_peer(error) is lost

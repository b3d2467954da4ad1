"""Exact resume: a training that was killed anywhere ends as if it had not been, bit for bit."""

import gc
import os
import signal
import time
from pathlib import Path

import pytest

from tests.training.harness import SMALL, TOY, after
from tests.training.lives import arrays_of, killed_at, newest, start, values_of
from tests.workloads.decoder.small import SMALL as SMALL_GRPO
from tests.workloads.mvfoul.rendered import SMALL as SMALL_MVFOUL
from tests.workloads.test_grpo_training import BASE, POLICY
from trialfleet.trial import metrics, records

pytestmark = pytest.mark.slow

DIGITS_MLP = Path(__file__).parents[2] / "examples" / "digits_mlp"

ASR = [
    *SMALL,
    "training.max_steps=60",
    "training.report_every=1",
    "training.eval_every=10",
    "training.checkpoints.every_steps=7",
    "training.checkpoints.keep_last=2",
]
MVFOUL = [
    *SMALL_MVFOUL,
    "freezing=mvfoul_progressive",
    "model.norm=batch",
    "loss.view_consistency=0.3",
    "training.ema_decay=0.99",
    "training.max_epochs=4",
    "training.report_every=1",
    "training.checkpoints.every_steps=4",
]
ARRAYS = [  # of the example, from outside of the package
    f"hydra.searchpath=[file://{DIGITS_MLP / 'conf'}]",
    "workload=digits_mlp",
    "training.max_steps=60",
    "training.report_every=1",
    "training.eval_every=10",
    "training.checkpoints.every_steps=7",
    "mesh.data=1",
]
GRPO = [*SMALL_GRPO, *POLICY, "training.max_steps=16", "training.checkpoints.every_steps=3"]  # two updates a round


def survive(tmp_path, overrides, kills):
    """Let one life of a training after the other be killed at a step, and compare the end with an uncut training's."""
    overrides = [*overrides, f"runtime.compilation_cache={tmp_path / 'cache'}"]
    if "workload=grpo" in overrides:
        assert start(tmp_path / "base", [], *SMALL_GRPO, *BASE).wait() == 0
        overrides.append(f"training.init_from={newest(tmp_path / 'base')}")
    whole, cut = tmp_path / "whole", [tmp_path / f"cut{n}" for n in range(len(kills) + 1)]
    assert start(whole, [], *overrides).wait() == 0
    for n, step in enumerate(kills):
        killed_at(start(cut[n], cut[:n][::-1], *overrides), cut[n], step)
    assert start(cut[-1], cut[:-1][::-1], *overrides).wait() == 0

    resumed, uncut = records.read(cut[-1] / "result0.json"), records.read(whole / "result0.json")
    assert resumed["notes"]["resumed_from"] > 0
    assert resumed["metrics"] == uncut["metrics"]
    assert values_of(*cut) == values_of(whole)
    assert arrays_of(cut[-1]) == arrays_of(whole)
    # A process that finds its programs in the cache compiles none, and imports what it needs only.
    assert resumed["notes"]["compilations"]["cache_misses"] == 0
    assert not {"optuna", "mlflow", "sequentia"} & set(resumed["modules"])


def test_a_training_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    """Of each workload in benchmarks/proofs; the others' tests cut a training within its process."""
    survive(tmp_path, ASR, (9, 24))


def test_a_torn_entry_of_the_compilation_cache_is_compiled_anew(tmp_path):
    short = [*TOY, "training.max_steps=6", f"runtime.compilation_cache={tmp_path / 'cache'}"]
    assert start(tmp_path / "first", [], *short).wait() == 0
    entries = list((tmp_path / "cache").rglob("*-cache"))
    for entry in entries:
        os.truncate(entry, entry.stat().st_size // 2)
    assert start(tmp_path / "second", [], *short).wait() == 0
    assert entries
    assert values_of(tmp_path / "second") == values_of(tmp_path / "first")


def test_a_signal_saves_and_ends(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, [], *TOY, "training.max_steps=100000")
    while not any(line.step >= 5 for line in metrics.read_from(folder / "metrics.jsonl")[0]):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert records.read(folder / "result0.json")["state"] == "preempted"
    assert list((folder / "checkpoints").glob("*/manifest.json"))


def test_what_was_drawn_is_gone_before_a_checkpoint_is_read(config, new_run, monkeypatch):
    """A device may have room for one state only."""
    import jax

    from trialfleet.training import checkpoints, train
    from trialfleet.trial.run import Preempted, Stop

    first = new_run(stop=after(4, Stop.PREEMPT))
    with pytest.raises(Preempted):
        train(config(), first)
    read, held = checkpoints.read, []

    def there():
        gc.collect()
        return sum(array.nbytes for array in jax.live_arrays())

    before = there()

    def measured(saved, shapes, shardings):
        of_state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        held.append((there() - before) / of_state)
        return read(saved, shapes, shardings)

    monkeypatch.setattr(checkpoints, "read", measured)
    train(config(), second := new_run(earlier=[first]))
    assert second.notes["resumed_from"] == 3
    assert len(held) == 1
    assert held[0] < 0.1


def test_another_mesh_may_go_on(config, new_run):
    from trialfleet.training import train
    from trialfleet.trial.run import Preempted, Stop

    whole, first = new_run(), new_run(stop=after(4, Stop.PREEMPT))
    train(config(), whole)
    with pytest.raises(Preempted):
        train(config(), first)
    second = new_run(earlier=[first])
    train(config("mesh.data=2", "mesh.fsdp=2", "mesh.tp=2"), second)
    assert second.notes["resumed_from"] == 3
    assert second.reported("train/loss")[6] == pytest.approx(whole.reported("train/loss")[6], abs=1e-5)

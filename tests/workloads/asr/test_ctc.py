"""Speech to text: the data, the loss and the scores."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trialfleet.config.asr import Digits
from trialfleet.errors import UserError
from trialfleet.workloads.asr import ctc, text
from trialfleet.workloads.asr.digits import DigitStrings, load

DATA = Digits(
    name="digits",
    data_dir=None,
    split_seed=0,
    train_strings=200,
    eval_strings=50,
    max_digits=3,
    max_pause=2,
    buckets=(40, 80),
)


def test_no_recording_is_in_two_splits():
    recordings = load(None, 0)
    parts = [set(map(int, rows)) for rows in recordings.splits.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 3000
    assert [len(part) for part in parts] == [2400, 300, 300]
    for rows in recordings.splits.values():
        counts = np.bincount(recordings.digits[rows])
        assert counts.min() == counts.max()  # each digit has the same share


def test_strings_are_made_of_their_own_split():
    recordings = load(None, 0)
    for split in ("train", "val", "test"):
        table = DigitStrings(DATA, 8, split)._table(0)
        assert {index for string in table for index in string.recordings} <= set(map(int, recordings.splits[split]))


def test_training_joins_anew_each_epoch_and_held_out_strings_never_change():
    train, val = DigitStrings(DATA, 8, "train"), DigitStrings(DATA, 8, "val")
    assert list(train.epoch(0, 0)) != list(train.epoch(0, 1))
    assert list(train.epoch(0, 1)) == list(DigitStrings(DATA, 8, "train").epoch(0, 1))
    assert {row for plan in train.epoch(0, 0) for row in plan.rows}.isdisjoint(
        row for plan in train.epoch(0, 1) for row in plan.rows
    )
    assert list(val.epoch(0, 0)) == list(val.epoch(5, 3))
    assert sum(len(plan.rows) for plan in val.epoch(0, 0)) + val.dropped == 50


def test_batches_have_static_shapes_and_hold_what_was_said():
    source = DigitStrings(DATA, 8, "train")
    for plan in source.epoch(0, 0):
        examples = [source.example(row, np.random.default_rng(0)) for row in plan.rows]
        batch = source.collate(examples, plan.bucket)
        assert batch["frames"].shape == (8, plan.bucket, 13)
        assert batch["labels"].shape == (8, 17)
        assert (batch["frame_count"] <= plan.bucket).all()
        words = text.decode(examples[0]["labels"]).split()
        assert 1 <= len(words) <= 3


@pytest.mark.parametrize("content", [None, b"not an archive"])
def test_unreadable_data_is_told_with_its_key(tmp_path, content):
    path = tmp_path / "digits.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.data_dir: .*digits\.npz"):
        load(str(tmp_path), 0)


def test_paths_collapse_to_texts():
    path = [0, *text.encode("aab"), 0, 0, *text.encode("bb"), 0]
    assert text.collapse(np.asarray(path)) == "abb"
    assert text.collapse(np.zeros(0, int)) == ""
    assert text.decode(text.encode("three one")) == "three one"
    assert text.frames_needed(text.encode("three")) == 6


def test_the_loss_is_the_sum_over_all_paths():
    """Against every path there is, for strings of up to two labels in four frames."""
    scores = jax.random.normal(jax.random.key(0), (3, 4, 28))
    labels, counts = jnp.asarray([[1, 2], [3, 3], [4, 0]]), jnp.asarray([2, 2, 1])
    frames = jnp.asarray([4, 4, 3])
    got = ctc.losses(scores, frames, labels, counts)
    log_p = np.asarray(jax.nn.log_softmax(scores))
    for n in range(3):
        wanted = tuple(int(label) for label in labels[n, : counts[n]])
        chances = [
            sum(log_p[n, t, label] for t, label in enumerate(path))
            for path in product(range(6), repeat=int(frames[n]))
            if tuple(label for t, label in enumerate(path) if label and (t == 0 or path[t - 1] != label)) == wanted
        ]
        assert float(got[n]) == pytest.approx(-np.logaddexp.reduce(chances), rel=1e-4)


@pytest.mark.slow
def test_what_lies_behind_a_string_changes_nothing():
    from trialfleet.config.asr import CtcEncoder

    config = CtcEncoder(name="ctc", width=8, blocks=2, kernel=3, expansion=2, dropout=0.0, input_noise=0.0)
    params = ctc.init(config, 13, jax.random.key(0))
    frames = jax.random.normal(jax.random.key(1), (1, 20, 13))
    padded = frames.at[:, 12:].set(100.0)
    count = jnp.asarray([12])
    one, other = (ctc.logits(config, params, x, count, {}, None)[:, :12] for x in (frames, padded))
    short = ctc.logits(config, params, frames[:, :12], count, {}, None)
    assert jnp.array_equal(one, other)
    assert jnp.allclose(one, short, atol=1e-5)
    assert jax.tree.map(jnp.ndim, params) == jax.tree.map(len, ctc.axes(config), is_leaf=lambda x: isinstance(x, tuple))

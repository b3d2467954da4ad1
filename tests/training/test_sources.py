"""What every source must do, so that a training can be cut anywhere and go on as if it had not been."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jax.sharding import NamedSharding

from tests.training.harness import SMALL, TOY, composed
from tests.workloads.decoder.small import SMALL as SMALL_GRPO
from tests.workloads.mvfoul.rendered import SMALL as SMALL_MVFOUL
from tests.workloads.test_grpo_training import BASE
from trialfleet.errors import UserError
from trialfleet.training.arrays import ArraySource
from trialfleet.training.contract import batch_of
from trialfleet.training.data import Feed, Loader, Position, examples_of
from trialfleet.training.mesh import batch_sharding, eval_sharding, make_mesh
from trialfleet.training.plans import ShuffledPlans
from trialfleet.training.setup import Setup, find_factory
from trialfleet.training.workload import Source

CONFIGS = {
    "arrays": [TOY[0], "workload=small"],
    "toy": list(TOY),
    "asr": list(SMALL),
    "mvfoul": list(SMALL_MVFOUL),
    "grpo": [*SMALL_GRPO, *BASE],
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    return composed(*CONFIGS[request.param])


@pytest.fixture
def sources(config: Any) -> Callable[[str], Source]:
    """Each time a source of its own, as each process has."""
    return lambda split: find_factory(config.workload.factory)(config).source(split)


def batches(config: Any, source: Source, start: Position, count: int) -> list[Any]:
    training, mesh = config.training, make_mesh(config.mesh)
    feed = Feed(Loader(source, batch_sharding(mesh), training.global_batch, 1), 3, start, None, 2)
    found = [feed.next() for _ in range(count)]
    feed.close()
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(leaf, other[name]) for name, leaf in one.items())


def test_another_process_reads_the_same_from_any_position_on(config, sources):
    length = len(sources("train").epoch(3, 0))
    whole = batches(config, sources("train"), Position(0, 0, 0), length + 3)
    for start in (1, length - 1, length, length + 1):
        for expected, got in zip(
            whole[start:], batches(config, sources("train"), whole[start].position, 2), strict=False
        ):
            assert got.position == expected.position
            assert same(got.batch, expected.batch)


def test_a_training_epoch_has_full_batches_and_depends_on_seed_and_epoch_alone(config, sources):
    source = sources("train")
    plans = list(source.epoch(3, 1))
    assert {len(plan.rows) for plan in plans} == {config.training.global_batch}
    assert plans == list(sources("train").epoch(3, 1))
    assert plans != list(source.epoch(3, 0))
    assert plans != list(source.epoch(4, 1))


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_evaluation_has_each_example_once_and_counts_no_padding(config, sources, split):
    source, training = sources(split), config.training
    plans = source.epoch(0, 0)
    loader = Loader(source, eval_sharding(make_mesh(config.mesh)), training.eval_batch, None)
    ids = []
    for index, plan in enumerate(plans):
        batch = loader.load(plan, 0, 0, index)
        assert {len(leaf) for leaf in batch.values()} == {training.eval_batch}
        weight = np.asarray(batch["weight"])
        assert (weight[len(plan.rows) :] == 0).all()
        ids += np.asarray(batch["id"])[weight > 0].tolist()
    assert len(set(ids)) == len(ids) > 0
    assert set(ids) <= {row for plan in plans for row in plan.rows}


def test_shapes_depend_on_the_bucket_and_the_number_of_examples_alone(config, sources):
    source, seen = sources("train"), {}
    for plan in source.epoch(3, 0)[:6]:
        batch = batch_of(source, examples_of(source, plan, 3, 0, 0, [0, 1]), plan.bucket, None)
        shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()}
        assert seen.setdefault(plan.bucket, shapes) == shapes


# ---------------------------------------------------------------- arrays in memory


@pytest.fixture
def training() -> Any:
    return composed(TOY[0], "workload=small").training  # batches of 16


def test_rows_that_do_not_fill_a_batch_have_their_turn_in_other_epochs(training):
    source = ArraySource({"x": np.arange(40)}, "train", training)
    seen = [{row for plan in source.epoch(0, epoch) for row in plan.rows} for epoch in range(12)]
    assert {len(rows) for rows in seen} == {32}
    assert set.union(*seen) == set(range(40))


def test_each_process_reads_its_own_rows(training):
    source = ArraySource({"x": np.arange(40)}, "val", training)
    mesh = make_mesh(composed(TOY[0], "workload=small", "mesh.data=4", "mesh.fsdp=2").mesh)
    sharding: NamedSharding = eval_sharding(mesh)
    batch = Loader(source, sharding, 16, None).load(source.epoch(0, 0)[2], 0, 0, 2)
    assert batch["x"].sharding == sharding
    assert [shard.data.tolist() for shard in batch["id"].addressable_shards][:4] == [
        [32, 33],
        [34, 35],
        [36, 37],
        [38, 39],
    ]
    assert np.asarray(batch["weight"]).tolist() == [1.0] * 8 + [0.0] * 8


def test_numbers_are_of_32_bits_at_most(training):
    arrays = {"a": np.zeros(16), "b": np.arange(16), "c": np.ones(16, bool), "d": np.zeros(16, np.uint8)}
    source = ArraySource(arrays, "train", training)
    batch = source.collate([source.example(0, np.random.default_rng(0))], 0)
    assert [str(batch[name].dtype) for name in "abcd"] == ["float32", "int32", "bool", "uint8"]


@pytest.mark.parametrize(
    ("arrays", "split", "message"),
    [
        ({"x": np.zeros(16), "y": np.zeros(17)}, "train", "ArraySource of 'train': the lengths differ: x 16, y 17"),
        ({}, "train", "ArraySource of 'train': the lengths differ: no array"),
        ({"x": ["a"] * 16}, "val", "the array 'x' of 'val' is <U1"),
        ({"x": 3}, "val", r"the array 'x' of 'val' is int64 \(\)"),
        ({"x": np.full(16, 2**40)}, "val", "the array 'x' of 'val' has whole numbers beyond 32 bits"),
        ({"x": np.zeros(15)}, "train", "training.global_batch: 16, and the arrays of 'train' have 15 examples"),
        ({"x": np.zeros(0)}, "val", "the arrays of 'val' have no examples"),
    ],
)
def test_arrays_that_are_no_data_are_refused(training, arrays, split, message):
    with pytest.raises(UserError, match=message):
        ArraySource(arrays, split, training)


def test_an_epoch_is_drawn_when_a_batch_of_it_is_asked_for():
    drawn = []

    def draw():
        drawn.append(1)
        return np.arange(11)[::-1]

    plans = ShuffledPlans(draw, 11, 4)
    assert len(plans) == 2
    assert not drawn
    assert [plan.rows for plan in plans] == [(10, 9, 8, 7), (6, 5, 4, 3)]
    assert [plan.rows for plan in plans[:1]] == [(10, 9, 8, 7)]
    assert plans[-1].rows == (6, 5, 4, 3)
    assert drawn == [1]
    first = plans[:1]
    assert (len(first), drawn) == (1, [1])


def test_an_epoch_can_be_cut_short(toy):
    setup = Setup(toy("training.limit_train_batches=3", "training.max_steps=null", "training.max_epochs=4"))
    assert (setup.plans(0), setup.total_steps) == (3, 12)
    whole = Setup(toy())
    assert whole.plans(0) > 3
    cut, plans = setup.train_source.epoch(0, 1), whole.train_source.epoch(0, 1)
    assert [plan.rows for plan in cut] == [plan.rows for plan in plans][:3]

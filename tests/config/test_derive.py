"""What follows from the marks: which trials share a program, and what it is given."""

import json

import pytest

from tests.config.test_load import composed
from trialfleet.config import Config, hyperparameters, signature, static_part
from trialfleet.config.derive import Withheld


@pytest.fixture(scope="module")
def base() -> Config:
    return composed()


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.learning_rate=1",
        "model.dropout=0",
        "training.gradient_clip=3",
        "training.max_steps=5",
        "training.report_every=7",
        "training.checkpoints.keep_last=4",
        "seed=9",
        "tracking.uri=elsewhere",
        "experiment_name=other",
        "objective.at=last",
        "study.fresh=true",
        "runtime.compilation_cache=null",
    ],
)
def test_numbers_and_what_the_host_reads_share_a_program(base, override):
    other = composed(override)
    assert signature(other) == signature(base)
    assert static_part(other) == static_part(base)
    assert hash(static_part(other)) == hash(static_part(base))


@pytest.mark.parametrize(
    "override",
    [
        "model.width=32",
        "optimizer=sgd",
        "scheduler=constant",
        "training.global_batch=8",
        "training.gradient_clip=null",
        "training.ema_decay=0.9",
        "training.compute_dtype=bfloat16",
        "optimizer.moment_dtype=bfloat16",
        "+optimizer.groups.head.learning_rate=0.1",
        "freezing.never=['encoder/.*']",
        "scheduler=step",
        "mesh.data=2",
    ],
)
def test_what_changes_the_program_changes_the_signature(base, override):
    other = composed(override)
    assert signature(other) != signature(base)
    assert static_part(other) != static_part(base)


def test_the_number_of_milestones_is_static_and_their_places_are_not():
    one, other, more = (composed("scheduler=step", f"scheduler.milestones={m}") for m in ("[.1,.2]", "[.5,.9]", "[.5]"))
    assert signature(one) == signature(other) != signature(more)
    assert hyperparameters(other)["scheduler.milestones.1"] == 0.9


def test_hyperparameters_are_floats_by_dotted_key(base):
    values = hyperparameters(composed("optimizer.learning_rate=1", "training.gradient_clip=null"))
    assert values["optimizer.learning_rate"] == 1.0
    assert all(type(value) is float for value in values.values())
    assert "training.gradient_clip" not in values
    assert "training.max_steps" not in values
    assert list(hyperparameters(base)) == list(hyperparameters(composed("model.dropout=0.4")))


def test_a_signature_is_json(base):
    assert json.loads(json.dumps(signature(base))) == signature(base)
    assert signature(base)["optimizer.learning_rate"] == "<traced>"


def test_what_is_no_part_of_the_program_cannot_be_used_in_it(base):
    static = static_part(base)
    assert isinstance(static.optimizer.learning_rate, Withheld)
    assert static.model.width == base.model.width
    with pytest.raises(TypeError):
        static.optimizer.learning_rate * 2
    with pytest.raises(TypeError, match="traced value is no part of the program"):
        bool(static.model.dropout)
    with pytest.raises(TypeError, match="host value"):
        bool(static.seed)

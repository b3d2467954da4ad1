"""Control is a pure function: its state is JSON, and the same history gives the same knobs."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.harness import TOY, composed
from trialfleet.training import control
from trialfleet.trial import records

pytestmark = pytest.mark.xdist_group("toy")  # one worker: the toy's programs are compiled once

FACTS = control.Facts([], {}, {})


def play(config, values, name="val/error"):
    known = control.start()
    for step, value in enumerate(values, 1):
        known = control.control(known, control.Event(step, 0, False, {name: value}), config, FACTS)
    return known


def test_a_plateau_reduces_the_rate_and_cools_down(toy):
    config = toy("scheduler=plateau", "scheduler.patience=1", "scheduler.cooldown=1", "scheduler.factor=0.5")
    scales = [control.knobs(play(config, [1.0] * n), config, FACTS).scale for n in range(1, 9)]
    # The first evaluation sets the mark; after one more that is borne, the next reduces; then one is not counted.
    assert scales == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_a_plateau_has_a_floor(toy):
    config = toy("scheduler=plateau", "scheduler.patience=0", "scheduler.min_factor=0.1")
    assert control.knobs(play(config, [1.0] * 50), config, FACTS).scale == 0.1


def test_small_steps_do_not_count_as_improvement(toy):
    config = toy("training.early_stopping={patience: 3, min_delta: 0.1}")
    slow = [1.0, 0.95, 0.92, 0.91]
    assert control.knobs(play(config, slow), config, FACTS).stop == "no improvement in 3 evaluations"
    assert control.knobs(play(config, [*slow[:3], 0.85]), config, FACTS).stop is None


def test_nan_is_never_the_best(toy):
    config = toy()
    known = play(config, [math.nan, 2.0, math.nan])
    assert control.metrics(known, config) == {"val/error": 2.0}


CONFIG = composed(*TOY, "scheduler=plateau")


@given(st.lists(st.floats(allow_nan=True), min_size=1, max_size=12), st.integers(1, 11))
def test_a_state_that_went_through_a_file_goes_on_the_same(values, cut):
    whole = play(CONFIG, values)
    known = control.start()
    for step, value in enumerate(values, 1):
        if step == cut:
            known = json.loads(records.dumps(known))
        known = control.control(known, control.Event(step, 0, False, {"val/error": value}), CONFIG, FACTS)
    assert records.dumps(known) == records.dumps(whole)

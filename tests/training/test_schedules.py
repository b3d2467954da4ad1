"""Schedules, as curves over a training of 100 steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.harness import TOY, composed
from trialfleet.config import hyperparameters
from trialfleet.training import program, schedules

KINDS = ["constant", "cosine", "warmup_cosine", "step", "plateau", "onecycle", "restarts", "polynomial"]
TOTAL = 100


def curve(kind: str, *overrides: str) -> np.ndarray:
    """The factor at each of the steps."""
    config = composed(*TOY, f"scheduler={kind}", *overrides)
    numbers = hyperparameters(config)
    values = program.named_hyperparameters(tuple(numbers), jnp.asarray(list(numbers.values()), jnp.float32))
    steps = jnp.arange(TOTAL, dtype=jnp.int32)

    @jax.jit
    def factors(hp):
        return jax.vmap(lambda step: schedules.factor(config.scheduler, hp, step, jnp.float32(TOTAL)))(steps)

    return np.asarray(factors(values))


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_never_leaves_its_range_and_reaches_the_peak(kind):
    factors = curve(kind)
    assert 0 <= factors.min() <= factors.max() <= 1 + 1e-6
    assert factors.max() > 0.97


def test_warmup_rises_in_a_line_and_wastes_no_step():
    factors = curve("constant", "scheduler.warmup_ratio=0.2")
    assert factors[0] == pytest.approx(1 / 21)
    assert np.diff(factors[:20]) == pytest.approx(1 / 21, rel=1e-4)
    assert factors[20:] == pytest.approx(1.0)


def test_warmup_may_be_given_in_steps():
    by_ratio, by_steps = "scheduler.warmup_ratio=0.2", "scheduler.warmup_steps=20"
    assert curve("polynomial", by_steps) == pytest.approx(curve("polynomial", by_ratio), rel=1e-5)


def test_a_cosine_ends_at_its_end():
    factors = curve("warmup_cosine", "scheduler.warmup_ratio=0.1", "scheduler.end_factor=0.2")
    assert factors[55] == pytest.approx(0.6, abs=1e-3)
    assert factors[-1] == pytest.approx(0.2, abs=1e-3)


def test_steps_fall_at_their_milestones():
    factors = curve("step", "scheduler.milestones=[0.3,0.6]", "scheduler.gamma=0.5")
    assert set(np.round(factors, 6)) == {1.0, 0.5, 0.25}
    assert (factors[29], factors[30], factors[59], factors[60]) == pytest.approx((1.0, 0.5, 0.5, 0.25))


def test_one_cycle_rises_and_falls_by_cosines():
    factors = curve("onecycle", "scheduler.warmup_ratio=0.5", "scheduler.start_factor=0.1", "scheduler.end_factor=0")
    assert factors[0] == pytest.approx(0.1)
    assert factors[25] == pytest.approx(0.55, abs=1e-2)
    assert int(factors.argmax()) == 50


def test_restarts_begin_at_the_peak_each_time():
    factors = curve("restarts", "scheduler.cycles=4")
    assert [int(step) for step in np.flatnonzero(factors > 0.999)] == [0, 25, 50, 75]


def test_a_polynomial_of_power_one_is_a_line():
    factors = curve("polynomial", "scheduler.power=1", "scheduler.end_factor=0.5")
    assert np.diff(factors) == pytest.approx(-0.005, rel=1e-3)

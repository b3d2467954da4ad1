"""Learning-rate schedules as functions of the step with traced settings: a factor in [0, 1] of the peak rate.

Written out, since optax's take their numbers as Python constants: each trial would compile anew.
"""

import jax
import jax.numpy as jnp

from trialfleet.config.optimizers import Cosine, OneCycle, Polynomial, Restarts, Scheduler, Step, WarmupCosine
from trialfleet.training.workload import Hyperparameters


def factor(scheduler: Scheduler, hp: Hyperparameters, step: jax.Array, total: jax.Array) -> jax.Array:
    """The factor for the update that leads from `step` to `step` + 1, of `total` updates."""
    step = step.astype(jnp.float32)
    match scheduler:
        case Cosine():
            return _cosine(step / total, hp["scheduler.end_factor"])
        case OneCycle():
            warmup = _warmup(hp, total)
            rise = 1 - _cosine(step / jnp.maximum(warmup, 1), 0.0) * (1 - hp["scheduler.start_factor"])
            return jnp.where(step < warmup, rise, _cosine(_after(step, warmup, total), hp["scheduler.end_factor"]))
    warmup = _warmup(hp, total)
    # The first update has rate 1/(warmup + 1), not 0: it would be wasted.
    rise = jnp.minimum(1.0, (step + 1) / (warmup + 1))
    return rise * _fall(scheduler, hp, _after(step, warmup, total), step / total)


def _warmup(hp: Hyperparameters, total: jax.Array) -> jax.Array:
    """The number of steps in which the rate rises."""
    return hp["scheduler.warmup_steps"] if "scheduler.warmup_steps" in hp else hp["scheduler.warmup_ratio"] * total


def _fall(scheduler: Scheduler, hp: Hyperparameters, after: jax.Array, share: jax.Array) -> jax.Array:
    """What follows the warm-up; `after` is the progress since its end, `share` that since the start."""
    match scheduler:
        case WarmupCosine():
            return _cosine(after, hp["scheduler.end_factor"])
        case Restarts():
            cycles = hp["scheduler.cycles"]
            within = jnp.minimum(after, 1 - 1e-6) * cycles
            return _cosine(within - jnp.floor(within), hp["scheduler.end_factor"])
        case Polynomial():
            end = hp["scheduler.end_factor"]
            return end + (1 - end) * (1 - after) ** hp["scheduler.power"]
        case Step():
            passed = sum(
                (share >= hp[f"scheduler.milestones.{i}"]).astype(jnp.float32) for i in range(len(scheduler.milestones))
            )
            return hp["scheduler.gamma"] ** jnp.asarray(passed, jnp.float32)
        case _:  # constant; plateau, whose reductions come from the host
            return jnp.ones((), jnp.float32)


def _after(step: jax.Array, warmup: jax.Array, total: jax.Array) -> jax.Array:
    return jnp.clip((step - warmup) / jnp.maximum(total - warmup, 1), 0, 1)


def _cosine(progress: jax.Array, end: jax.Array | float) -> jax.Array:
    return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))

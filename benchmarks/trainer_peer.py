"""The peer of the trainer's benchmarks: the same model and optimizer in plain JAX, and nothing else.

No mesh, no evaluation, no checkpoints, no metrics but the loss; batches are made beforehand.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trialfleet.config import Config
from trialfleet.workloads.asr import ctc
from trialfleet.workloads.asr.digits import DigitStrings

Batch = dict[str, Any]


def batches(config: Config, count: int) -> list[Batch]:
    """The first batches of the first epoch, on the device."""
    source = DigitStrings(config.dataset, config.training.global_batch, "train")  # type: ignore[attr-defined]
    found = []
    for plan in source.epoch(config.seed, 0)[:count]:
        examples = [source.example(row, np.random.default_rng(0)) for row in plan.rows]
        found.append({name: jax.device_put(leaf) for name, leaf in source.collate(examples, plan.bucket).items()})
    return found


def make(config: Config, steps: int) -> tuple[Any, Any]:
    """(init, step): init(key) -> (params, opt); step(params, opt, batch, key) -> (params, opt, loss)."""
    model, optimizer = config.model, config.optimizer  # type: ignore[attr-defined]
    hp = {"model.dropout": jnp.float32(model.dropout), "model.input_noise": jnp.float32(model.input_noise)}
    schedule = optax.warmup_cosine_decay_schedule(0.0, optimizer.learning_rate, max(1, steps // 10), steps)
    tx = optax.chain(
        optax.clip_by_global_norm(config.training.gradient_clip or 1.0),
        optax.adamw(schedule, optimizer.beta1, optimizer.beta2, optimizer.eps, weight_decay=optimizer.weight_decay),
    )

    def loss_of(params: Any, batch: Batch, key: jax.Array) -> jax.Array:
        scores = ctc.logits(model, params, batch["frames"], batch["frame_count"], hp, key)
        losses = ctc.losses(scores, batch["frame_count"], batch["labels"], batch["label_count"])
        return jnp.sum(losses) / jnp.sum(batch["label_count"])

    def init(key: jax.Array) -> Any:
        params = ctc.init(model, 13, key)
        return params, tx.init(params)

    def step(params: Any, opt: Any, batch: Batch, key: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, batch, key)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, loss

    return jax.jit(init), jax.jit(step, donate_argnums=(0, 1))

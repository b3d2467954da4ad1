"""Group relative policy optimization: advantages, and the loss of a token. S tokens of a completion."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.grpo import Gemma3
from trialfleet.training.workload import Hyperparameters, Params
from trialfleet.workloads.grpo import gemma, tokens

_FARTHEST = 20.0  # of two log-probabilities: beyond it a ratio is as good as 0 or infinite


class Read(NamedTuple):
    """What a policy says of completions it is shown."""

    logs: jax.Array  # log-probability of each token (B, S)
    entropy: jax.Array  # of what could have stood there (B, S), in nats


def read(
    config: Gemma3,
    params: Params,
    prompt: jax.Array,
    drawn: jax.Array,
    hp: Hyperparameters,
    adapter: bool = True,
    remat: gemma.Remat = "none",
) -> Read:
    """Reads completions (B, S) of prompts (B, P) token by token; `adapter=False` is the base model."""
    sequence = jnp.concatenate([prompt, drawn], 1)
    valid = (sequence != tokens.PAD).astype(jnp.float32)
    scores = gemma.logits(config, params, sequence[:, :-1], valid[:, :-1], hp, adapter, remat)
    logs = jax.nn.log_softmax(scores[:, prompt.shape[1] - 1 :])
    return Read(
        jnp.take_along_axis(logs, drawn[..., None], -1)[..., 0],
        -jnp.sum(jnp.exp(logs) * logs, -1),
    )


def advantages(rewards: np.ndarray) -> np.ndarray:
    """How much better than its group each completion is: (r - mean) / (deviation + 1e-6), with ddof 1.

    Args:
        rewards: (..., generations).
    """
    mean, deviation = rewards.mean(-1, keepdims=True), rewards.std(-1, ddof=1, keepdims=True)
    result: np.ndarray = (rewards - mean) / (deviation + 1e-6)
    return result


def clipped(logs: jax.Array, old: jax.Array, advantage: jax.Array, epsilon: jax.Array) -> tuple[jax.Array, jax.Array]:
    """max(-A · ratio, -A · clip(ratio, 1 ± epsilon)) of each token (B, S), and 1 where clipping decides.

    Args:
        old: log-probabilities when the completions were drawn (B, S).
        advantage: (B,).
    """
    ratio = jnp.exp(jnp.clip(logs - old, -_FARTHEST, _FARTHEST))
    free = -advantage[:, None] * ratio
    held = -advantage[:, None] * jnp.clip(ratio, 1 - epsilon, 1 + epsilon)
    return jnp.maximum(free, held), (held > free).astype(jnp.float32)


def divergence(kind: str, logs: jax.Array, reference: jax.Array) -> jax.Array:
    """An estimate of the Kullback-Leibler divergence from the reference at each token (Schulman 2020)."""
    apart = reference - logs
    if kind == "kl":
        return -apart
    if kind == "mse_kl":
        return 0.5 * jnp.square(apart)
    return jnp.exp(apart) - apart - 1  # low_var_kl


def by_completion(values: jax.Array, counted: jax.Array) -> jax.Array:
    """The mean over the tokens of each completion (B,)."""
    return jnp.sum(values * counted, 1) / jnp.maximum(jnp.sum(counted, 1), 1)

"""Group relative policy optimization: advantages, and the loss of a token. S tokens of a completion."""

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.decoder import Decoder
from trialfleet.training.remat import Remat
from trialfleet.training.workload import Hyperparameters, Params
from trialfleet.workloads.decoder import PAD, transformer
from trialfleet.workloads.decoder.unembedding import Said, say

_FARTHEST = 20.0  # of two log-probabilities: beyond it a ratio is as good as 0 or infinite


def read(
    config: Decoder,
    params: Params,
    prompt: jax.Array,
    drawn: jax.Array,
    hp: Hyperparameters,
    adapter: bool = True,
    remat: Remat = "none",
) -> Said:
    """Reads completions (B, S) of prompts (B, P) token by token; `adapter=False` is the base model.

    Probabilities are those of `generation.temperature`, at which the completions were drawn, as in TRL and verl. top_k
    and top_p are not heeded, which is theirs, too: a token that the policy has moved out of them would have none.
    """
    sequence = jnp.concatenate([prompt, drawn], 1)
    valid = (sequence != PAD).astype(jnp.float32)
    x = transformer.stream(config, params, sequence[:, :-1], valid[:, :-1], hp, adapter, remat)
    return say(x[:, prompt.shape[1] - 1 :], transformer.unembedding(params), drawn, hp["generation.temperature"])


def advantages(rewards: np.ndarray, scale: str) -> np.ndarray:
    """How much better than its group each completion is: (r - mean) / (deviation + 1e-6), with ddof 1.

    A group that is worth the same throughout has none: the mean of equal numbers is rounded, and the little that they
    then differ by would be divided by as little.

    Args:
        rewards: (..., generations).
        scale: none: r - mean alone, so that easy and hard problems weigh as their rewards do (Liu et al. 2025).

    Returns:
        Of the same shape, float32.
    """
    worth = rewards.astype(np.float64)
    apart = worth - worth.mean(-1, keepdims=True)
    if scale != "none":
        apart /= worth.std(-1, ddof=1, keepdims=True) + 1e-6
    same = worth.max(-1, keepdims=True) == worth.min(-1, keepdims=True)
    return np.where(same, 0, apart).astype(np.float32)


def clipped(
    logs: jax.Array, old: jax.Array, advantage: jax.Array, low: jax.Array, high: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """max(-A · ratio, -A · clip(ratio, 1 - low, 1 + high)) of each token (B, S), and 1 where clipping decides.

    Args:
        old: log-probabilities when the completions were drawn (B, S).
        advantage: (B,).
    """
    ratio = jnp.exp(jnp.clip(logs - old, -_FARTHEST, _FARTHEST))
    free = -advantage[:, None] * ratio
    held = -advantage[:, None] * jnp.clip(ratio, 1 - low, 1 + high)
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


def token_weights(
    kind: str, weight: jax.Array, completions: jax.Array, counted: jax.Array, tokens: jax.Array
) -> jax.Array:
    """How much each token (B, S) counts in the loss. In `grpo` those of the global batch add up to 1, as in `dapo`.

    Args:
        kind: `grpo.loss_type`.
        weight: of each completion (B,).
        completions: the sum of the weights in the global batch.
        counted: 1 for the tokens that teach something (B, S).
        tokens: the sum of weight · counted in the global batch.
    """
    if kind == "dapo":
        return weight[:, None] * counted / jnp.maximum(tokens, 1)
    longest = counted.shape[1] if kind == "dr_grpo" else jnp.maximum(jnp.sum(counted, 1, keepdims=True), 1)
    return weight[:, None] / completions * counted / longest

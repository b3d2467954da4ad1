"""Losses for classes that are far from equally frequent. N examples, K classes."""

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.mvfoul import AdaptiveFocalLoss, FocalLoss, FoulLoss, WeightedLoss
from trialfleet.training.workload import Hyperparameters

_LARGEST_LOGIT = 10.0


def class_weights(config: FoulLoss, counts: np.ndarray) -> np.ndarray:
    """The weight of each class (K,) from the number of its training clips.

    effective_num: (1 - b) / (1 - b^n) (Cui et al. 2019, arXiv:1901.05555), at most `max_class_weight` times
    the least of them, then scaled to the sum K; inverse_freq: 1 / n, scaled to the sum K; balanced: N / (K n).
    """
    there = np.maximum(counts, 1).astype(float)
    kind = config.class_weights if isinstance(config, WeightedLoss) else "none"
    match kind:
        case "effective_num":
            assert isinstance(config, WeightedLoss)
            beta = config.effective_num_beta
            weights = (1 - beta) / (1 - beta**there)
            return _summing_to_count(np.minimum(weights, config.max_class_weight * weights.min()))
        case "inverse_freq":
            return _summing_to_count(1 / there)
        case "balanced":
            return np.asarray(counts.sum() / (len(counts) * there))
        case _:
            return np.ones(len(counts))


def _summing_to_count(weights: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = weights * len(weights) / weights.sum()
    return scaled


def cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array, smoothing: jax.Array | float) -> jax.Array:
    """Weighted cross-entropy (N,) with a share of `smoothing` of each label spread evenly over all classes.

    Args:
        logits: (N, K), clamped to ±10.
        labels: (N,).
        weights: of the classes, (N, K) or (K,).
    """
    logits = jnp.clip(logits.astype(jnp.float32), -_LARGEST_LOGIT, _LARGEST_LOGIT)
    classes = logits.shape[-1]
    target = (1 - smoothing) * jax.nn.one_hot(labels, classes) + smoothing / classes
    return -jnp.sum(target * weights * jax.nn.log_softmax(logits), -1)


def focal(entropy: jax.Array, gamma: jax.Array) -> jax.Array:
    """(1 - e^-ce)^gamma · ce (Lin et al. 2017, arXiv:1708.02002)."""
    # A power of 0 has no finite gradient for gammas below 1.
    return jnp.maximum(1 - jnp.exp(-entropy), 1e-6) ** gamma * entropy


def severity_loss(
    config: FoulLoss,
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    smoothing: jax.Array | float,
    hp: Hyperparameters,
) -> jax.Array:
    """Of each example (N,)."""
    entropy = cross_entropy(logits, labels, weights, smoothing)
    match config:
        case AdaptiveFocalLoss():
            gammas = jnp.stack([hp[f"loss.severity_gammas.{k}"] for k in range(logits.shape[-1])])
            return focal(entropy, gammas[labels])
        case FocalLoss():
            return focal(entropy, hp["loss.gamma"])
        case _:
            return entropy


def action_loss(
    config: FoulLoss,
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    smoothing: jax.Array | float,
    hp: Hyperparameters,
) -> jax.Array:
    """Of each example (N,)."""
    entropy = cross_entropy(logits, labels, weights, smoothing)
    return focal(entropy, hp["loss.gamma"]) if isinstance(config, FocalLoss | AdaptiveFocalLoss) else entropy


def counted(config: FoulLoss, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """What each example counts in the denominator (N,): its class's weight, or 1 under a focal loss."""
    if isinstance(config, FocalLoss | AdaptiveFocalLoss):
        return jnp.ones(labels.shape)
    return jnp.take_along_axis(weights, labels[:, None], -1)[:, 0]


def pairs(mask: jax.Array) -> jax.Array:
    """1 for each pair of views that are there (N, V, V), first before second."""
    views = mask.shape[-1]
    return mask[:, :, None] * mask[:, None, :] * jnp.triu(jnp.ones((views, views)), 1)


def disagreement(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """The symmetric Kullback-Leibler divergence between single views, summed over the pairs there are (N,).

    Args:
        logits: of each view (N, V, K).
        mask: (N, V).
    """
    logs = jax.nn.log_softmax(logits.astype(jnp.float32))
    own = jnp.sum(jnp.exp(logs) * logs, -1)  # (N, V)
    crossed = jnp.einsum("nvk,nwk->nvw", jnp.exp(logs), logs)
    both = own[:, :, None] + own[:, None, :] - crossed - jnp.swapaxes(crossed, 1, 2)
    return jnp.sum(0.5 * both * pairs(mask), (1, 2))

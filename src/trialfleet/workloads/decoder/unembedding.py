"""From the residual stream to what is said of tokens, without all scores of all positions at once.

With a vocabulary of V = 262,144 the scores of 16 sequences of 768 tokens are 13 GB in float32, their log-softmax again,
and their gradients too. Here they exist for some positions at a time, and are calculated anew for the gradient.

Shapes: B sequences of S tokens, D the width.
"""

# mypy: allow-untyped-calls
# (jax's PartitionSpec and shard_map have no annotations.)

from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from trialfleet.training.mesh import BATCH
from trialfleet.workloads.decoder import PAD

_NEVER = -1e9
LARGEST = 1 << 26  # scores that exist at a time on a device: 256 MB in float32


class Said(NamedTuple):
    """What a model says of tokens.

    Attributes:
        logs: log-probability of each (B, S), in nats; 0 of padding, which is never drawn.
        entropy: of what could have stood there (B, S), in nats.
    """

    logs: jax.Array
    entropy: jax.Array


def scores(x: jax.Array, embedding: jax.Array) -> jax.Array:
    """Scores of every token (..., V), float32, from the residual stream (..., D) and embeddings (V, D)."""
    found: jax.Array = jnp.einsum("...d,vd->...v", x, embedding, preferred_element_type=jnp.float32)
    return found


def without_padding(each: jax.Array) -> jax.Array:
    """Scores (..., V) by which padding is never drawn: behind it nobody would read on."""
    return jnp.where(jnp.arange(each.shape[-1]) == PAD, _NEVER, each)


def say(x: jax.Array, embedding: jax.Array, targets: jax.Array, temperature: jax.Array | float = 1.0) -> Said:
    """What the residual stream (B, S, D) says of the tokens (B, S) that follow its positions.

    Each device reads its own sequences: the embeddings are gathered once, and their gradient is added up once, not for
    each part of the positions.

    Args:
        temperature: scores are divided by it, as they are where tokens are drawn.
    """
    given = (x, embedding, targets, jnp.asarray(temperature, jnp.float32))
    mesh = jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else prod(mesh.shape[axis] for axis in BATCH)
    if shards == 1 or len(targets) % shards:
        return _in_parts(*given)
    own, specs = P(BATCH), (P(BATCH), P(), P(BATCH), P())
    of_outputs: Any = Said  # of specs instead of arrays
    said: Said = jax.shard_map(_of_own, in_specs=specs, out_specs=of_outputs(own, own), axis_names=set(BATCH))(*given)
    return said


def _of_own(x: jax.Array, embedding: jax.Array, targets: jax.Array, temperature: jax.Array) -> Said:
    """The same of a device's own sequences."""
    # Each device has a copy of its own from here on, or the gradient would be added up over devices in each part.
    return _in_parts(x, jax.lax.pcast(embedding, BATCH, to="varying"), targets, temperature)


def _in_parts(x: jax.Array, embedding: jax.Array, targets: jax.Array, temperature: jax.Array) -> Said:
    batch, length = targets.shape
    chunk = max(1, min(length, LARGEST // (batch * embedding.shape[0])))
    if chunk == length:
        return _say(x, embedding, targets, temperature)
    count = -(-length // chunk)
    room = ((0, 0), (0, count * chunk - length))

    # Positions are split, not sequences: those lie on different devices.
    def parts(array: jax.Array) -> jax.Array:
        return jnp.moveaxis(array.reshape(batch, count, chunk, *array.shape[2:]), 1, 0)

    split = parts(jnp.pad(x, (*room, (0, 0)))), parts(jnp.pad(targets, room))
    read = jax.checkpoint(lambda part: _say(part[0], embedding, part[1], temperature))
    found: Said = jax.lax.map(read, split)

    def joined(leaf: jax.Array) -> jax.Array:
        return jnp.moveaxis(leaf, 0, 1).reshape(batch, count * chunk)[:, :length]

    return Said(joined(found.logs), joined(found.entropy))


def _say(x: jax.Array, embedding: jax.Array, targets: jax.Array, temperature: jax.Array) -> Said:
    each = without_padding(scores(x, embedding)) / temperature
    # The exponentials are calculated once, for the logarithm of their sum, its gradient and the entropy.
    largest = jax.lax.stop_gradient(jnp.max(each, -1, keepdims=True))
    powers = jnp.exp(each - largest)
    summed = jnp.sum(powers, -1)
    total = largest[..., 0] + jnp.log(summed)
    own = jnp.take_along_axis(each, targets[..., None], -1)[..., 0]
    # H = -Σ p log p = log Σ e^s - Σ p s
    mean = jnp.sum(powers * each, -1) / summed
    # Selected, not multiplied away later: what two models say of padding may differ by more than exp can hold.
    return Said(jnp.where(targets == PAD, 0.0, own - total), total - mean)

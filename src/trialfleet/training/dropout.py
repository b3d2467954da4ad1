"""Dropout: in training, a share of what a layer is given is not seen (Srivastava et al. 2014)."""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dropout(NamedTuple):
    """How much of their inputs the weights of a layer do not see.

    Attributes:
        rate: the share, below 1.
        key: of a layer at a step; each of its weights draws for itself.
    """

    rate: jax.Array
    key: jax.Array

    def dropped(self, name: str, x: jax.Array) -> jax.Array:
        """What the weight of that name sees of x: zeros for what it does not, the rest so much larger that x is
        expected.
        """
        own = jax.random.fold_in(self.key, zlib.crc32(name.encode()))
        seen = jax.random.uniform(own, x.shape) >= self.rate
        return jnp.where(seen, x / (1 - self.rate).astype(x.dtype), 0)

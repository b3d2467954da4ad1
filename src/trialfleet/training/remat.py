"""What the backward pass keeps of the forward pass, and what it calculates again."""

from collections.abc import Callable
from typing import Literal, TypeVar, cast

import jax

Remat = Literal["none", "dots", "full"]
Block = TypeVar("Block", bound=Callable[..., object])


def rematerialized(block: Block, kind: Remat) -> Block:
    """A block of a model, by `training.remat`: to be put around each layer.

    none keeps everything; dots keeps the results of matrix products with weights; full keeps the block's
    arguments only, for about a third more work.
    """
    if kind == "none":
        return block
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if kind == "dots" else None
    return cast(Block, jax.checkpoint(block, policy=policy))

"""What tells one family of decoders from another: a table. All else is the same code with other sizes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax

from trialfleet.config.decoder import Decoder


class Family(NamedTuple):
    """What no size says.

    Attributes:
        norms: a layer's, by our names, with the names that they are published under. What has no norm here has none.
        norm_offset: a norm multiplies by its scale plus this.
        scaled_embeddings: whether embeddings are multiplied by the root of the width.
        gate: the activation of the feed-forward part's gate.
    """

    norms: Mapping[str, str]
    norm_offset: float
    scaled_embeddings: bool
    gate: Callable[[jax.Array], jax.Array]


FAMILIES = {
    "gemma3": Family(
        norms={
            "pre_attention_norm": "input_layernorm",
            "attn/query_norm": "self_attn.q_norm",
            "attn/key_norm": "self_attn.k_norm",
            "post_attention_norm": "post_attention_layernorm",
            "pre_ffw_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        norm_offset=1.0,
        scaled_embeddings=True,
        gate=partial(jax.nn.gelu, approximate=True),
    ),
    "llama": Family(
        norms={"pre_attention_norm": "input_layernorm", "pre_ffw_norm": "post_attention_layernorm"},
        norm_offset=0.0,
        scaled_embeddings=False,
        gate=jax.nn.silu,
    ),
}


def of(config: Decoder) -> Family:
    """The family of a model."""
    return FAMILIES[config.name]

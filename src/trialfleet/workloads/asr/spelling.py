"""What projected frames spell, token by token: connectionist temporal classification (Graves et al. 2006).

Frames are scored by the decoder's own matrix of scores, and padding stands for the blank: a projector that learns to
spell learns to speak in the decoder's words. As a second loss beside a decoder's, and in the choice of a text: Watanabe
et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech recognition".

Shapes: B recordings of A frames, S tokens of text, D the decoder's width, V tokens of the vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from trialfleet.training.workload import Params
from trialfleet.workloads.decoder import PAD, transformer
from trialfleet.workloads.decoder.unembedding import scores


class Told(NamedTuple):
    """What the decoder reads of recordings.

    Attributes:
        read: (B, A + 2, D).
        there: where there is something (B, A + 2).
        frames: projected (B, A, D); what is read between the marks, but for merged frames.
        heard: which of them are the recording's (B, A).
    """

    read: jax.Array
    there: jax.Array
    frames: jax.Array
    heard: jax.Array


def nats(told: Told, decoder: Params, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """-log p(text | frames) of each recording (B,), and whether there are frames enough to spell it (B,).

    Args:
        tokens: of the texts (B, S), with padding behind.
    """
    scored = scores(told.frames, transformer.unembedding(decoder))
    padding = (tokens == PAD).astype(jnp.float32)
    found: jax.Array = optax.ctc_loss(scored, 1 - told.heard, tokens, padding, blank_id=PAD)
    twice = jnp.sum((tokens[:, 1:] == tokens[:, :-1]) & (tokens[:, 1:] != PAD), 1)  # a blank must be between them
    return found, jnp.sum(1 - padding, 1) + twice <= jnp.sum(told.heard, 1)


def likeliest(told: Told, decoder: Params, steps: int, ends: tuple[int, ...]) -> jax.Array:
    """What the likeliest token of each frame spells (B, S), up to the first end, with padding behind.

    Args:
        steps: S.
        ends: tokens that end a text.
    """
    token, begins = _tokens(told.frames, told.heard, transformer.unembedding(decoder))
    place = jnp.where(begins, jnp.cumsum(begins, 1) - 1, steps)  # there is no such place: it is dropped
    nothing = jnp.full(steps, PAD, jnp.int32)
    text = jax.vmap(lambda own, places: nothing.at[places].set(own, mode="drop"))(token, place)
    ended = jnp.isin(text, jnp.asarray(ends)).astype(jnp.int32)
    return jnp.where(jnp.cumsum(ended, 1) - ended == 0, text, PAD)


def merged(frames: jax.Array, there: jax.Array, embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Frames in a row that spell the same token as one, their mean, and none that spell nothing.

    Gaido et al. 2021 (arXiv:2102.01578). The shape stays (B, A, D): what is left stands first.

    Args:
        frames: projected (B, A, D).
        there: which of them are the recording's (B, A).
        embeddings: that make scores of them (V, D).

    Returns:
        The frames, and where there is one (B, A).
    """
    count = frames.shape[1]
    token, begins = _tokens(frames, there, embeddings)
    place = jnp.cumsum(begins, 1) - 1
    belongs = (place[:, None] == jnp.arange(count)[:, None]) & (token != PAD)[:, None]  # (B, place, frame)
    shares = belongs / jnp.maximum(jnp.sum(belongs, 2, keepdims=True), 1)
    left = (jnp.arange(count) < jnp.sum(begins, 1, keepdims=True)).astype(there.dtype)
    return jnp.einsum("bpa,bad->bpd", shares.astype(frames.dtype), frames), left


def _tokens(frames: jax.Array, there: jax.Array, embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The likeliest token of each frame, padding for none (B, A), and where another one begins (B, A)."""
    token = jnp.where(there > 0, jnp.argmax(scores(frames, embeddings), -1), PAD).astype(jnp.int32)
    before = jnp.pad(token[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
    return token, (token != PAD) & (token != before)

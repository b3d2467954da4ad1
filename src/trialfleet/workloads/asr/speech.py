"""Speech in a decoder's words: a frozen encoder hears, a projector tells, a language model with adapters writes.

What the decoder reads is: a mark, the projected frames of the recording, another mark, then the text. Shapes: B
recordings of F spectrogram frames, A projected frames, S tokens of text, D the decoder's width.
"""

from typing import Any

import jax
import jax.numpy as jnp

from trialfleet.config.asr_decoder import SpeechModel
from trialfleet.training.dropout import Dropout
from trialfleet.training.mesh import constrain
from trialfleet.training.random import normals
from trialfleet.training.remat import Remat
from trialfleet.training.workload import Hyperparameters, Params, Product
from trialfleet.workloads.asr import encoder, spelling
from trialfleet.workloads.asr.spelling import Told
from trialfleet.workloads.decoder import transformer

EPSILON = 1e-6  # of the projector's norm


def init(config: SpeechModel, key: jax.Array) -> Params:
    """Fresh parameters of all three parts."""
    keys = jax.random.split(key, 3)
    heard, told = config.encoder.width * config.projector.stack, config.decoder.width
    taps = config.projector.kernel_size
    up = (heard, config.projector.hidden) if taps == 1 else (taps, heard, config.projector.hidden)
    shapes = {"up": up, "down": (config.projector.hidden, told), "marks": (2, told)}
    scales = {
        "up": (taps * heard) ** -0.5,
        "down": config.projector.scale * config.projector.hidden**-0.5,
        "marks": told**-0.5,
    }
    projector = {
        **normals(keys[1], shapes, scales),
        "norm": jnp.ones(heard),
        "up_b": jnp.zeros(config.projector.hidden),
        "down_b": jnp.zeros(told),
    }
    return {
        "encoder": encoder.init(config.encoder, keys[0]),
        "projector": projector,
        "decoder": transformer.init(config.decoder, keys[2]),
    }


def axes(config: SpeechModel) -> dict[str, Any]:
    """The logical axes of what `init` gives."""
    projector = {
        "norm": (None,),
        "up": ("embed", "mlp") if config.projector.kernel_size == 1 else ("kernel", "embed", "mlp"),
        "up_b": ("mlp",),
        "down": ("mlp", "embed"),
        "down_b": (None,),
        "marks": (None, "embed"),
    }
    return {
        "encoder": encoder.axes(config.encoder),
        "projector": projector,
        "decoder": transformer.axes(config.decoder),
    }


def products(config: SpeechModel, frames: int, tokens: int) -> list[Product]:
    """Those of learning one recording, in order.

    Args:
        frames: of its spectrogram.
        tokens: of its text, the end included.
    """
    told = -(-((frames + 1) // 2) // config.projector.stack)
    heard = config.encoder.width * config.projector.stack * config.projector.kernel_size
    up, down = heard * config.projector.hidden, config.projector.hidden * config.decoder.width
    read = transformer.products(config.decoder, told + 1 + tokens, tokens)  # two marks; nothing is said behind the end
    parts = {
        "encoder": encoder.products(config.encoder, frames),
        "projector": [Product(2.0 * told * up, "up"), Product(2.0 * told * down, "down")],
        "decoder": read,
    }
    return [
        one._replace(weight=f"{part}/{one.weight}" if one.weight else "") for part, own in parts.items() for one in own
    ]


def of_decoder(hp: Hyperparameters) -> Hyperparameters:
    """The hyperparameters by the names that the decoder knows."""
    own = {name: hp.get(f"model.decoder.{name}") for name in ("lora_alpha", "lora_dropout")}
    return {**hp, **{f"model.{name}": value for name, value in own.items() if value is not None}}


def told(
    config: SpeechModel,
    params: Params,
    features: jax.Array,
    frames: jax.Array,
    remat: Remat = "none",
    dropout: Dropout | None = None,
) -> Told:
    """What the decoder reads of recordings.

    Args:
        features: spectrograms (B, F, bands), with silence behind.
        frames: how many of them are the recording's (B,).
        dropout: of what the projector sees; None: it sees all.
    """
    stack, own = config.projector.stack, params["projector"]
    heard_frames = (features.shape[1] + 1) // 2
    valid = (jnp.arange(heard_frames) < (frames[:, None] + 1) // 2).astype(jnp.float32)
    seen = jnp.ones_like(valid) if config.encoder.hears_silence else valid
    heard = jax.lax.stop_gradient(encoder.encode(config.encoder, params["encoder"], features, seen, remat))
    padding = -heard_frames % stack
    heard = jnp.pad(heard * valid[..., None].astype(heard.dtype), ((0, 0), (0, padding), (0, 0)))
    stacked = heard.reshape(heard.shape[0], -1, stack * heard.shape[2])
    projected = _projected(own, stacked, dropout)
    there = jnp.pad(valid, ((0, 0), (0, padding))).reshape(heard.shape[0], -1, stack).max(-1)
    frames_read, there_read = projected, there
    if config.projector.merges:
        frames_read, there_read = spelling.merged(projected, there, transformer.unembedding(params["decoder"]))
    marks = jnp.broadcast_to(own["marks"][:, None, None], (2, heard.shape[0], 1, projected.shape[2]))
    one = jnp.ones((heard.shape[0], 1))
    x = jnp.concatenate([marks[0].astype(projected.dtype), frames_read, marks[1].astype(projected.dtype)], 1)
    read = constrain(x, "batch", None, "embed")
    return Told(read, jnp.concatenate([one, there_read, one], 1), projected, there)


def _projected(params: Params, stacked: jax.Array, dropout: Dropout | None) -> jax.Array:
    """Frames of the encoder, side by side (B, A, heard), as the decoder reads them (B, A, D)."""
    x = _normed(params["norm"], stacked)
    x = x if dropout is None else dropout.dropped("up", x)
    if params["up"].ndim == 2:
        x = x @ params["up"]
    else:  # silence is zeros, as is what stands before the first and behind the last of them
        x = jax.lax.conv_general_dilated(x, params["up"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    hidden = constrain(jax.nn.gelu(x + params["up_b"]), "batch", None, "mlp")
    hidden = hidden if dropout is None else dropout.dropped("down", hidden)
    return jnp.add(hidden @ params["down"], params["down_b"])


def _normed(scale: jax.Array, x: jax.Array) -> jax.Array:
    """RMS norm."""
    wide = x.astype(jnp.float32)
    normed: jax.Array = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + EPSILON) * scale
    return normed.astype(x.dtype)

"""An encoder of residual convolutions and its loss by connectionist temporal classification."""

from functools import partial
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from trialfleet.config.asr import CtcEncoder
from trialfleet.training import trees
from trialfleet.training.convolution import over_time
from trialfleet.training.mesh import constrain
from trialfleet.training.random import normals, uniforms
from trialfleet.training.remat import rematerialized
from trialfleet.training.workload import Hyperparameters, Params, Product
from trialfleet.workloads.asr.text import BLANK, CLASSES


def init(config: CtcEncoder, features: int, key: jax.Array) -> Params:
    """Weights with the variance that keeps a signal's size; the last of each residual branch is smaller."""
    width, hidden, taps = config.width, config.width * config.expansion, config.kernel
    shapes: dict[str, tuple[int, ...]] = {"encoder/stem": (taps, features, width), "head/w": (width, CLASSES)}
    for n in range(config.blocks):
        shapes[f"encoder/block{n}/conv"] = (taps, width, width)
        shapes[f"encoder/block{n}/up"] = (width, hidden)
        shapes[f"encoder/block{n}/down"] = (hidden, width)
    # A small head begins near the uniform distribution, far from the plateau of saying blanks only.
    gains = {"conv": 0.5, "down": 0.5, "w": 0.1}
    deviations = {
        path: gains.get(path.rpartition("/")[2], 1.0) / prod(shape[:-1]) ** 0.5 for path, shape in shapes.items()
    }
    flat = normals(key, shapes, deviations)
    flat |= {f"encoder/block{n}/{name}_norm": jnp.ones(width) for n in range(config.blocks) for name in ("conv", "mlp")}
    return trees.unflatten({**flat, "encoder/norm": jnp.ones(width), "head/b": jnp.zeros(CLASSES)})


def axes(config: CtcEncoder) -> dict[str, Any]:
    """The logical axes of what `init` gives."""
    block = {
        "conv_norm": ("embed",),
        "conv": ("kernel", "embed", None),
        "mlp_norm": ("embed",),
        "up": ("embed", "mlp"),
        "down": ("mlp", "embed"),
    }
    blocks = {f"block{n}": block for n in range(config.blocks)}
    encoder = {"stem": ("kernel", None, "embed"), **blocks, "norm": ("embed",)}
    return {"encoder": encoder, "head": {"w": ("embed", "vocab"), "b": ("vocab",)}}


def logits(
    config: CtcEncoder,
    params: Params,
    frames: jax.Array,
    frame_count: jax.Array,
    hp: Hyperparameters,
    key: jax.Array | None,
    remat: Literal["none", "dots", "full"] = "none",
) -> jax.Array:
    """Scores of labels (B, T, CLASSES), float32.

    Args:
        frames: (B, T, features).
        frame_count: (B,); what lies behind is never seen.
        key: for noise and dropout while training; None: neither.
    """
    encoder = params["encoder"]
    there = (jnp.arange(frames.shape[1]) < frame_count[:, None]).astype(encoder["stem"].dtype)[..., None]
    chances: list[jax.Array] = []
    if key is not None:
        widths = [frames.shape[2]] + [config.width * config.expansion] * config.blocks
        noise, *chances = uniforms(key, frames.shape[:2], widths)
        frames = frames + hp["model.input_noise"] * _normal(noise)
    x = jax.nn.gelu(over_time(frames.astype(there.dtype) * there, encoder["stem"]))
    for n in range(config.blocks):
        kept = chances[n] >= hp["model.dropout"] if key is not None else None
        # Later blocks look further: a whole digit is heard from the middle of it.
        block = rematerialized(partial(_block, dilation=1 if n == 0 else 2), remat)
        x = block(encoder[f"block{n}"], x, there, kept, hp)
    scores: jax.Array = _norm(x, encoder["norm"]) @ params["head"]["w"] + params["head"]["b"]
    return scores.astype(jnp.float32)


def _block(
    weights: Params, x: jax.Array, there: jax.Array, kept: jax.Array | None, hp: Hyperparameters, dilation: int
) -> jax.Array:
    """A residual convolution and a residual layer of two products (B, T, width).

    Args:
        there: (B, T, 1), 0 behind the end of an example.
        kept: (B, T, hidden), what dropout leaves; None: everything.
    """
    x = x + over_time(_norm(x, weights["conv_norm"]) * there, weights["conv"], dilation=dilation)
    h = constrain(jax.nn.gelu(_norm(x, weights["mlp_norm"]) @ weights["up"]), "batch", None, "mlp")
    if kept is not None:
        # The rate is an input, so that no trial compiles anew for another one.
        h = jnp.where(kept, h / (1 - hp["model.dropout"]).astype(h.dtype), 0)
    return constrain(x + h @ weights["down"], "batch", None, "embed")


def products(config: CtcEncoder, features: int, frames: int) -> list[Product]:
    """Those of a forward pass over one example: two operations for each weight and frame."""
    width, hidden = config.width, config.width * config.expansion
    weights = {"encoder/stem": config.kernel * features * width}
    for n in range(config.blocks):
        weights[f"encoder/block{n}/conv"] = config.kernel * width * width
        weights[f"encoder/block{n}/up"] = weights[f"encoder/block{n}/down"] = width * hidden
    return [Product(2.0 * frames * size, path) for path, size in {**weights, "head/w": width * CLASSES}.items()]


def losses(scores: jax.Array, frame_count: jax.Array, labels: jax.Array, label_count: jax.Array) -> jax.Array:
    """-log p(labels | frames) of each example (B,), in nats."""
    padded_frames = (jnp.arange(scores.shape[1]) >= frame_count[:, None]).astype(jnp.float32)
    padded_labels = (jnp.arange(labels.shape[1]) >= label_count[:, None]).astype(jnp.float32)
    nats: jax.Array = optax.ctc_loss(scores, padded_frames, labels, padded_labels, blank_id=BLANK)
    return nats


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    size = jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + 1e-6)
    return (wide * size).astype(x.dtype) * scale


def _normal(chances: jax.Array) -> jax.Array:
    """Standard normal numbers from uniform ones, by the inverse of their distribution."""
    return 2**0.5 * jax.lax.erf_inv(jnp.clip(2 * chances - 1, -1 + 1e-6, 1 - 1e-6))

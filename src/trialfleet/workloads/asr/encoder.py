"""The encoder of Whisper (Radford et al. 2022, arXiv:2212.04356).

Shapes: B recordings of F frames with M mel bands, D the width, N heads of H. Behind the second convolution there is a
frame for every two, T = ⌈F / 2⌉. Whisper hears 30 s with silence behind; here spectrograms may be shorter. `valid`
(B, T) says which frames are looked at: all, as Whisper does, or those of the recording alone, so that nothing depends
on how much is behind it.

Layers are stacked and scanned over, as in `trialfleet.workloads.decoder.transformer`.
"""

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.asr_decoder import AudioEncoder
from trialfleet.training import trees
from trialfleet.training.attention import attention
from trialfleet.training.mesh import constrain
from trialfleet.training.random import normals
from trialfleet.training.remat import Remat, rematerialized
from trialfleet.training.workload import Params, Product

EPSILON = 1e-5  # of the layer norms
_TAPS = 3  # of both convolutions
_NORMS = ("attn_norm", "mlp_norm")  # of a layer
_WITHOUT_BIAS = ("attn/key",)


def init(config: AudioEncoder, key: jax.Array) -> Params:
    """Weights with the variance that keeps a signal's size; norms multiply by 1, biases are 0."""
    every = shapes(config)
    drawn = {path: shape for path, shape in every.items() if path.endswith("/w")}
    deviations = {path: prod(shape[stack(path) : -outputs(path)]) ** -0.5 for path, shape in drawn.items()}
    flat = normals(key, drawn, deviations)
    for path, shape in every.items():
        if path not in drawn:
            flat[path] = jnp.full(shape, 1.0 if path.endswith("/scale") else 0.0)
    return trees.unflatten(flat)


def shapes(config: AudioEncoder) -> dict[str, tuple[int, ...]]:
    """The shapes of what `init` gives."""
    width, head = config.width, (config.heads, config.width // config.heads)
    layer: dict[str, tuple[int, ...]] = {}
    for name in _NORMS:
        layer |= {f"{name}/scale": (width,), f"{name}/b": (width,)}
    for name in ("attn/query", "attn/key", "attn/value"):
        layer |= {f"{name}/w": (width, *head)} | ({} if name in _WITHOUT_BIAS else {f"{name}/b": head})
    layer |= {"attn/out/w": (*head, width), "attn/out/b": (width,)}
    layer |= {"mlp/up/w": (width, config.hidden), "mlp/up/b": (config.hidden,)}
    layer |= {"mlp/down/w": (config.hidden, width), "mlp/down/b": (width,)}
    return {
        "conv1/w": (_TAPS, config.bands, width),
        "conv1/b": (width,),
        "conv2/w": (_TAPS, width, width),
        "conv2/b": (width,),
        **{f"layers/{name}": (config.layers, *shape) for name, shape in layer.items()},
        "final_norm/scale": (width,),
        "final_norm/b": (width,),
    }


def stack(path: str) -> int:
    """The axes that a leaf has because layers are stacked."""
    return 1 if path.startswith("layers/") else 0


def outputs(path: str) -> int:
    """The axes of a weight that its output has."""
    return 2 if path.startswith(("layers/attn/query", "layers/attn/key", "layers/attn/value")) else 1


def axes(config: AudioEncoder) -> dict[str, Any]:
    """The logical axes of what `init` gives."""
    heads, named = ("heads", None), {}
    of_layer = {
        "attn/out/w": (*heads, "embed"),
        "mlp/up/w": ("embed", "mlp"),
        "mlp/up/b": ("mlp",),
        "mlp/down/w": ("mlp", "embed"),
    }
    for name in ("attn/query", "attn/key", "attn/value"):
        of_layer |= {f"{name}/w": ("embed", *heads), f"{name}/b": heads}
    for path, shape in shapes(config).items():
        name = path.removeprefix("layers/")
        if path.startswith("layers/"):
            named[path] = ("stack", *of_layer.get(name, (None,) * (len(shape) - 1)))
        else:
            named[path] = ("kernel", None, "embed") if path.endswith("/w") else (None,)
    return dict(trees.unflatten(named))


def encode(
    config: AudioEncoder, params: Params, features: jax.Array, valid: jax.Array, remat: Remat = "none"
) -> jax.Array:
    """What the encoder hears in spectrograms (B, F, M): (B, T, D), normalised."""
    features = features.astype(params["conv1"]["w"].dtype)
    x = jax.nn.gelu(_convolved(params["conv1"], features, 1), approximate=False)
    x = jax.nn.gelu(_convolved(params["conv2"], x, 2), approximate=False)
    x = constrain(x + positions(x.shape[1], config.width).astype(x.dtype), "batch", None, "embed")
    mask = jnp.broadcast_to(valid[:, None, :] > 0, (x.shape[0], x.shape[1], x.shape[1]))

    def one(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        h, own = _norm(layer["attn_norm"], x), layer["attn"]
        q, k, v = (_into_heads(own[name], h) for name in ("query", "key", "value"))
        q = constrain(q, "batch", None, "heads", None)
        mixed = jnp.einsum("btnh,nhd->btd", attention(q, k, v, mask), own["out"]["w"]) + own["out"]["b"]
        x = constrain(x + mixed, "batch", None, "embed")
        h, own = _norm(layer["mlp_norm"], x), layer["mlp"]
        hidden = jax.nn.gelu(h @ own["up"]["w"] + own["up"]["b"], approximate=False)
        hidden = constrain(hidden, "batch", None, "mlp")
        return constrain(x + hidden @ own["down"]["w"] + own["down"]["b"], "batch", None, "embed"), None

    x, _ = jax.lax.scan(rematerialized(one, remat), x, params["layers"])
    return _norm(params["final_norm"], x)


def products(config: AudioEncoder, frames: int) -> list[Product]:
    """Those of hearing one spectrogram of so many frames, in order."""
    every, heard = shapes(config), (frames + 1) // 2
    times = {"conv1/w": frames}
    found = []
    for path, shape in every.items():
        if path == "layers/attn/out/w":
            found.append(Product(2.0 * config.layers * heard * 2 * heard * config.width))  # scores, and what they mix
        if path.endswith("/w"):
            found.append(Product(2.0 * times.get(path, heard) * prod(shape), path))
    return found


def _into_heads(params: Params, x: jax.Array) -> jax.Array:
    found: jax.Array = jnp.einsum("btd,dnh->btnh", x, params["w"])
    return found if "b" not in params else jnp.add(found, params["b"])


def _convolved(params: Params, x: jax.Array, stride: int) -> jax.Array:
    """Three taps around every frame, or every second one."""
    kinds = ("NWC", "WIO", "NWC")
    found = jax.lax.conv_general_dilated(x, params["w"], (stride,), [(1, 1)], dimension_numbers=kinds)
    return jnp.add(found, params["b"])


def _norm(params: Params, x: jax.Array) -> jax.Array:
    """Layer norm, in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, -1, keepdims=True)
    size = jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + EPSILON)
    normed: jax.Array = centred * size * params["scale"].astype(jnp.float32) + params["b"].astype(jnp.float32)
    return normed.astype(x.dtype)


def positions(count: int, width: int) -> np.ndarray:
    """Sines, then cosines, of wavelengths from 2π to 20,000π frames (count, width), float32."""
    rates = np.exp(-np.log(10_000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(count)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)

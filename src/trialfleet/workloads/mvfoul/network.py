"""A network for clips from several cameras: each view is seen by itself, views are joined, two heads judge.

Shapes: B clips of V views, N = B·V views of T frames; K severities, L actions.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from trialfleet.config.mvfoul_models import Factored, FoulModel, Mvit, Network, Resnet3d
from trialfleet.training.mesh import constrain
from trialfleet.training.random import uniforms
from trialfleet.training.remat import Remat
from trialfleet.training.workload import Extra, Hyperparameters, Params, Product, PyTree
from trialfleet.workloads.mvfoul import factored, leaves, mvit, resnet3d, views
from trialfleet.workloads.mvfoul.leaves import Leaf

# Each has: units, leaves, stored, features, products.
_BACKBONES: dict[type[FoulModel], ModuleType] = {Factored: factored, Resnet3d: resnet3d, Mvit: mvit}
_OF_BACKBONE = 2  # its random key; those of the heads are their numbers


class Scores(NamedTuple):
    """Logits of the two questions, float32."""

    severity: jax.Array
    action: jax.Array


class Shape(NamedTuple):
    """What a network must know of the clips and the questions.

    Attributes:
        size: pixels of a frame's side.
        classes: of severity and of action.
    """

    frames: int
    size: int
    classes: tuple[int, int]


class Seen(NamedTuple):
    """What the network makes of a batch."""

    joined: Scores  # (B, K), (B, L)
    single: Scores  # by view (B, V, K), (B, V, L)
    load: jax.Array  # how unevenly experts were chosen; 0 without experts
    extra: Extra


def backbone(config: Network) -> ModuleType:
    """The module of what sees a view."""
    return _BACKBONES[type(config)]


def table(config: Network, shape: Shape) -> dict[str, Leaf]:
    """All parameters by path."""
    features, hidden = config.features(shape.frames), config.head_hidden
    found = dict[str, Leaf](leaves.under("backbone", backbone(config).leaves(config, *shape[:2])))
    found |= leaves.under("heads", views.leaves(config, features))
    for head, count in zip(Scores._fields, shape.classes, strict=True):
        found[f"heads/{head}/w"] = Leaf((features, hidden), ("embed", "mlp"), (2 / features) ** 0.5)
        found[f"heads/{head}/out"] = Leaf((hidden, count), ("mlp", "vocab"), 0.1 * hidden**-0.5)
        found[f"heads/{head}/b"] = Leaf((hidden,), ("mlp",))
        found[f"heads/{head}/out_b"] = Leaf((count,), ("vocab",))
    return found


def init(config: Network, shape: Shape, key: jax.Array) -> tuple[Params, Extra]:
    """Weights with the variance that keeps a signal's size, and the stored statistics of batch norm."""
    return leaves.initial(table(config, shape), key), stored(config)


def axes(config: Network, shape: Shape) -> PyTree:
    """The logical axes of what `init` gives."""
    return leaves.axes(table(config, shape))


def units(config: Network) -> Sequence[str]:
    """The freeze units of the backbone, from pixels on."""
    return cast(Sequence[str], backbone(config).units(config))


def stored(config: Network) -> Extra:
    """The statistics of batch norm at first."""
    return backbone(config).stored(config)


def scores(
    config: Network,
    params: Params,
    extra: Extra,
    video: jax.Array,
    mask: jax.Array,
    hp: Hyperparameters,
    key: jax.Array | None,
    remat: Remat = "none",
) -> Seen:
    """Logits for each clip, and for each of its views alone.

    Args:
        video: (B, V, T, H, W, 3) uint8.
        mask: (B, V), 1 where there is a view; what others show is never seen, not even in statistics.
        key: for dropout, and to use the batch's own statistics; None: neither, as in evaluation.
    """
    x = _scaled(config, video, params["heads"]["severity"]["w"].dtype)
    of_backbone = None if key is None else jax.random.fold_in(key, _OF_BACKBONE)
    given = (params["backbone"], extra, x, mask.reshape(-1), hp, of_backbone, remat)
    features, extra = backbone(config).features(config, *given)
    features = features.reshape(*mask.shape, -1)
    clips, load = views.joined(config, params["heads"], features, mask)
    alone = _alone(config, params["heads"], features)
    everything = jnp.concatenate([alone, clips[:, None]], 1)  # (B, V + 1, C)
    heads = []
    for index, head in enumerate(Scores._fields):
        own = params["heads"][head]
        hidden = constrain(jax.nn.relu(everything @ own["w"] + own["b"]), "batch", None, "mlp")
        if key is not None:
            [chances] = uniforms(jax.random.fold_in(key, index), hidden.shape[:2], hidden.shape[2:])
            hidden = jnp.where(chances >= hp["model.dropout"], hidden / (1 - hp["model.dropout"]), 0)
        heads.append((hidden @ own["out"] + own["out_b"]).astype(jnp.float32))
    return Seen(Scores(*(head[:, -1] for head in heads)), Scores(*(head[:, :-1] for head in heads)), load, extra)


def _alone(config: FoulModel, params: Params, features: jax.Array) -> jax.Array:
    """What clips of one view would be joined to, for each view (B, V, C)."""
    if config.aggregator == "none":
        return features
    count = features.shape[0] * features.shape[1]
    clips = views.joined(config, params, features.reshape(count, 1, -1), jnp.ones((count, 1))).clips
    return clips.reshape(features.shape)


def _scaled(config: FoulModel, video: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Pixels of all views (N, T, H, W, 3), as the network was made for them."""
    pixels = video.reshape(-1, *video.shape[2:]).astype(jnp.float32)
    mean, std = (255 * jnp.asarray(each, jnp.float32) for each in (config.pixel_mean, config.pixel_std))
    return ((pixels - mean) / std).astype(dtype)


def products(config: Network, shape: Shape, count: int) -> list[Product]:
    """Those of a forward pass over a clip of so many views, beside which joining and judging are nothing."""
    of_view = cast(list[tuple[str, float]], backbone(config).products(config, *shape[:2]))
    return [Product(count * flops, f"backbone/{path}" if path else "") for path, flops in of_view]

"""Changes of training clips, each alike over all frames of a clip. Shapes: V views, T frames."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from trialfleet.config.mvfoul import Clips

Views = list[np.ndarray]  # of an action, each (T, H, W, 3), uint8


def changed(views: Views, data: Clips, rng: np.random.Generator) -> Views:
    """An action mirrored with a chance of `flip`, its clips turned, and seen in other light and colours."""
    mirrored = rng.random() < data.flip
    found = []
    for view in views:
        angle = data.rotation * rng.uniform(-1, 1)
        clip = _turned(view, angle) if data.rotation else view
        clip = _recoloured(clip, data.colour_jitter, rng) if data.colour_jitter else clip
        found.append(clip[:, :, ::-1] if mirrored else clip)
    return found


def _turned(clip: np.ndarray, angle: float) -> np.ndarray:
    """Turned around the middle by an angle in degrees; what comes in from outside is black."""
    turned = [Image.fromarray(frame).rotate(angle, Image.Resampling.BILINEAR) for frame in clip]
    return np.stack([np.asarray(frame) for frame in turned])


def _recoloured(clip: np.ndarray, most: float, rng: np.random.Generator) -> np.ndarray:
    brightness, contrast = 1 + most * rng.uniform(-1, 1, 2)
    colours = 1 + 0.5 * most * rng.uniform(-1, 1, 3)
    values = ((np.arange(256) - 127.5) * contrast + 127.5 * brightness)[:, None] * colours
    table = np.clip(values, 0, 255).astype(np.uint8)
    return np.stack([table[clip[..., colour], colour] for colour in range(3)], -1)


class Blend(NamedTuple):
    """Two actions as one.

    Attributes:
        share: that the first one has in what is seen, and so in the loss.
    """

    views: Views
    share: float


def blended(views: Views, others: Views, data: Clips, rng: np.random.Generator) -> Blend:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412) or CutMix (Yun et al. 2019, arXiv:1905.04899), by the config.

    The n-th view of the first is blended with the n-th of the second, which begins anew where it has fewer.
    """
    cuts = bool(data.cutmix) and (not data.mixup or rng.random() < 0.5)
    alpha = data.cutmix if cuts else data.mixup
    share = float(rng.beta(alpha, alpha))
    pairs = [(view, others[index % len(others)]) for index, view in enumerate(views)]
    if not cuts:
        mixed = [(share * one + (1 - share) * other).round().astype(np.uint8) for one, other in pairs]
        return Blend(mixed, share)
    height, width = views[0].shape[1:3]
    high, wide = (round(side * (1 - share) ** 0.5) for side in (height, width))
    top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    window = (slice(None), slice(top, top + high), slice(left, left + wide))
    cut = []
    for one, other in pairs:
        copy = one.copy()
        copy[window] = other[window]
        cut.append(copy)
    return Blend(cut, 1 - high * wide / (height * width))

"""Rendered collisions of two bodies on a pitch, seen from several cameras.

How one body comes at the other tells the action, what becomes of the other tells the severity; nothing but the
pixels says either. A world unit is a body's height, time runs from -1 to 1 with the impact near 0.
"""

from typing import NamedTuple

import numpy as np

from trialfleet.config.mvfoul import ACTIONS

_APPROACH = {"behind": 0.0, "side": 0.5 * np.pi, "front": np.pi}  # angle between the two directions
_HALF_WIDTH = 2.0  # world units from the middle of a frame to its edge
_GRASS, _SHADOW = np.array([0.25, 0.5, 0.2]), np.array([0.12, 0.28, 0.1])
_KITS = np.array([[0.9, 0.25, 0.2], [0.9, 0.9, 0.95]])  # who comes, who is hit


class Body(NamedTuple):
    """Feet and head over time (T, 3): x and y on the ground, z up."""

    feet: np.ndarray
    head: np.ndarray


def clip(severity: float, action: int, views: int, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """The views of one collision (views, frames, size, size, 3), uint8.

    Args:
        severity: strength of the impact, 0 to 1.
        action: index in `ACTIONS`.
    """
    times = np.linspace(-1, 1, frames) + rng.uniform(-0.5, 0.5) / frames
    bodies = motion(severity, ACTIONS[action], times, rng)
    # Cameras look from all around, so that no two views show the same.
    azimuths = rng.uniform(0, 2 * np.pi) + np.arange(views) * 2 * np.pi / views + rng.normal(0, 0.2, views)
    elevations = rng.uniform(0.45, 0.75, views)
    picture = np.stack([_view(bodies, a, e, size) for a, e in zip(azimuths, elevations, strict=True)])
    picture = picture * rng.uniform(0.85, 1.15) + rng.normal(0, 0.03, picture.shape).astype(np.float32)
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def motion(severity: float, action: str, times: np.ndarray, rng: np.random.Generator) -> tuple[Body, Body]:
    """Who comes and who is hit, over time."""
    posture, _, side = action.partition("-")
    heading = rng.uniform(0, 2 * np.pi)
    angle = heading + rng.choice([-1, 1]) * _APPROACH.get(side, 0.0) + rng.normal(0, 0.12)
    ahead, onto = _direction(heading), _direction(angle)
    before, after = np.minimum(times, 0)[:, None], np.maximum(times, 0)[:, None]
    strength = np.clip(severity + rng.normal(0, 0.03), 0, 1)
    if posture == "hold":  # side by side all the time, pulled back in the end
        beside = np.array([-ahead[1], ahead[0]]) * rng.choice([-1, 1])
        hit = ahead * 0.7 * before + beside * (0.2 + 1.9 * strength) * after
        comer = hit + beside * (-0.35 - 0.6 * strength * after)
        onto = beside
    else:
        hit = ahead * 0.7 * before + onto * (0.1 + 2.0 * strength) * after
        comer = onto * (1.9 * before + 0.25 * after - 0.3)
    fall = 0.5 * np.pi * strength * np.clip(4 * times, 0, 1)
    return _body(comer, onto, posture, times), _standing(hit, onto, fall, np.zeros_like(times))


def _body(position: np.ndarray, direction: np.ndarray, posture: str, times: np.ndarray) -> Body:
    if posture == "slide":  # feet first, flat on the ground
        return _standing(position + 0.8 * direction, -direction, np.full_like(times, 1.35), np.zeros_like(times))
    height = 0.9 * np.clip(1 - times**2 * 1.5, 0, 1) if posture == "jump" else np.zeros_like(times)
    return _standing(position, direction, np.full_like(times, 0.15), height)


def _standing(position: np.ndarray, direction: np.ndarray, tilt: np.ndarray, height: np.ndarray) -> Body:
    """A body at (T, 2), tilted from upright (radians) towards a direction, its feet at a height (T,)."""
    feet = np.concatenate([position, height[:, None]], 1)
    lean = np.sin(tilt)[:, None] * direction
    return Body(feet, feet + np.concatenate([lean, np.cos(tilt)[:, None]], 1))


def _view(bodies: tuple[Body, Body], azimuth: float, elevation: float, size: int) -> np.ndarray:
    """What a camera far away sees (T, size, size, 3), float32."""
    frames = len(bodies[0].feet)
    picture = np.broadcast_to(_GRASS.astype(np.float32), (frames, size, size, 3))
    flat = np.array([1.0, 1.0, 0.0])
    for body in bodies:
        shadow = _drawn(body.feet * flat, body.head * flat, azimuth, elevation, size, 0.15)
        picture = picture + shadow * (_SHADOW.astype(np.float32) - picture)
    depth = [_projected(body.feet, azimuth, elevation)[:, 2].mean() for body in bodies]
    for index in np.argsort(depth)[::-1]:  # whoever is nearer is drawn last
        body = bodies[index]
        cover = _drawn(body.feet, body.head, azimuth, elevation, size, 0.2)
        picture = picture + cover * (_KITS[index].astype(np.float32) - picture)
    return picture


def _projected(points: np.ndarray, azimuth: float, elevation: float) -> np.ndarray:
    """Points (T, 3) as right, down and depth of an orthographic camera."""
    sideways = np.array([-np.sin(azimuth), np.cos(azimuth), 0])
    away = np.array([np.cos(azimuth), np.sin(azimuth), 0])
    up = np.array([0, 0, 1.0])
    down = -away * np.sin(elevation) - up * np.cos(elevation)
    seen: np.ndarray = points @ np.stack([sideways, down, away * np.cos(elevation) - up * np.sin(elevation)], 1)
    return seen


def _drawn(
    feet: np.ndarray, head: np.ndarray, azimuth: float, elevation: float, size: int, radius: float
) -> np.ndarray:
    """How much of each pixel the line from feet to head covers (T, size, size, 1)."""
    scale = size / (2 * _HALF_WIDTH)
    start, end = (_projected(point, azimuth, elevation)[:, None, None, :2].astype(np.float32) for point in (feet, head))
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / scale) - _HALF_WIDTH
    pixels = np.stack(np.meshgrid(axis, axis, indexing="xy"), -1)
    along = end - start
    share = np.clip(((pixels - start) * along).sum(-1) / ((along**2).sum(-1) + 1e-6), 0, 1)
    distance = np.sqrt(((pixels - start - share[..., None] * along) ** 2).sum(-1))
    cover: np.ndarray = np.clip((radius - distance) * scale + 0.5, 0, 1)
    return cover[..., None]


def _direction(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])

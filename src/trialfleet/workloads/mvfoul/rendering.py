"""What cameras around a pitch see of a collision."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from trialfleet.workloads.mvfoul import collision_scene
from trialfleet.workloads.mvfoul.collision_scene import Limb

FRAMES, CONTACT = 125, 75  # of a clip, as in SoccerNet-MVFoul
_WINDOW = 7.5  # frames from the contact to what a scene calls 1
_NEAR, _SKIPPED = 20, 3  # further from the contact only each third frame is drawn, and stands until the next
_ASIDE = 0.3  # how far from the middle of a picture the contact may be, in halves of its side
_KITS = ((224, 62, 50), (235, 235, 245), (245, 200, 40))  # who comes, who is hit, who stands by
_SKINS = ((240, 200, 170), (150, 105, 75))
_LINE = (225, 235, 225)


class Camera(NamedTuple):
    """Far away, looking somewhere near the contact.

    Attributes:
        azimuth, elevation: radians.
        reach: units from the middle of a picture to its edge.
        slow: how many times slower than life it is played.
        shake: what the middle of a picture is off by (T, 2), in units.
        blocked: whether somebody stands before it.
    """

    azimuth: float
    elevation: float
    reach: float
    slow: float
    shake: np.ndarray
    blocked: bool


def cameras(count: int, rng: np.random.Generator) -> list[Camera]:
    """A live one, which sees more and from higher, and replays: nearer, slower, some of them blocked."""
    first = rng.uniform(0, 2 * np.pi)
    found = []
    for number in range(count):
        live = number == 0
        azimuth = first + number * 2 * np.pi / max(count, 2) + rng.normal(0, 0.25)
        elevation = rng.uniform(0.5, 0.75) if live else rng.uniform(0.2, 0.6)
        reach = rng.uniform(1.5, 1.8) if live else rng.uniform(1.2, 1.5)
        slow = 1.0 if live else round(float(rng.uniform(1.0, 1.4)), 1)
        blocked = not live and bool(rng.random() < 0.3)
        aside = rng.uniform(-_ASIDE, _ASIDE, 2) * reach
        found.append(Camera(azimuth, elevation, reach, slow, aside + _shake(rng), blocked))
    return found


def _shake(rng: np.random.Generator) -> np.ndarray:
    """A hand that is not quite still: slow and quick swings together (T, 2)."""
    times = np.arange(FRAMES)[:, None] / 25
    strength = rng.uniform(0.01, 0.06, (2, 2))
    swings = [
        strength[kind] * np.sin(2 * np.pi * rng.uniform(low, high, 2) * times + rng.uniform(0, 2 * np.pi, 2))
        for kind, (low, high) in enumerate(((0.2, 0.7), (2.0, 5.0)))
    ]
    return np.asarray(swings[0] + 0.4 * swings[1])


def clip(
    action: str, strength: float, camera: Camera, size: int, seed: Sequence[int], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """The frames of what one camera sees, each (size, size, 3), uint8.

    Args:
        action: a class of the challenge.
        strength: of the impact, 0 to 1.
        seed: of the scene, which is the same for all cameras.
        rng: of what differs between cameras.
    """
    times = (np.arange(FRAMES) - CONTACT) / _WINDOW / camera.slow
    shared = np.random.default_rng(seed)
    players = collision_scene.scene(action, strength, times, shared)
    skins = [_SKINS[index] for index in shared.integers(0, len(_SKINS), 3)]
    grass = np.asarray([62, 128, 52]) * shared.uniform(0.8, 1.2)
    ground = [_of_pitch(shared) for _ in range(2)]
    if camera.blocked:
        towards = -np.asarray([np.cos(camera.azimuth), np.sin(camera.azimuth)])
        aside = np.asarray([-towards[1], towards[0]]) * rng.uniform(-0.6, 0.6)
        players.append(collision_scene.bystander(towards * rng.uniform(0.9, 1.3) + aside, times, rng))
    light = rng.uniform(0.85, 1.15)
    drawn = sorted(_drawn(players, skins, camera, size, light), key=lambda one: one.depth, reverse=True)
    lines = [_projected(line, camera, size)[..., :2] for line in ground]
    background = tuple(int(value) for value in np.clip(grass * light, 0, 255))
    shadow = tuple(int(0.6 * value) for value in background)
    picture = Image.new("RGB", (size, size), background)
    for frame in range(FRAMES):
        if abs(frame - CONTACT) > _NEAR and frame % _SKIPPED:
            yield np.asarray(picture)
            continue
        picture = Image.new("RGB", (size, size), background)
        draw = ImageDraw.Draw(picture)
        for line in lines:
            draw.line([*line[frame].ravel()], _LINE, 1)
        for spot in (one for one in drawn if one.shadow is not None):
            _stick(draw, spot.shadow[frame], spot.radius, shadow)  # type: ignore[index]  # of those that have one
        for one in drawn:
            _stick(draw, one.ends[frame], one.radius, one.colour)
        yield np.asarray(picture)


class _Drawn(NamedTuple):
    """A limb as a camera sees it: ends (T, 2, 2) and radius in pixels, mean depth, its shadow's ends."""

    ends: np.ndarray
    radius: float
    colour: tuple[int, ...]
    depth: float
    shadow: np.ndarray | None


def _drawn(
    players: Sequence[Sequence[Limb]], skins: Sequence[tuple[int, ...]], camera: Camera, size: int, light: float
) -> Iterator[_Drawn]:
    for number, limbs in enumerate(players):
        for limb in limbs:
            own = {"kit": np.asarray(_KITS[number]), "shorts": np.asarray(_KITS[number]) * 0.7}
            colour = own.get(limb.part, np.asarray(skins[number])) * light
            seen = _projected(np.stack([limb.start, limb.end], 1), camera, size)
            flat = np.stack([limb.start, limb.end], 1) * [1.0, 1.0, 0.0]
            near = float(seen[CONTACT - 8 : CONTACT + 8, :, 2].mean())
            yield _Drawn(
                seen[..., :2],
                limb.radius * size / (2 * camera.reach),
                tuple(int(value) for value in np.clip(colour, 0, 255)),
                near,
                _projected(flat, camera, size)[..., :2] if limb.part == "kit" else None,
            )


def _of_pitch(rng: np.random.Generator) -> np.ndarray:
    """A line on the ground (T, 2, 3) somewhere near."""
    middle, angle = rng.uniform(-1.5, 1.5, 2), rng.uniform(0, np.pi)
    along = 6 * np.asarray([np.cos(angle), np.sin(angle)])
    ends = np.concatenate([np.stack([middle - along, middle + along]), np.zeros((2, 1))], 1)
    return np.broadcast_to(ends, (FRAMES, 2, 3))


def _projected(points: np.ndarray, camera: Camera, size: int) -> np.ndarray:
    """Points (T, P, 3) in pixels to the right and down, and how far away they are, without perspective."""
    azimuth, elevation = camera.azimuth, camera.elevation
    sideways = np.asarray([-np.sin(azimuth), np.cos(azimuth), 0])
    away, up = np.asarray([np.cos(azimuth), np.sin(azimuth), 0]), np.asarray([0, 0, 1.0])
    down = -away * np.sin(elevation) - up * np.cos(elevation)
    depth = away * np.cos(elevation) - up * np.sin(elevation)
    seen = (points - [0.0, 0.0, 0.4]) @ np.stack([sideways, down, depth], 1)
    seen[..., :2] = (seen[..., :2] - camera.shake[:, None] + camera.reach) * size / (2 * camera.reach)
    return np.asarray(seen)


def _stick(draw: ImageDraw.ImageDraw, ends: np.ndarray, radius: float, colour: tuple[int, ...]) -> None:
    (x, y), (u, v) = ends.tolist()
    if (x, y) != (u, v):
        draw.line((x, y, u, v), colour, max(1, round(2 * radius)))
    if radius >= 1:
        for a, b in ((x, y), (u, v)):
            draw.ellipse((a - radius, b - radius, a + radius, b + radius), colour)

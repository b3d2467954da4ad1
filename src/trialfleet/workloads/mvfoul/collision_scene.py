"""How two players come together on a pitch: limbs in space over time.

How one player comes at the other tells the action, what becomes of the other tells the severity. A unit of length is a
player's height; times run from -1 to 1 within the frames around the contact, which is at 0. Shapes: T frames.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_HIP, _NECK, _HEAD = 0.5, 0.84, 0.95  # heights of an upright player
_LEG, _TORSO, _SKULL, _ARM = 0.06, 0.11, 0.1, 0.045  # radii


class Limb(NamedTuple):
    """A rounded stick; a ball where both ends are one place.

    Attributes:
        start, end: (T, 3): x and y on the ground, z up.
        part: 'kit', 'shorts' or 'skin', of which the colour follows.
    """

    start: np.ndarray
    end: np.ndarray
    radius: float
    part: str


class Pose(NamedTuple):
    """A player over time.

    Attributes:
        place: of the feet on the ground (T, 2).
        facing: a direction on the ground (2,).
        lean: from upright towards `leaning` (T,), radians.
        leaning: a direction on the ground (2,).
        height: of the feet above the ground (T,).
        stride: phase of running (T,), radians; legs are still where `running` is 0.
        running: how wide the strides are (T,), 0 to 1.
        leg: where the right foot is put instead, from the hip: ahead and up (T, 2); not where both are 0.
        arms: where both hands are, from the neck: ahead, outwards and up (T, 3).
    """

    place: np.ndarray
    facing: np.ndarray
    lean: np.ndarray
    leaning: np.ndarray
    height: np.ndarray
    stride: np.ndarray
    running: np.ndarray
    leg: np.ndarray
    arms: np.ndarray


def scene(action: str, strength: float, times: np.ndarray, rng: np.random.Generator) -> list[list[Limb]]:
    """The limbs of who comes and of who is hit.

    Args:
        action: a class of the challenge.
        strength: of the impact, 0 to 1.
    """
    heading = rng.uniform(0, 2 * np.pi)
    side = rng.choice([-1.0, 1.0])
    strength = float(np.clip(strength + rng.normal(0, 0.03), 0, 1))
    comer, onto = _COMERS[action](times, heading, side, rng)
    hit = _hit(times, _towards(heading), onto, strength, rng)
    drift = rng.uniform(-0.1, 0.1, 2)
    return [_limbs(pose._replace(place=pose.place + drift)) for pose in (comer, hit)]


def bystander(place: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> list[Limb]:
    """Another player, who trots by a place (2,)."""
    towards = _towards(rng.uniform(0, 2 * np.pi))
    return _limbs(
        _runner(place + 0.3 * times[:, None] * towards, towards, times, rng)._replace(running=_all(times, 0.5))
    )


def _hit(times: np.ndarray, ahead: np.ndarray, onto: np.ndarray, strength: float, rng: np.random.Generator) -> Pose:
    """Runs ahead, is thrown from the contact on: the stronger the impact, the further, and the nearer to the ground."""
    before, after = np.clip(times, -3, 0)[:, None], _settling(times)[:, None]
    place = ahead * 0.7 * before + onto * (0.1 + 1.6 * strength) * after
    pose = _runner(place, ahead, times, rng)
    lean = 0.5 * np.pi * strength * np.clip(2.5 * times, 0, 1)
    running = np.where(times < 0, 1.0, np.clip(1 - 2 * times, 0, 1) * (1 - strength))
    thrown = np.clip(3 * times, 0, 1)[:, None] * strength
    arms = (1 - thrown) * pose.arms + thrown * np.asarray([0.1, 0.32, 0.2])
    return pose._replace(lean=lean, leaning=onto, running=running, arms=arms)


def _comes(
    times: np.ndarray, direction: np.ndarray, gap: float, rng: np.random.Generator, aside: np.ndarray | None = None
) -> Pose:
    """A player who runs in a direction and is so near at the contact, beside the other's place by `aside`."""
    before, after = np.clip(times, -3, 0)[:, None], _settling(times)[:, None]
    place = direction * (1.5 * before + 0.25 * after - gap)
    return _runner(place if aside is None else place + aside, direction, times, rng)


def _tackling(times: np.ndarray, heading: float, side: float, rng: np.random.Generator) -> tuple[Pose, np.ndarray]:
    """Slides in on the ground, feet first."""
    direction = _towards(heading + side * rng.uniform(0.35, 0.8) * np.pi)
    pose = _comes(times, direction, -0.1, rng)
    down = np.clip((times + 1.3) * 2.5, 0, 1)
    leg = np.stack([0.5 * np.ones_like(times), -0.05 * np.ones_like(times)], 1) * down[:, None]
    return pose._replace(lean=1.25 * down, leaning=-direction, running=1 - down, leg=leg), direction


def _standing_tackling(
    times: np.ndarray, heading: float, side: float, rng: np.random.Generator
) -> tuple[Pose, np.ndarray]:
    """Stays upright and puts a foot forward, low."""
    direction = _towards(heading + side * rng.uniform(0.4, 0.9) * np.pi)
    pose = _comes(times, direction, 0.45, rng)
    return pose._replace(leg=_kick(times, 0.42, -0.36), running=_until(times, -0.3)), direction


def _high_leg(times: np.ndarray, heading: float, side: float, rng: np.random.Generator) -> tuple[Pose, np.ndarray]:
    """Lifts a foot to the other's head."""
    direction = _towards(heading + side * rng.uniform(0.6, 1.0) * np.pi)
    pose = _comes(times, direction, 0.5, rng)
    lean = 0.35 * _around(times)
    return pose._replace(
        leg=_kick(times, 0.42, 0.38), running=_until(times, -0.3), lean=lean, leaning=-direction
    ), direction


def _holding(times: np.ndarray, heading: float, side: float, rng: np.random.Generator) -> tuple[Pose, np.ndarray]:
    """Runs along behind, a hand on the other, who is pulled back."""
    ahead, across = _towards(heading), side * _across(heading)
    before, after = np.clip(times, -3, 0)[:, None], _settling(times)[:, None]
    pose = _runner(ahead * (0.7 * before - 0.4 - 0.1 * after) + 0.12 * across, ahead, times, rng)
    return pose._replace(arms=_hands(times, (0.36, 0.05, 0.0), (0.1, 0.1, -0.3), -2.0)), -ahead


def _pushing(times: np.ndarray, heading: float, side: float, rng: np.random.Generator) -> tuple[Pose, np.ndarray]:
    """Comes from behind, both arms stretched out at the contact."""
    direction = _towards(heading + side * rng.uniform(0, 0.15) * np.pi)
    pose = _comes(times, direction, 0.42, rng)
    return pose._replace(arms=_hands(times, (0.4, 0.06, 0.02), (0.12, 0.14, -0.1), -0.6)), direction


def _elbowing(times: np.ndarray, heading: float, side: float, rng: np.random.Generator) -> tuple[Pose, np.ndarray]:
    """Jumps beside the other, elbows out at the height of the head."""
    ahead, across = _towards(heading), side * _across(heading)
    before = np.clip(times, -3, 0)[:, None]
    pose = _runner(ahead * 0.7 * before - across * (0.36 - 0.3 * before), ahead, times, rng)
    arms = _hands(times, (0.0, 0.38, 0.1), (0.1, 0.12, -0.3), -0.8)
    return pose._replace(height=0.45 * _around(times), arms=arms, running=_until(times, -0.6)), across


def _challenge(times: np.ndarray, heading: float, side: float, rng: np.random.Generator) -> tuple[Pose, np.ndarray]:
    """Runs along, comes nearer, and leans a shoulder into the other."""
    ahead, across = _towards(heading), side * _across(heading)
    before, after = np.clip(times, -3, 0)[:, None], _settling(times)[:, None]
    pose = _runner(ahead * 0.7 * (before + after) - across * (0.2 - 0.5 * before), ahead, times, rng)
    return pose._replace(lean=0.45 * np.clip(1 + times, 0, 1), leaning=across), across


def _dive(times: np.ndarray, heading: float, side: float, rng: np.random.Generator) -> tuple[Pose, np.ndarray]:
    """Runs by at a distance: whatever befalls the other, nobody has touched them."""
    ahead, across = _towards(heading), side * _across(heading)
    direction = _towards(heading + side * 0.8 * np.pi)
    return _comes(times, direction, 0.0, rng, aside=across * 0.95), ahead


_Comer = Callable[[np.ndarray, float, float, np.random.Generator], tuple[Pose, np.ndarray]]
_COMERS: dict[str, _Comer] = {
    "Tackling": _tackling,
    "Standing tackling": _standing_tackling,
    "High leg": _high_leg,
    "Holding": _holding,
    "Pushing": _pushing,
    "Elbowing": _elbowing,
    "Challenge": _challenge,
    "Dive": _dive,
}


# ---- limbs and gaits ------------------------------------------------------------------------------------------------


def _runner(place: np.ndarray, facing: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> Pose:
    stride = 7 * times + rng.uniform(0, 2 * np.pi)
    none, arms = np.zeros_like(times), np.broadcast_to([0.1, 0.12, -0.28], (len(times), 3))
    return Pose(place, facing, none, facing, none, stride, _all(times, 1.0), np.zeros((len(times), 2)), arms)


def _limbs(pose: Pose) -> list[Limb]:
    """The sticks of a player, and the ball of the head."""
    facing = np.concatenate([pose.facing, [0.0]])
    across = np.asarray([-pose.facing[1], pose.facing[0], 0.0])
    leaning = np.concatenate([pose.leaning, [0.0]])
    up = np.cos(pose.lean)[:, None] * [0.0, 0.0, 1.0] + np.sin(pose.lean)[:, None] * leaning  # along the body (T, 3)
    feet = np.concatenate([pose.place, pose.height[:, None]], 1)
    hip, neck, head = (feet + height * up for height in (_HIP, _NECK, _HEAD))
    found = [Limb(hip, neck, _TORSO, "kit"), Limb(head, head, _SKULL, "skin")]
    put = (np.abs(pose.leg).sum(1) > 0)[:, None]
    for sign in (-1.0, 1.0):
        swing = (0.3 * pose.running * np.sin(pose.stride) * sign)[:, None]
        foot = hip - _HIP * up * np.sqrt(1 - swing**2) + swing * facing + 0.05 * sign * across
        if sign > 0:
            kicked = hip + pose.leg[:, :1] * facing + pose.leg[:, 1:] * [0.0, 0.0, 1.0]
            foot = np.where(put, kicked, foot)
        foot[:, 2] = np.maximum(foot[:, 2], 0.02)
        found.append(Limb(hip, foot, _LEG, "shorts"))
        shoulder = neck + 0.1 * sign * across
        hand = shoulder + pose.arms[:, :1] * facing + pose.arms[:, 1:2] * sign * across + pose.arms[:, 2:] * up
        found.append(Limb(shoulder, hand, _ARM, "skin"))
    return found


def _kick(times: np.ndarray, ahead: float, up: float) -> np.ndarray:
    """A foot at so far ahead of the hip and above it around the contact (T, 2)."""
    out = _around(times)[:, None]
    return np.where(out > 0, out * [ahead, up] + (1 - out) * [0.05, -0.45], 0.0)


def _hands(
    times: np.ndarray, there: tuple[float, float, float], before: tuple[float, float, float], since: float
) -> np.ndarray:
    """Hands that move from one place to another by some time on (T, 3)."""
    moved = np.clip((times - since) * 3, 0, 1)[:, None]
    return np.asarray(moved * np.asarray(there) + (1 - moved) * np.asarray(before))


def _around(times: np.ndarray) -> np.ndarray:
    """1 at the contact, 0 from a while before it to a while after it (T,)."""
    found: np.ndarray = np.clip(1 - (1.4 * np.abs(times)) ** 2, 0, 1)
    return found


def _settling(times: np.ndarray) -> np.ndarray:
    """Times from the contact on, which come to rest (T,)."""
    found: np.ndarray = 1.6 * (1 - np.exp(-np.maximum(times, 0) / 1.6))
    return found


def _until(times: np.ndarray, end: float) -> np.ndarray:
    return np.where(times < end, 1.0, 0.0)


def _all(times: np.ndarray, value: float) -> np.ndarray:
    return np.full_like(times, value)


def _towards(angle: float) -> np.ndarray:
    return np.asarray([np.cos(angle), np.sin(angle)])


def _across(angle: float) -> np.ndarray:
    return np.asarray([-np.sin(angle), np.cos(angle)])

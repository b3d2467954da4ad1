"""A set of rendered collisions, as files in the layout of SoccerNet-MVFoul.

Class frequencies of the training split are those of the real one; severities and actions are combined at random.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trialfleet.config.location import expanded
from trialfleet.config.mvfoul import CLASSES, Collisions
from trialfleet.errors import UserError
from trialfleet.training.publishing import made
from trialfleet.workloads.mvfoul import annotations, rendering, video

log = logging.getLogger(__name__)

SPLITS = tuple(annotations.SPLITS)
# Of the real training set, by `CLASSES`.
SEVERITY_COUNTS = (353, 1402, 687, 27)
ACTION_COUNTS = (448, 1264, 103, 361, 88, 178, 383, 28)
LEAST = 20  # actions of a class in val and in test, if there are enough
VIEWS = (2, 4)  # clips of an action
_VERSION = 2  # of what is rendered: another one is another set


@dataclasses.dataclass(frozen=True)
class Rendered:
    """What a set is made by: sets that are equal in it are the same files.

    Attributes:
        seed: of all that is random.
        actions: in train.
        eval_actions: in val and in test each.
        size: pixels of a side of the frames.
    """

    seed: int
    actions: int
    eval_actions: int
    size: int


def ensure(data: Collisions, split: str) -> Path:
    """The folder of the set that a config asks for, in which this split is there.

    Raises:
        UserError: the folder cannot be written.
    """
    wanted = Rendered(data.seed, data.train_actions, data.eval_actions, data.picture)
    content = json.dumps([_VERSION, dataclasses.asdict(wanted)])
    name = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    folder = expanded(data.folder) / name
    try:
        with _in_turn(folder.with_name(f".{name}.{split}.lock")):
            write(wanted, split, folder)
    except OSError as error:
        raise UserError(f"dataset.folder: {folder} cannot be written: {error}", "name one that can") from error
    return folder


@contextlib.contextmanager
def _in_turn(lock: Path) -> Iterator[None]:
    """Waits while another process of this machine has it: trials that start together render a set once."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        with contextlib.suppress(OSError):  # where files cannot be locked each renders it, and one copy stays
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(wanted: Rendered, split: str, folder: Path) -> None:
    """Render a split, unless it is there. Whoever else renders it at the same time writes the same."""
    own = folder / annotations.SPLITS[split][0]
    if own.exists():
        return
    severities, actions = labels(wanted, split)
    log.info("rendering %d collisions into %s, once", len(actions), own)
    try:
        with made(own) as growing:
            entries = {str(n): _action(wanted, split, n, severities, actions, growing) for n in range(len(actions))}
            content = {"Set": own.name, "Number of actions": len(actions), "Actions": entries}
            (growing / annotations.ANNOTATIONS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError:
        if not (own / annotations.ANNOTATIONS).is_file():  # nobody else was quicker
            raise


def _action(
    wanted: Rendered, split: str, number: int, severities: np.ndarray, actions: np.ndarray, folder: Path
) -> dict[str, Any]:
    """Write the clips of an action; its entry in the annotations."""
    severity, action = int(severities[number]), int(actions[number])
    seed = [wanted.seed, SPLITS.index(split), number]
    rng = np.random.default_rng([*seed, 1])
    kind, strength = CLASSES["official"].actions[action], severity / (len(SEVERITY_COUNTS) - 1)
    views = rendering.cameras(int(rng.integers(VIEWS[0], VIEWS[1] + 1)), rng)
    (folder / f"action_{number}").mkdir()
    for index, camera in enumerate(views):
        frames = rendering.clip(kind, strength, camera, wanted.size, [*seed, 2], rng)
        video.write(folder / f"action_{number}" / f"clip_{index}.mp4", frames, wanted.size)
    clips = [
        {
            "Url": f"Dataset/{annotations.SPLITS[split][0]}/action_{number}/clip_{index}",
            "Camera type": "Main camera center" if index == 0 else "Close-up player or field referee",
            "Timestamp": 0,
            "Replay speed": camera.slow,
        }
        for index, camera in enumerate(views)
    ]
    return {**annotations.in_words(severity, action, "official"), "Clips": clips}


def labels(wanted: Rendered, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The severity and the action of each row (N,), as indices in the official classes."""
    rng = np.random.default_rng([wanted.seed, SPLITS.index(split)])
    total = wanted.actions if split == "train" else wanted.eval_actions
    least = 0 if split == "train" else LEAST
    severity, action = (
        rng.permutation(np.repeat(np.arange(len(counts)), scaled(counts, total, least)))
        for counts in (SEVERITY_COUNTS, ACTION_COUNTS)
    )
    return severity, action


def scaled(counts: Sequence[int], total: int, least: int) -> np.ndarray:
    """Whole numbers with this sum in the ratio of `counts`, none below `least` or below 1, as far as that can be."""
    given = np.asarray(counts, float)
    floor = min(max(least, 1), total // len(given))
    shares = given / given.sum() * total
    parts: np.ndarray = np.maximum(np.floor(shares), floor).astype(int)
    while parts.sum() != total:
        over = parts.sum() > total
        gaps = np.where(parts > floor, parts - shares, -np.inf) if over else shares - parts
        parts[int(np.argmax(gaps))] += -1 if over else 1
    return parts

"""The actions of a split as batches of clips."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trialfleet.config.location import expanded
from trialfleet.config.mvfoul import CLASSES, Clips, Collisions, FoulFiles, MvfoulConfig
from trialfleet.errors import UserError
from trialfleet.training.plans import ShuffledPlans
from trialfleet.training.workload import Batch, BatchPlan, Example
from trialfleet.workloads.mvfoul import annotations, augmentation, class_balance, collision_set, losses, video
from trialfleet.workloads.mvfoul.annotations import Action
from trialfleet.workloads.mvfoul.clip_cache import ClipCache

log = logging.getLogger(__name__)

READERS = 8  # threads that look at files' headers, which on a file system far away take their time
QUESTIONS = ("severity", "action")


class FoulClips:
    """One split; see `trialfleet.training.workload.Source`. A row is an action.

    Attributes:
        classes: a key of `CLASSES`.
        actions: those that are used.
        dropped: actions that are left out: of no class, or without a clip that can be read.
        severity, action: the class of each row (N,).
    """

    def __init__(self, config: MvfoulConfig, split: str) -> None:
        """
        Raises:
            UserError: the annotations cannot be read, or more clips than `dataset.max_damaged` allows.
        """
        data, training = config.dataset, config.training
        self._config, self._data, self._train = config, data, split == "train"
        self.classes = data.classes
        self._batch = training.global_batch if self._train else training.eval_batch
        found, unclassified = _found(data, split)
        self.actions = _readable(data, split, found)
        if unclassified:
            total = unclassified + len(found)
            log.info("%d of %d actions for %s are of no class, and are left out", unclassified, total, split)
        self.dropped = unclassified + len(found) - len(self.actions)
        self.severity, self.action = (
            np.asarray([getattr(one, question) for one in self.actions], np.int32) for question in QUESTIONS
        )
        self._wanted = wanted_frames(data)
        folder = None if data.cache_dir is None else expanded(data.cache_dir)
        self._cache = ClipCache(f"{self._wanted} {data.size}", data.cache_mb, folder, data.cache_dir_mb)
        self._named: set[Path] = set()  # clips that have turned out to be damaged
        self._class_weights = {
            question: losses.class_weights(config.loss, np.bincount(own, minlength=len(names)))
            for question, own, names in zip(QUESTIONS, (self.severity, self.action), CLASSES[data.classes], strict=True)
            if self._train
        }

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        count = len(self.actions)
        if not self._train:
            return [
                BatchPlan(range(first, min(first + self._batch, count)), 0) for first in range(0, count, self._batch)
            ]
        given = (self._config.class_balance, self.severity, self.action, epoch)
        draw = partial(class_balance.rows, *given, np.random.default_rng([seed, epoch, 1]))
        return ShuffledPlans(draw, class_balance.size(*given), self._batch)

    def example(self, row: int, rng: np.random.Generator) -> Example:
        views, data, share, other = self._seen(row, rng), self._data, 1.0, row
        if self._train:
            views = augmentation.changed(views, data, rng)
            if data.mixup or data.cutmix:
                other = int(rng.integers(len(self.actions)))
                beside = augmentation.changed(self._seen(other, rng), data, rng)
                if views and beside:
                    views, share = augmentation.blended(views, beside, data, rng)
        return {"id": np.int32(row), "views": views, "row": row, "other": other, "share": share}

    def _seen(self, row: int, rng: np.random.Generator) -> list[np.ndarray]:
        """The clips of an action that are shown: none, if none of them can be read."""
        clips, most = self.actions[row].clips, self._data.max_views
        chosen: Sequence[int] = range(min(most, len(clips)))
        if self._train and len(clips) > most:
            chosen = sorted(rng.permutation(len(clips))[:most])
        views = (self.clip(clips[index]) for index in chosen)
        return [view for view in views if view is not None]

    def clip(self, path: Path) -> np.ndarray | None:
        """A clip (T, H, W, 3), uint8; None if it cannot be read, of which the log speaks once."""
        try:
            return self._cache.get(path, lambda: video.read(path, self._wanted, self._data.size))
        except video.UnreadableClip as error:
            if path not in self._named:
                self._named.add(path)
                log.warning("a clip is left out: %s", error)
            return None

    def collate(self, examples: Sequence[Example], bucket: int) -> Batch:
        """
        Returns:
            id, weight, severity, action (B,), video (B, V, T, H, W, 3) uint8, mask (B, V): 1 where there is a
            view. For training also severity_weights (B, K) and action_weights (B, L): those of the classes,
            which follow from the training data, for each example the same; and share (B,), which the first of two
            blended actions has, with the classes of the second, other_severity and other_action (B,).
        """
        count, data = len(examples), self._data
        rows, others = (np.asarray([example[name] for example in examples], np.int64) for name in ("row", "other"))
        batch: dict[str, Any] = {
            "id": np.asarray([example["id"] for example in examples], np.int32),
            "weight": np.asarray([bool(example["views"]) for example in examples], np.float32),
            "severity": self.severity[rows],
            "action": self.action[rows],
            "video": np.zeros((count, data.max_views, data.frames, data.size, data.size, 3), np.uint8),
            "mask": np.zeros((count, data.max_views), np.float32),
        }
        for index, example in enumerate(examples):
            there = len(example["views"])
            if there:
                batch["video"][index, :there] = example["views"]
            batch["mask"][index, : max(there, 1)] = 1  # a black view, so that what does not count is a number
        for question, weights in self._class_weights.items():
            batch[f"{question}_weights"] = np.tile(weights.astype(np.float32), (count, 1))
        if self._train:
            batch["share"] = np.asarray([example["share"] for example in examples], np.float32)
            batch |= {"other_severity": self.severity[others], "other_action": self.action[others]}
        return batch


def wanted_frames(data: Clips) -> list[int]:
    """The numbers of the frames that are decoded, evenly spread."""
    return [round(number) for number in np.linspace(data.first_frame, data.last_frame, data.frames)]


def _found(data: FoulFiles | Collisions, split: str) -> tuple[list[Action], int]:
    """The actions of a split, and how many are of no class."""
    if not isinstance(data, FoulFiles):
        return annotations.of_folder("dataset.folder", collision_set.ensure(data, split), split, data.classes)
    folder = expanded(data.data_dir)
    table = {"train": data.train_csv, "val": data.val_csv}.get(split)
    if table is not None:
        return annotations.of_table(f"dataset.{split}_csv", expanded(table), folder, data.classes)
    return annotations.of_folder("dataset.data_dir", folder, split, data.classes)


def _readable(data: FoulFiles | Collisions, split: str, found: Sequence[Action]) -> list[Action]:
    """The actions with the clips of which the headers can be read."""
    clips = [clip for action in found for clip in action.clips]
    with ThreadPoolExecutor(READERS) as pool:
        problems = dict(zip(clips, pool.map(partial(_problem, last=data.last_frame), clips), strict=True))
    damaged = [problem for problem in problems.values() if problem is not None]
    if len(damaged) > data.max_damaged * len(problems):
        raise UserError(
            f"dataset.{data.name}: {len(damaged)} of {len(problems)} clips for {split} cannot be read; the first: "
            f"{damaged[0]}",
            "put them right, or allow more by dataset.max_damaged",
        )
    for problem in damaged:
        log.warning("a clip for %s is left out: %s", split, problem)
    kept = [one._replace(clips=tuple(clip for clip in one.clips if problems[clip] is None)) for one in found]
    if not any(one.clips for one in kept):
        raise UserError(f"dataset.{data.name}: of {len(problems)} clips for {split} none can be read", "put them right")
    return [one for one in kept if one.clips]


def _problem(path: Path, last: int) -> str | None:
    try:
        video.check(path, last)
    except video.UnreadableClip as error:
        return str(error)
    return None

"""The data of multi-view foul recognition: generated clips with labels in the shape of the real ones."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from trialfleet.config.mvfoul import Collisions, MvfoulConfig
from trialfleet.training.plans import ShuffledPlans
from trialfleet.training.workload import Batch, BatchPlan, Example
from trialfleet.workloads.mvfoul import class_balance, losses, rendering

SPLITS = ("train", "val", "test")
_KEPT = 2000  # clips that are not rendered again


class CollisionClips:
    """One split; see `trialfleet.training.workload.Source`. A row is a clip, the same in every epoch."""

    def __init__(self, config: MvfoulConfig, split: str) -> None:
        self._config, self._data, self._split = config, config.dataset, split
        training = config.training
        self._batch = training.global_batch if split == "train" else training.eval_batch
        self._clips = self._data.train_clips if split == "train" else self._data.eval_clips
        self.severity, self.action = labels(self._data, split, self._clips)
        self._views: dict[int, np.ndarray] = {}  # clips that were rendered already
        self._class_weights: dict[str, np.ndarray] = {}
        if split == "train":
            named = (("severity", self.severity), ("action", self.action))
            self._class_weights = {
                name: losses.class_weights(config.loss, np.bincount(own, minlength=classes))
                for (name, own), classes in zip(named, class_counts(self._data), strict=True)
            }

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        if self._split != "train":
            firsts = range(0, self._clips, self._batch)
            return [BatchPlan(range(first, min(first + self._batch, self._clips)), 0) for first in firsts]
        given = (self._config.class_balance, self.severity, self.action, epoch)
        draw = partial(class_balance.rows, *given, np.random.default_rng([seed, epoch, 1]))
        return ShuffledPlans(draw, class_balance.size(*given), self._batch)

    def example(self, row: int, rng: np.random.Generator) -> Example:
        views = self._rendered(row)
        if self._split == "train":
            views = _augmented(views, self._data, rng)
        return {"id": np.int32(row), "views": views, "severity": self.severity[row], "action": self.action[row]}

    def collate(self, examples: Sequence[Example], bucket: int) -> Batch:
        """
        Returns:
            id, weight, severity, action (B,), video (B, V, T, H, W, 3) uint8, mask (B, V): 1 where there is a
            view. For training also severity_weights (B, K) and action_weights (B, L): those of the classes,
            which follow from the training data, for each example the same.
        """
        count, data = len(examples), self._data
        batch: dict[str, Any] = {
            "id": np.asarray([example["id"] for example in examples], np.int32),
            "weight": np.ones(count, np.float32),
            "severity": np.asarray([example["severity"] for example in examples], np.int32),
            "action": np.asarray([example["action"] for example in examples], np.int32),
            "video": np.zeros((count, data.max_views, data.frames, data.size, data.size, 3), np.uint8),
            "mask": np.zeros((count, data.max_views), np.float32),
        }
        for index, example in enumerate(examples):
            there = len(example["views"])
            batch["video"][index, :there] = example["views"]
            batch["mask"][index, :there] = 1
        for name, weights in self._class_weights.items():
            batch[f"{name}_weights"] = np.tile(weights.astype(np.float32), (count, 1))
        return batch

    def _rendered(self, row: int) -> np.ndarray:
        views = self._views.get(row)
        if views is None:
            data = self._data
            rng = np.random.Generator(
                np.random.Philox(key=[data.split_seed, SPLITS.index(self._split)], counter=[0, 0, 0, row])
            )
            count = int(rng.integers(data.min_views, data.max_views + 1))
            strength = self.severity[row] / (len(data.severity_counts) - 1)
            views = rendering.clip(strength, int(self.action[row]), count, data.frames, data.size, rng)
            if len(self._views) < _KEPT:
                self._views[row] = views
        return views


def class_counts(data: Collisions) -> tuple[int, int]:
    """The numbers of severities and of actions."""
    return len(data.severity_counts), len(data.action_counts)


def labels(data: Collisions, split: str, clips: int) -> tuple[np.ndarray, np.ndarray]:
    """The severity and the action of each clip (N,): frequencies as configured, combined at random."""
    rng = np.random.default_rng([data.split_seed, SPLITS.index(split), 2])
    severity = rng.permutation(np.repeat(np.arange(len(data.severity_counts)), scaled(data.severity_counts, clips)))
    action = rng.permutation(np.repeat(np.arange(len(data.action_counts)), scaled(data.action_counts, clips)))
    return severity, action


def scaled(counts: Sequence[int], total: int) -> np.ndarray:
    """Whole numbers with this sum in the ratio of `counts`; as long as it can be, none of them becomes 0."""
    given = np.asarray(counts, float)
    shares = given / given.sum() * total
    least = np.minimum(given, 1) if total >= len(given) else np.zeros(len(given))
    parts: np.ndarray = np.maximum(np.floor(shares), least).astype(int)
    while parts.sum() != total:
        over = parts.sum() > total
        gaps = np.where(parts > least, parts - shares, -np.inf) if over else shares - parts
        parts[int(np.argmax(gaps))] += -1 if over else 1
    return parts


def _augmented(views: np.ndarray, data: Collisions, rng: np.random.Generator) -> np.ndarray:
    """A clip mirrored with a chance of `flip` (all views of it), in other light."""
    flip = rng.random() < data.flip
    brightness, contrast = 1 + data.colour_jitter * rng.uniform(-1, 1, 2)
    table = (np.arange(256) - 127.5) * contrast + 127.5 * brightness
    changed: np.ndarray = np.clip(table, 0, 255).astype(np.uint8)[views]
    return changed[..., ::-1, :] if flip else changed

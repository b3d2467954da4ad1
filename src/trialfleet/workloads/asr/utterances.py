"""Batches of recordings with their texts, in buckets of static lengths."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trialfleet.config.asr_decoder import AsrDecoderConfig, Recordings
from trialfleet.errors import UserError
from trialfleet.training.plans import PlansOnDemand
from trialfleet.training.workload import Batch, BatchPlan, Example
from trialfleet.workloads.asr import features
from trialfleet.workloads.asr.recordings import Recording, recordings
from trialfleet.workloads.asr.spectrogram_cache import SpectrogramCache
from trialfleet.workloads.asr.spoken import normalized
from trialfleet.workloads.decoder import PAD
from trialfleet.workloads.decoder.tokenizer import Tokenizer
from trialfleet.workloads.held_out import split_of

log = logging.getLogger(__name__)

FRAMES = features.RATE // features.HOP  # a second
BEHIND = 2  # frames of silence behind the longest recording of a bucket, into which the convolutions look
READERS = 8  # threads that look at files' headers, which on a file system far away take their time


class Utterance(NamedTuple):
    """A recording that is used."""

    recording: Recording
    tokens: tuple[int, ...]
    speeds: tuple[float, ...]  # at which it may be heard
    bucket: int  # index of the shortest that holds it at each of them


class Utterances:
    """One split; see `trialfleet.training.workload.Source`. A row is a recording.

    Attributes:
        dropped: recordings that are left out: too long, with too long a text, or unreadable.
    """

    def __init__(self, config: AsrDecoderConfig, split: str, tokenizer: Tokenizer) -> None:
        data, training = config.dataset, config.training
        self._data, self._split, self._bands = data, split, config.model.encoder.bands
        self._batch = training.global_batch if split == "train" else training.eval_batch
        self._tokens = data.max_text_tokens + 1  # and the end
        found = _recordings(data, split)
        self._kept, self.dropped = _kept(data, split, found, tokenizer)
        self._cached: dict[tuple[int, float], np.ndarray] = {}
        self._room = data.cache_mb * 1_000_000
        folder = data.disk_cache
        self._disk = None if folder is None else SpectrogramCache(Path(folder), data.disk_cache_mb * 1_000_000)
        self._frames = list(map(frames_of, data.buckets))

    def text(self, row: int) -> str:
        """What is said in a recording."""
        return self._kept[row].recording.text

    def path(self, row: int) -> str:
        """The file of a recording."""
        return str(self._kept[row].recording.path)

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        counts = np.bincount([one.bucket for one in self._kept], minlength=len(self._frames))
        short = 0 if self._split == "train" else self._batch - 1  # in training what fills no batch is left out
        return PlansOnDemand(int(((counts + short) // self._batch).sum()), partial(self._plans, seed, epoch))

    def _plans(self, seed: int, epoch: int) -> list[BatchPlan]:
        rng, training = np.random.default_rng([seed, epoch, 1]), self._split == "train"
        rows = rng.permutation(len(self._kept)) if training else np.arange(len(self._kept))
        plans = []
        for bucket in range(len(self._frames)):
            own = [int(row) for row in rows if self._kept[row].bucket == bucket]
            parts = [tuple(own[first : first + self._batch]) for first in range(0, len(own), self._batch)]
            plans += [BatchPlan(part, bucket) for part in parts if not training or len(part) == self._batch]
        order = rng.permutation(len(plans)) if training else range(len(plans))
        return [plans[index] for index in order]

    def example(self, row: int, rng: np.random.Generator) -> Example:
        one = self._kept[row]
        speed = float(rng.choice(one.speeds)) if len(one.speeds) > 1 else one.speeds[0]
        try:
            heard = self._heard(row, one, speed)
        except features.UnreadableAudio as error:
            log.warning("%s is left out: %s", one.recording.path, error)
            return {"id": np.int32(row), "weight": np.float32(0), "features": None, "tokens": ()}
        data = self._data
        if self._split == "train" and data.time_masks + data.band_masks:
            masks = (data.time_masks, data.time_mask_frames, data.band_masks, data.band_mask_bands)
            heard = features.masked(heard, rng, *masks)
        return {"id": np.int32(row), "weight": np.float32(1), "features": heard, "tokens": one.tokens}

    def _heard(self, row: int, one: Utterance, speed: float) -> np.ndarray:
        found = self._cached.get((row, speed))
        if found is None:
            found = self._spectrogram(one.recording.path, speed)[: self._frames[one.bucket] - BEHIND]
            if found.nbytes <= self._room:
                self._cached[row, speed] = found
                self._room -= found.nbytes
        return found

    def _spectrogram(self, path: Path, speed: float) -> np.ndarray:
        """Of a recording, from the disk if it was made before."""
        if self._disk is None:
            return features.log_mel(features.read(path, speed=speed), self._bands)
        try:
            content = path.read_bytes()
        except (OSError, ValueError) as error:  # the latter: no file can have such a name
            raise features.UnreadableAudio(f"{path}: {error}") from error
        key = self._disk.key(content, self._bands, speed)
        found = self._disk.get(key)
        if found is None:
            found = features.log_mel(features.read(path, content, speed), self._bands)
            self._disk.put(key, found)
        return found

    def collate(self, examples: Sequence[Example], bucket: int) -> Batch:
        """
        Returns:
            id, weight, frames (B,), features (B, F, bands) with silence behind, tokens (B, S) with padding behind.
        """
        count = len(examples)
        quiet = features.silence(1, self._bands, 0.0)[0]
        batch = {
            "id": np.asarray([example["id"] for example in examples], np.int32),
            "weight": np.asarray([example["weight"] for example in examples], np.float32),
            "frames": np.zeros(count, np.int32),
            "features": np.broadcast_to(quiet, (count, self._frames[bucket], self._bands)).copy(),
            "tokens": np.full((count, self._tokens), PAD, np.int32),
        }
        for index, example in enumerate(examples):
            heard, tokens = example["features"], example["tokens"]
            if heard is not None:
                batch["frames"][index] = len(heard)
                batch["features"][index, : len(heard)] = heard
                batch["features"][index, len(heard) :] = features.silence(1, self._bands, float(heard.max()))
            batch["tokens"][index, : len(tokens)] = tokens
        return batch


def frames_of(seconds: float) -> int:
    """Of a spectrogram in a bucket of so many seconds, with the silence behind."""
    return max(1, round(seconds * FRAMES)) + BEHIND


def _recordings(data: Recordings, split: str) -> list[Recording]:
    """Those of a split: its own files, or what is held out from those for training."""
    own: dict[str, Sequence[str]] = {"train": data.train, "val": data.val, "test": data.test}
    if split != "train" and own[split]:
        return [one for source in own[split] for one in recordings(f"dataset.{split}", source)]
    every = [one for source in data.train for one in recordings("dataset.train", source)]
    if data.held_out == 0:
        return every
    # What is held out for a split that has files of its own is trained on.
    wanted = {split, *(other for other in ("val", "test") if split == "train" and own[other])}
    return [one for one in every if split_of(normalized(one.text), data.split_seed, data.held_out) in wanted]


def _kept(
    data: Recordings, split: str, found: Sequence[Recording], tokenizer: Tokenizer
) -> tuple[list[Utterance], int]:
    """The recordings that are used, and how many are not."""
    most = data.max_train_samples if split == "train" else data.max_eval_samples
    found = found[:most]
    with ThreadPoolExecutor(READERS) as pool:
        lengths = list(pool.map(_seconds, found))
    every = tuple(data.speeds) if split == "train" else (1.0,)
    kept, unreadable = [], [error for error in lengths if isinstance(error, features.UnreadableAudio)]
    if len(unreadable) > data.max_damaged * len(found):
        raise UserError(
            f"dataset.{split}: {len(unreadable)} of {len(found)} files cannot be read; the first: {unreadable[0]}",
            "put them right, or allow more by dataset.max_damaged",
        )
    if unreadable:
        log.warning("dataset.%s: %d files cannot be read and are left out; %s", split, len(unreadable), unreadable[0])
    for one, seconds in zip(found, lengths, strict=True):
        text = normalized(one.text) if data.normalized else one.text
        tokens = tuple(tokenizer.completion(text))
        fits = len(text.split()) <= data.max_text_words and 1 < len(tokens) <= data.max_text_tokens + 1
        if isinstance(seconds, float) and seconds <= data.max_audio_seconds and fits:
            speeds = tuple(speed for speed in every if seconds / speed <= data.buckets[-1]) or (1.0,)
            kept.append(Utterance(one, tokens, speeds, int(np.searchsorted(data.buckets, seconds / min(speeds)))))
    if not kept:
        raise UserError(
            f"dataset.{split}: of {len(found)} recordings none is left",
            "see dataset.held_out, max_audio_seconds, max_text_words and max_text_tokens",
        )
    return kept, len(found) - len(kept)


def _seconds(one: Recording) -> float | features.UnreadableAudio:
    try:
        return features.seconds(one.path)
    except features.UnreadableAudio as error:
        return error

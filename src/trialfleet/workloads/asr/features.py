"""From a recording to what an encoder hears: samples at 16 kHz, and their log-mel spectrogram as Whisper defines it.

Radford et al. 2022, arXiv:2212.04356: windows of 25 ms, every 10 ms, mel bands of the energies, their logarithm cut 8
decades below the loudest band, shifted and scaled by 4.
"""

import io
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np
import soundfile
import soxr

RATE = 16_000  # samples a second
HOP = 160  # samples from one frame to the next
_EDGE = 240  # samples that a recording is mirrored at both ends, so that the library's second frame is Whisper's first
_LOUDEST = 1e12  # of a sample: the energies of louder ones have no room in single precision
_UNKNOWN = 2**62  # samples that libsndfile says where a header says nothing
# What libsndfile's library raises: TypeError for the name of a file without a header, the others for a damaged one.
_UNREADABLE = (soundfile.SoundFileError, OSError, TypeError, ValueError, MemoryError)
_FLOOR, _RANGE = 1e-10, 8.0  # the least energy, and the decades below the loudest that are kept


class UnreadableAudio(ValueError):
    """A file holds no audio that can be read, or none at all."""


def read(path: Path, content: bytes | None = None, speed: float = 1.0) -> np.ndarray:
    """The samples of a recording (S,), float32, at 16 kHz, channels averaged; of any format that libsndfile reads.

    Args:
        content: of the file, if it was read already.
        speed: so much faster it is heard, and as much higher (Ko et al. 2015, "Audio augmentation for speech
            recognition").

    Raises:
        UnreadableAudio: it cannot be read, or is empty.
    """
    try:
        samples, rate = soundfile.read(
            path if content is None else io.BytesIO(content), dtype="float32", always_2d=True
        )
    except _UNREADABLE as error:
        raise UnreadableAudio(f"{path}: {error}") from error
    if not samples.size:
        raise UnreadableAudio(f"{path}: there are no samples")
    if not (np.abs(samples) <= _LOUDEST).all():  # nor are they where one is no number
        raise UnreadableAudio(f"{path}: samples are no numbers, or beyond {_LOUDEST:g}")
    mono = samples.mean(1)
    heard_at = rate * speed
    return mono if heard_at == RATE else np.asarray(soxr.resample(mono, heard_at, RATE), np.float32)


def seconds(path: Path) -> float:
    """How long a recording is, by its header alone.

    Raises:
        UnreadableAudio: it cannot be read, or is empty.
    """
    try:
        found = soundfile.info(path)
    except _UNREADABLE as error:
        raise UnreadableAudio(f"{path}: {error}") from error
    if found.frames >= _UNKNOWN:
        raise UnreadableAudio(f"{path}: its header does not say how long it is")
    if found.frames == 0:
        raise UnreadableAudio(f"{path}: there are no samples")
    return float(found.duration)


def log_mel(samples: np.ndarray, bands: int) -> np.ndarray:
    """The spectrogram (F, bands) of samples (S,), float32: a frame for each 160 samples.

    Args:
        samples: at 16 kHz, at least 241 of them: shorter recordings are padded with silence.
        bands: 80, or 128 in Whisper large-v3.
    """
    frames = len(samples) // HOP
    padded = np.pad(samples, (0, max(0, _EDGE + 1 - len(samples))))
    options = knf.WhisperFeatureOptions()
    options.dim = bands
    computer = knf.OnlineWhisperFbank(options)
    computer.accept_waveform(RATE, np.pad(padded, _EDGE, mode="reflect"))
    computer.input_finished()
    energies = np.stack([computer.get_frame(number) for number in range(1, 1 + max(1, frames))])
    logs = np.log10(np.maximum(energies, _FLOOR))
    return np.asarray((np.maximum(logs, logs.max() - _RANGE) + 4) / 4, np.float32)


def silence(frames: int, bands: int, loudest: float) -> np.ndarray:
    """What frames of silence are behind a recording whose loudest band is so loud: the least value that is kept."""
    return np.full((frames, bands), max((np.log10(_FLOOR) + 4) / 4, loudest - _RANGE / 4), np.float32)


def masked(
    features: np.ndarray, rng: np.random.Generator, time_masks: int, frames: int, band_masks: int, bands: int
) -> np.ndarray:
    """With stretches of time and of frequency put to the mean: SpecAugment (Park et al. 2019, arXiv:1904.08779).

    Args:
        features: (F, B).
        time_masks, frames: how many, and how long each is at most.
        band_masks, bands: how many, and how wide each is at most.
    """
    result, mean = features.copy(), features.mean()
    for count, most, axis in ((time_masks, frames, 0), (band_masks, bands, 1)):
        for _ in range(count):
            width = int(rng.integers(0, min(most, features.shape[axis]) + 1))
            first = int(rng.integers(0, features.shape[axis] - width + 1))
            part = (slice(None),) * axis + (slice(first, first + width),)
            result[part] = mean
    return result

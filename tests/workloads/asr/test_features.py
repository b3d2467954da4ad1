"""What an encoder hears of a recording: Whisper's features by a formula written down anew, files, and SpecAugment."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from trialfleet.workloads.asr import features


def bands_of(count: int) -> np.ndarray:
    """Slaney's mel filters (bands, frequencies) up to 8 kHz, each of area 1, for windows of 400 samples."""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return np.where(hertz < 1000, 3 * hertz / 200, 15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / np.log(6.4))

    def hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, 200 * mel / 3, 1000 * 6.4 ** ((mel - 15) / 27))

    edges = hertz(np.linspace(0, float(mel(np.asarray(8000.0))), count + 2))
    frequencies = np.fft.rfftfreq(400, 1 / 16_000)
    rise = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def by_formula(samples: np.ndarray, count: int) -> np.ndarray:
    """Whisper's log-mel spectrogram, in float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    around = np.pad(samples.astype(np.float64), 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(around, 400)[::160][: len(samples) // 160]
    logs = np.log10(np.maximum(np.abs(np.fft.rfft(frames * window)) ** 2 @ bands_of(count).T, 1e-10))
    return (np.maximum(logs, logs.max() - 8) + 4) / 4


@pytest.mark.parametrize(("count", "samples"), [(80, 16_000), (128, 8_123), (80, 400)])
def test_the_spectrogram_is_whispers(count, samples):
    wave = (np.random.default_rng(0).normal(size=samples) * np.linspace(0.01, 0.3, samples)).astype(np.float32)
    apart = np.abs(features.log_mel(wave, count) - by_formula(wave, count))
    assert apart.mean() < 2e-6
    assert apart.max() < 5e-4  # a band that is quiet by chance has fewer digits: the library calculates in float32


def tone(rate: int, channels: int) -> np.ndarray:
    return np.repeat(np.sin(2 * np.pi * 440 * np.arange(rate) / rate)[:, None], channels, 1) / 2


@pytest.mark.parametrize(("rate", "channels", "kind"), [(8000, 1, "wav"), (44_100, 2, "flac"), (16_000, 1, "flac")])
def test_any_rate_and_format_is_heard_at_16_khz(tmp_path, rate, channels, kind):
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, tone(rate, channels), rate)
    heard = features.read(path)
    assert heard.dtype == np.float32
    assert len(heard) == 16_000
    assert features.seconds(path) == pytest.approx(1)
    middle = slice(1000, -1000)  # a resampler's filter needs what lies around
    np.testing.assert_allclose(heard[middle], tone(16_000, 1)[middle, 0], atol=2e-3, rtol=0)


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_a_recording_that_is_heard_faster_is_shorter_and_higher(tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate, 1), rate)
    heard = features.read(path, speed=1.25)
    assert len(heard) == 12_800
    loudest = np.argmax(np.abs(np.fft.rfft(heard))) * 16_000 / len(heard)
    assert loudest == pytest.approx(550, abs=1.5)


@pytest.mark.parametrize("content", [None, b"", b"RIFF no audio", b"fLaC" + bytes(100)])
def test_a_file_without_audio_is_named(tmp_path, content):
    path = Path(tmp_path / "broken.wav")
    if content is not None:
        path.write_bytes(content)
    for read in (features.read, features.seconds):
        with pytest.raises(features.UnreadableAudio, match=r"broken\.wav"):
            read(path)


def test_nothing_and_no_numbers_are_no_audio(tmp_path):
    for name, samples in (("empty", np.zeros(0)), ("nan", np.full(100, np.nan))):
        soundfile.write(tmp_path / f"{name}.wav", samples.astype(np.float32), 16_000, subtype="FLOAT")
        with pytest.raises(features.UnreadableAudio, match=name):
            features.read(tmp_path / f"{name}.wav")
    with pytest.raises(features.UnreadableAudio, match=r"empty\.wav: there are no samples"):
        features.seconds(tmp_path / "empty.wav")


def test_what_no_recording_is_has_no_audio(tmp_path):
    """A file without a header, a FLAC that does not say how long it is, samples too loud for single precision."""
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    soundfile.write(tmp_path / "a.flac", tone(8000, 1), 8000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # the number of samples, 36 bits
    (tmp_path / "a.flac").write_bytes(content)
    for name in ("a.raw", "a.flac"):
        for asked in (features.read, features.seconds):
            with pytest.raises(features.UnreadableAudio, match=name):
                asked(tmp_path / name)
    soundfile.write(tmp_path / "a.wav", np.full((800, 2), 3e38), 8000, subtype="FLOAT")
    with pytest.raises(features.UnreadableAudio, match=r"a\.wav: samples are no numbers, or beyond 1e\+12"):
        features.read(tmp_path / "a.wav")


def test_a_recording_of_one_sample_is_a_frame(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.ones(1) / 2, 44_100)
    assert features.log_mel(features.read(tmp_path / "a.wav"), 80).shape == (1, 80)


def test_masks_are_so_many_and_so_large_at_most():
    plain = np.random.default_rng(0).normal(size=(100, 20)).astype(np.float32)
    for seed in range(20):
        got = features.masked(plain, np.random.default_rng(seed), 2, 10, 1, 3)
        times, bands = (got == plain.mean()).all(1), (got == plain.mean()).all(0)
        assert times.sum() <= 20
        assert bands.sum() <= 3
        np.testing.assert_array_equal(got[~times][:, ~bands], plain[~times][:, ~bands])
    np.testing.assert_array_equal(features.masked(plain, np.random.default_rng(0), 0, 10, 0, 3), plain)

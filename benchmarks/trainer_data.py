"""Whether decoding keeps up with the step: `python -m benchmarks.trainer_data [seconds of a step]`.

Real files, made here: FLAC of ten seconds at 16 kHz, read and made log spectra; H.264 in MP4 of 224 x 224, of which 16
frames are decoded. First how many examples a second the loader makes by itself, with its thread and with processes;
then a training loop whose step takes its time on no core, as an accelerator's does: the share of the time that it waits
for data, beside what it needs of the cores. What cannot suffice is said, too.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import jax
import numpy as np
import soundfile

from trialfleet.config import schema
from trialfleet.training.data import Feed, Loader, Position
from trialfleet.training.mesh import batch_sharding, make_mesh
from trialfleet.training.workload import BatchPlan

BATCH, FILES, WARM, STEPS = 8, 64, 6, 40
RATE, SECONDS = 16_000, 10
FRAMES, SIDE, TAKEN = 50, 224, 16


class Files:
    """A source of one kind of file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        rows = np.random.default_rng([seed, epoch]).permutation(FILES).reshape(-1, BATCH)
        return [BatchPlan(tuple(map(int, part)), 0) for part in rows]

    def example(self, row: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"id": np.int32(row), "x": self.decoded(self.folder / f"{row}{self.suffix}")}

    def collate(self, examples: Sequence[dict[str, Any]], bucket: int) -> dict[str, np.ndarray]:
        made = {name: np.stack([example[name] for example in examples]) for name in ("id", "x")}
        return {**made, "weight": np.ones(len(examples), np.float32)}

    suffix = ""

    def write(self, path: Path, rng: np.random.Generator) -> None:
        raise NotImplementedError

    def decoded(self, path: Path) -> np.ndarray:
        raise NotImplementedError


class Flac(Files):
    suffix = ".flac"

    def write(self, path: Path, rng: np.random.Generator) -> None:
        times = np.arange(RATE * SECONDS) / RATE
        tone = np.sin(2 * np.pi * (100 + 400 * rng.random()) * times * (1 + 0.1 * np.sin(times)))
        soundfile.write(path, (0.4 * tone + 0.05 * rng.normal(size=times.size)).astype(np.float32), RATE)

    def decoded(self, path: Path) -> np.ndarray:
        """Log power spectra of 25 ms every 10 ms, (T, 201) float32."""
        samples, _ = soundfile.read(path, dtype="float32")
        windows = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160] * np.hanning(400).astype(np.float32)
        return np.log(np.abs(np.fft.rfft(windows)) ** 2 + 1e-6).astype(np.float32)


class Mp4(Files):
    suffix = ".mp4"

    def write(self, path: Path, rng: np.random.Generator) -> None:
        scene = rng.integers(0, 255, (2 * SIDE, 2 * SIDE, 3), np.uint8)
        scene = scene.reshape(SIDE // 8, 16, SIDE // 8, 16, 3).mean((1, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width = stream.height = SIDE
            stream.pix_fmt = "yuv420p"
            for n in range(FRAMES):
                image = np.ascontiguousarray(scene[2 * n : 2 * n + SIDE, 3 * n : 3 * n + SIDE])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode())

    def decoded(self, path: Path) -> np.ndarray:
        """(16, 112, 112, 3) uint8 of the middle of the clip."""
        first, frames = (FRAMES - TAKEN) // 2, []
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"  # the processes are as many as the cores
            for n, frame in enumerate(container.decode(video=0)):
                if n >= first:
                    frames.append(frame.reformat(SIDE // 2, SIDE // 2, "rgb24").to_ndarray())
                if len(frames) == TAKEN:
                    return np.stack(frames)
        raise ValueError(f"{path} has too few frames")


def rate(loader: Loader, workers: int) -> float:
    """Examples a second that the loader makes if nothing else is done."""
    with contextlib.closing(Feed(loader, 0, Position(0, 0, 0), None, 2, workers)) as feed:
        for _ in range(WARM):
            feed.next()
        began = time.perf_counter()
        for _ in range(STEPS):
            feed.next()
        return STEPS * BATCH / (time.perf_counter() - began)


def waiting(loader: Loader, workers: int, step: float) -> float:
    """The share of a loop's time that it waits for data, with steps of so many seconds; not of the first steps, before
    batches wait ready."""
    with contextlib.closing(Feed(loader, 0, Position(0, 0, 0), None, 2, workers)) as feed:
        waited = 0.0
        for number in range(WARM + STEPS):
            if number == WARM:
                began, waited = time.perf_counter(), 0.0
            asked = time.perf_counter()
            feed.next()
            waited += time.perf_counter() - asked
            time.sleep(step)
        return waited / (time.perf_counter() - began)


def main() -> int:
    given = float(sys.argv[1]) if len(sys.argv) > 1 else None
    mesh = make_mesh(schema.Mesh(data=1, fsdp=1, tp=1, undivided="warn"), jax.devices()[:1])
    print("| files | workers | examples/s alone | step, s | needed of the rate | waiting |\n|---|---|---|---|---|---|")
    for kind in (Flac, Mp4):
        with tempfile.TemporaryDirectory() as folder:
            source = kind(Path(folder))
            for row in range(FILES):
                source.write(source.folder / f"{row}{source.suffix}", np.random.default_rng(row))
            loader = Loader(source, batch_sharding(mesh), BATCH, 1)
            for workers in (0, 1, 2):
                alone = rate(loader, workers)
                for share in (0.5, 0.8) if given is None else (BATCH / given / alone,):
                    step = BATCH / (share * alone)
                    waited = waiting(loader, workers, step)
                    print(
                        f"| {kind.__name__} | {workers} | {alone:.0f} | {step:.3f} | {share:.0%} | {waited:.1%} |",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

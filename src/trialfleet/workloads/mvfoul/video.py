"""Some frames of a clip, decoded from the key frame before the first of them on; and clips written."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

RATE = 25  # frames a second of what is written
_BETWEEN_KEYS = 25  # frames from one key frame to the next of what is written


class UnreadableClip(ValueError):
    """A file is missing, holds no video, or not the frames that are wanted."""


def check(path: Path, last: int) -> None:
    """Look at a file's header alone: whether it may have the frame `last`, counted from 0.

    Raises:
        UnreadableClip: it cannot.
    """
    try:
        with _opened(path) as container:
            frames = _stream(path, container).frames  # 0 where the header does not say
    except (av.FFmpegError, OSError) as error:
        raise UnreadableClip(f"{path}: {error}") from error
    if 0 < frames <= last:
        raise UnreadableClip(f"{path}: has {frames} frames, and frame {last} is wanted")


def read(path: Path, wanted: Sequence[int], size: int) -> np.ndarray:
    """Frames of a clip (T, size, size, 3), uint8 RGB, each scaled as a whole.

    Frames are counted from 0 at the clip's own rate, by their times: what a player shows then.

    Args:
        wanted: the frames' numbers, ascending.

    Raises:
        UnreadableClip: one of them cannot be had.
    """
    found: dict[int, np.ndarray] = {}
    before: tuple[int, av.VideoFrame] | None = None
    try:
        with _opened(path) as container:
            stream = _stream(path, container)
            stream.thread_type = "NONE"  # as many processes decode as are wanted
            rate, base = stream.average_rate or Fraction(RATE), stream.time_base or Fraction(1, RATE)
            begin = stream.start_time or 0
            container.seek(begin + int(wanted[0] / rate / base), stream=stream)
            for frame in container.decode(stream):
                if frame.pts is None:
                    continue
                number = round((frame.pts - begin) * base * rate)
                if before is not None:  # which is seen until this one, where rates vary
                    for due in (due for due in wanted if before[0] <= due < number and due not in found):
                        found[due] = _scaled(before[1], size)
                if number in wanted and number not in found:
                    found[number] = _scaled(frame, size)
                if number >= wanted[-1]:
                    break
                before = number, frame
    except (av.FFmpegError, OSError) as error:
        raise UnreadableClip(f"{path}: {error}") from error
    lacking = [number for number in wanted if number not in found]
    if lacking:
        raise UnreadableClip(f"{path}: has no frame {lacking[0]}")
    return np.stack([found[number] for number in wanted])


def _opened(path: Path) -> Any:
    return av.open(str(path), metadata_errors="replace")  # titles in another encoding are no damage


def _scaled(frame: av.VideoFrame, size: int) -> np.ndarray:
    """The whole frame, upright: a camera that was held on its side says so beside the pixels."""
    small = frame.reformat(size, size, "rgb24", interpolation=Interpolation.BILINEAR).to_ndarray()
    return np.ascontiguousarray(np.rot90(small, frame.rotation // 90))


def _stream(path: Path, container: Any) -> Any:
    if not container.streams.video:
        raise UnreadableClip(f"{path}: has no video")
    return container.streams.video[0]


def write(path: Path, frames: Iterable[np.ndarray], size: int) -> None:
    """Write a clip as MP4 (H.264), the same bytes for the same frames (size, size, 3), uint8 RGB."""
    options = {"preset": "ultrafast", "crf": "18"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = _BETWEEN_KEYS
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())

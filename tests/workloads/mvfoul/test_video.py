"""Clips: frames by their number, what cannot be read, and what is kept of what was."""

import errno
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from trialfleet.workloads import kept_files
from trialfleet.workloads.mvfoul import video
from trialfleet.workloads.mvfoul.clip_cache import ClipCache

FRAMES = 125


def brightness(number):
    """Of a frame: far from those of its neighbours."""
    return number * 37 % 200 + 20


def frames(count):
    return (np.full((32, 32, 3), brightness(number), np.uint8) for number in range(count))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip_0.mp4"
    video.write(path, frames(FRAMES), 32)
    return path


@pytest.mark.parametrize("wanted", [[0, 1, 2], [67, 70, 82], [74, 75, 76], [100, 124]])
def test_frames_are_those_that_were_asked_for(path, wanted):
    found = video.read(path, wanted, 16)
    assert found.shape == (len(wanted), 16, 16, 3)
    assert found.dtype == np.uint8
    assert found.mean((1, 2, 3)) == pytest.approx([brightness(number) for number in wanted], abs=5)


def test_decoding_begins_at_the_key_frame_before(path, monkeypatch):
    seen = []
    monkeypatch.setattr(video, "round", lambda x: seen.append(round(x)) or round(x), raising=False)
    video.read(path, [67, 82], 16)
    assert seen == list(range(50, 83))  # each 25th is one


def test_another_rate_is_the_clips_own(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "RATE", 50)
    path = tmp_path / "fast.mp4"
    video.write(path, frames(90), 32)
    monkeypatch.undo()
    assert video.read(path, [80], 16).mean() == pytest.approx(brightness(80), abs=5)


def test_where_rates_vary_a_frame_is_seen_until_the_next_one(tmp_path):
    """Here four follow each other in 30 ms, and the next four after 160: as a phone does under load."""
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "18"})
        stream.width = stream.height = 32
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(frames(1000)):  # the last ones hardly change the rate
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = 40 * number - 30 * (number % 4), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video.check(path, 82)
    found = video.read(path, [66, 67, 70, 71], 16)
    assert found.mean((1, 2, 3)) == pytest.approx([brightness(n) for n in (67, 67, 71, 71)], abs=5)
    with pytest.raises(video.UnreadableClip, match="has no frame 1030"):
        video.read(path, [67, 1030], 16)


def test_a_camera_that_was_held_on_its_side_is_seen_upright(tmp_path):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16, :16] = 200
    path = tmp_path / "turned.mp4"
    video.write(path, [picture] * 3, 32)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44  # ISO/IEC 14496-12, of the track's header; here a quarter clockwise
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    found = video.read(path, [0, 1], 16)[0, :, :, 0]
    quarters = (found[:8, :8], found[:8, 8:], found[8:, 8:], found[8:, :8])
    assert [round(float(quarter.mean()), -2) for quarter in quarters] == [0, 200, 0, 0]


def test_a_title_in_another_encoding_is_no_damage(path, tmp_path):
    content = path.read_bytes()
    title = content.index(b"Lavf")  # the program that wrote it
    other = tmp_path / "latin.mp4"
    other.write_bytes(content[:title] + b"B\xe9ar" + content[title + 4 :])
    video.check(other, 82)
    assert len(video.read(other, [67, 82], 16)) == 2


def test_what_cannot_be_read_is_named(path, tmp_path):
    cut, empty, text = (tmp_path / name for name in ("cut.mp4", "empty.mp4", "text.mp4"))
    cut.write_bytes(path.read_bytes()[:2000])
    empty.touch()
    text.write_text("no video")
    for broken in (cut, empty, text, tmp_path / "nowhere.mp4", tmp_path):
        with pytest.raises(video.UnreadableClip, match=broken.name):
            video.check(broken, 82)
        with pytest.raises(video.UnreadableClip, match=broken.name):
            video.read(broken, [67], 16)
    with pytest.raises(video.UnreadableClip, match="has 125 frames, and frame 200 is wanted"):
        video.check(path, 200)
    with pytest.raises(video.UnreadableClip, match="has no frame 130"):
        video.read(path, [120, 130], 16)
    video.check(path, 124)


def test_a_clip_that_breaks_off_in_the_middle_is_not_read(path, tmp_path):
    """Its header is whole, and says nothing of it."""
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 4
    end = content.rindex(b"moov") - 4
    content[middle:end] = bytes(end - middle)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(content)
    video.check(broken, 82)
    with pytest.raises(video.UnreadableClip, match=r"broken.mp4"):
        video.read(broken, [67, 82], 16)


class Decoder:
    """Makes a clip of 1 MB, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return np.full(1_000_000, self.calls, np.uint8)


def test_memory_is_bounded(tmp_path):
    cache, decode = ClipCache("k", 2, None, 0), Decoder()
    for _ in range(2):
        for name in "abc":
            cache.get(tmp_path / name, decode)
    assert decode.calls == 4  # two are kept, the third is decoded each time
    other = pickle.loads(pickle.dumps(cache))
    assert other.get(tmp_path / "a", decode)[0] == 5
    assert other.get(tmp_path / "a", decode)[0] == 5
    with pytest.raises(ValueError, match="read-only"):
        cache.get(tmp_path / "a", decode)[0] = 0


def test_a_folder_is_shared_bounded_and_knows_files_that_changed(tmp_path):
    files, folder = [tmp_path / name for name in "abc"], tmp_path / "cache"
    for file in files:
        file.write_text("x")
    decode = Decoder()
    for file in files:
        ClipCache("k", 0, folder, 2).get(file, decode)
    ClipCache("k", 0, folder, 2).get(files[0], decode)
    assert decode.calls == 3
    assert len(list(folder.glob("*.clip"))) == 1  # a header more than 1 MB, so two are too much
    ClipCache("other", 0, folder, 9).get(files[0], decode)
    files[0].write_text("more")
    ClipCache("k", 0, folder, 9).get(files[0], decode)
    assert decode.calls == 5


def test_a_folder_that_cannot_be_written_costs_time_alone(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "file").write_text("no folder")
    decode = Decoder()
    for _ in range(2):
        assert len(ClipCache("k", 0, tmp_path / "file", 9).get(tmp_path / "a", decode))
    assert decode.calls == 2


def test_processes_of_one_number_on_two_machines_write_apart(tmp_path, monkeypatch):
    """Say in containers, where all have the same one."""
    (tmp_path / "a").write_text("x")
    names, decode = [], Decoder()
    monkeypatch.setattr(kept_files, "put", lambda path, beside, entry: names.append(beside))
    for _ in range(2):
        ClipCache("k", 0, tmp_path / "cache", 9)._write(tmp_path / "cache/own.clip", decode())
    assert len(set(names)) == 2


# of a 1 MB clip: cut off, a pixel, a header that never ends, another magic, and one that another program knows
DAMAGES = [(0, b""), (-9, b"\0"), (16 + 8, b"("), (16, b"x"), (0, b"PK\3\4")]


@pytest.mark.parametrize(("place", "damage"), DAMAGES)
def test_a_damaged_entry_is_made_anew_even_where_there_is_no_room_beside_it(tmp_path, place, damage, caplog):
    (tmp_path / "a").write_text("x")
    decode, folder = Decoder(), tmp_path / "cache"
    ClipCache("k", 0, folder, 2).get(tmp_path / "a", decode)
    [kept] = folder.glob("*.clip")
    content = bytearray(kept.read_bytes())
    content[place : place + len(damage) if damage else None] = damage
    kept.write_bytes(content)
    (folder / "more").write_bytes(bytes(900_000))
    assert (ClipCache("k", 0, folder, 2).get(tmp_path / "a", decode) == 2).all()
    assert f"{kept} is damaged, and made anew" in caplog.text
    assert (ClipCache("k", 0, folder, 2).get(tmp_path / "a", decode) == 2).all()


def test_several_processes_keep_to_the_size_of_a_folder_together(tmp_path):
    """Each with a lock of its own, as processes have them; what one that was killed has left takes no room."""
    files, folder = [tmp_path / str(number) for number in range(12)], tmp_path / "cache"
    folder.mkdir()
    (folder / f"{'0' * 32}.{'1' * 16}").write_bytes(bytes(5_000_000))
    for file in files:
        file.write_text("x")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda file: ClipCache("k", 0, folder, 5).get(file, Decoder()), files))
    assert len(list(folder.glob("*.clip"))) == 4
    assert sum(kept.stat().st_size for kept in folder.iterdir()) < 5_000_000


def test_what_finds_no_room_on_the_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    whole = Path.write_bytes

    def full(path, content):
        whole(path, content[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert len(ClipCache("k", 0, tmp_path / "cache", 9).get(tmp_path / "a", Decoder()))
    assert [kept.name for kept in (tmp_path / "cache").iterdir()] == ["lock"]

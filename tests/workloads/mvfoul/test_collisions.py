"""Rendered collisions: the same again, in the published layout, with the classes in the motion alone."""

import filecmp
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.training.harness import composed
from tests.workloads.mvfoul.rendered import SMALL
from trialfleet.config.mvfoul import CLASSES
from trialfleet.errors import UserError
from trialfleet.workloads.mvfoul import annotations, collision_scene, collision_set, rendering, video
from trialfleet.workloads.mvfoul.collision_set import Rendered

ACTIONS = CLASSES["official"].actions
TIMES = np.linspace(-1, 1, 21)
CONTACT = 10


def test_a_set_is_the_same_whenever_it_is_rendered(tmp_path):
    wanted = Rendered(seed=3, actions=2, eval_actions=2, size=32)
    for name in ("one", "other"):
        for split in collision_set.SPLITS:
            collision_set.write(wanted, split, tmp_path / name)
    collision_set.write(wanted, "train", tmp_path / "one")  # is there already
    files = [str(path.relative_to(tmp_path / "one")) for path in (tmp_path / "one").rglob("*.*")]
    assert "train/action_0/clip_0.mp4" in files
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "other", files, shallow=False) == (files, [], [])
    content = json.loads((tmp_path / "one/valid/annotations.json").read_text())
    assert (content["Set"], content["Number of actions"]) == ("valid", 2)
    clips = content["Actions"]["1"]["Clips"]
    assert clips[0]["Url"] == "Dataset/valid/action_1/clip_0"
    assert clips[0]["Replay speed"] == 1.0
    assert 2 <= len(clips) <= 4
    assert video.read(tmp_path / "one/valid/action_1/clip_1.mp4", [0, 67, 124], 32).std() > 5
    assert not any(path.name.startswith(".") for path in (tmp_path / "one").iterdir())


def test_other_settings_are_another_set(tmp_path):
    few = ("dataset.train_actions=1", "dataset.eval_actions=1", f"dataset.folder={tmp_path}")
    folders = {
        collision_set.ensure(composed(*SMALL, *few, *more).dataset, "val")
        for more in ((), ("dataset.seed=1",), ("dataset.picture=16",))
    }
    assert len(folders) == 3
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"dataset.folder: .* cannot be written"):
        collision_set.ensure(composed(*SMALL, f"dataset.folder={tmp_path / 'file'}").dataset, "val")


def test_trials_that_start_together_render_a_set_once(tmp_path, caplog):
    few = ("dataset.train_actions=2", "dataset.eval_actions=1", f"dataset.folder={tmp_path}")
    data = composed(*SMALL, *few).dataset
    caplog.set_level("INFO")
    with ThreadPoolExecutor(4) as pool:
        (folder,) = {*pool.map(lambda _: collision_set.ensure(data, "train"), range(4))}
    assert caplog.text.count("rendering 2 collisions") == 1
    assert [path.name for path in folder.iterdir()] == ["train"]


def test_training_has_the_real_frequencies_and_tests_enough_of_each_class():
    wanted = Rendered(seed=0, actions=640, eval_actions=200, size=64)
    for split, least in (("train", 1), ("val", 20), ("test", 20)):
        severity, action = collision_set.labels(wanted, split)
        assert len(severity) == len(action) == {"train": 640}.get(split, 200)
        assert np.bincount(severity, minlength=4).min() >= least
        assert np.bincount(action, minlength=8).min() >= least
    counts = np.bincount(collision_set.labels(wanted, "train")[1])
    real = np.asarray(collision_set.ACTION_COUNTS)
    assert counts == pytest.approx(real / real.sum() * 640, abs=1)
    assert list(collision_set.scaled((353, 1402, 687, 27), 3, 20)) in ([1, 1, 1, 0], [0, 2, 1, 0])
    assert collision_set.scaled((448, 1264, 103, 361, 88, 178, 383, 28), 16, 20).min() == 2


def scene(action, strength, seed=0):
    return collision_scene.scene(action, strength, TIMES, np.random.default_rng(seed))


def head(limbs):
    (ball,) = (limb for limb in limbs if limb.start is limb.end)
    return ball.start


def gap(comer, hit):
    """The least distance between limbs of both at the contact."""
    ends = [[point[CONTACT] for limb in limbs for point in (limb.start, limb.end)] for limbs in (comer, hit)]
    return min(np.linalg.norm(one - other) for one in ends[0] for other in ends[1])


@pytest.mark.parametrize("action", ACTIONS)
def test_severity_is_in_what_becomes_of_the_other(action):
    moved, height = [], []
    for strength in (0.0, 1 / 3, 2 / 3, 1.0):
        hit = head(scene(action, strength)[1])
        moved.append(np.linalg.norm(hit[-1, :2] - hit[CONTACT, :2]))
        height.append(hit[-1, 2])
    assert moved == sorted(moved)
    assert height == sorted(height, reverse=True)
    assert height[0] > 0.85
    assert height[-1] < 0.3


def test_the_action_is_in_how_the_other_comes():
    seen = {action: [scene(action, 0.5, seed) for seed in range(5)] for action in ACTIONS}
    for comer, hit in seen["Dive"]:
        assert gap(comer, hit) > 0.3
    for action in set(ACTIONS) - {"Dive"}:
        assert all(gap(*both) < 0.45 for both in seen[action]), action
    low = {action: np.mean([head(comer)[CONTACT, 2] for comer, _ in scenes]) for action, scenes in seen.items()}
    assert min(low, key=low.get) == "Tackling"
    assert max(low, key=low.get) == "Elbowing"
    feet = {a: max(limb.end[CONTACT, 2] for c, _ in s for limb in c if limb.part == "shorts") for a, s in seen.items()}
    assert feet["High leg"] > 0.8
    assert feet["Standing tackling"] < 0.3


def test_cameras_see_one_scene_and_some_are_blocked():
    cameras = rendering.cameras(4, np.random.default_rng(0))
    assert cameras[0].slow == 1.0
    assert not cameras[0].blocked
    clips = [
        np.stack(list(rendering.clip("Tackling", 0.5, camera, 32, [1], np.random.default_rng(2)))) for camera in cameras
    ]
    assert {clip.shape for clip in clips} == {(125, 32, 32, 3)}
    assert not np.array_equal(clips[0], clips[1])
    many = [camera.blocked for n in range(50) for camera in rendering.cameras(4, np.random.default_rng(n))]
    assert 20 < sum(many) < 100
    blocked = cameras[1]._replace(blocked=True), cameras[1]._replace(blocked=False)
    one, other = (
        np.stack(list(rendering.clip("Tackling", 0.5, camera, 32, [1], np.random.default_rng(2)))) for camera in blocked
    )
    assert not np.array_equal(one, other)


def test_labels_are_not_in_the_files_but_in_the_annotations(tmp_path):
    wanted = Rendered(seed=0, actions=8, eval_actions=1, size=16)
    collision_set.write(wanted, "train", tmp_path)
    severity, action = collision_set.labels(wanted, "train")
    read, left_out = annotations.of_folder("dataset.folder", tmp_path, "train", "official")
    assert left_out == 0
    assert [one.severity for one in read] == list(severity)
    assert [one.action for one in read] == list(action)

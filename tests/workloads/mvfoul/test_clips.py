"""The source: batches of clips with a mask, changes in training, damage, where the files come from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.training.harness import composed
from tests.workloads.mvfoul.rendered import SMALL, as_files, shared_set
from trialfleet.config.mvfoul import CLASSES, FoulFiles
from trialfleet.errors import UserError
from trialfleet.training.data import examples_of
from trialfleet.workloads.mvfoul import augmentation, clips, collision_set

OF_FILES = [word for word in SMALL if not word.startswith("dataset.")]


@pytest.fixture(scope="module")
def config():
    return composed(*SMALL)


@pytest.fixture(scope="module")
def folder():
    return shared_set()


def of_files(folder, *overrides):
    own = ("dataset.size=16", "dataset.frames=4", "dataset.max_damaged=0.1", f"dataset.data_dir={folder}")
    return composed(*OF_FILES, "dataset=mvfoul", *own, *overrides)


def batch_of(source, count=8):
    plan = source.epoch(0, 0)[0]
    return source.collate(examples_of(source, plan, 0, 0, 0, range(count)), plan.bucket)


def test_batches_have_static_shapes_and_a_mask_of_the_views(config, folder):
    source = clips.FoulClips(config, "train")
    batch, names = batch_of(source), CLASSES["official"]
    assert batch["video"].shape == (8, 3, 4, 16, 16, 3)
    assert {int(views) for views in batch["mask"].sum(1)} <= {2, 3}
    assert not batch["video"][batch["mask"] == 0].any()
    assert batch["video"][batch["mask"] == 1].reshape(-1, 3 * 4 * 16 * 16).any(1).all()
    assert batch["severity_weights"].shape == (8, 4)
    assert batch["action_weights"].shape == (8, 8)
    assert list(batch["share"]) == [1] * 8
    written = json.loads((folder / "train/annotations.json").read_text())["Actions"]
    for row, action in zip(batch["id"], batch["action"], strict=True):
        assert names.actions[action] == written[source.actions[row].name]["Action class"]


def test_files_are_read_as_the_collisions_are(config, folder):
    ours = clips.FoulClips(config, "val")
    files = clips.FoulClips(of_files(folder, "dataset.max_views=3"), "val")
    one, other = (batch_of(source) for source in (ours, files))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert isinstance(of_files(folder).dataset, FoulFiles)
    assert of_files(folder).data_files() == {"dataset.data_dir": (str(folder),)}


def test_an_evaluation_takes_the_first_views_and_a_training_any(folder):
    config = of_files(folder, "dataset.max_views=1", "dataset.flip=0", "dataset.rotation=0", "dataset.colour_jitter=0")
    for split, distinct in (("val", {1}), ("train", {2, 3, 4})):
        source = clips.FoulClips(config, split)
        seen = [source.example(0, np.random.default_rng(n))["views"][0].tobytes() for n in range(30)]
        assert len(set(seen)) in distinct
        first = source.clip(source.actions[0].clips[0])
        assert first.tobytes() in seen


def test_a_missing_and_a_broken_clip_are_named_counted_and_left_out(tmp_path, folder, caplog):
    copy = shutil.copytree(folder, tmp_path / "set")
    (copy / "valid/action_0/clip_0.mp4").unlink()
    for clip in (copy / "valid/action_1").iterdir():
        clip.write_bytes(b"no video")
    source = clips.FoulClips(of_files(copy, "dataset.max_damaged=0.5"), "val")
    assert source.dropped == 1
    assert [one.name for one in source.actions][:2] == ["0", "2"]
    assert "action_0/clip_0.mp4" in caplog.text
    assert "action_1/clip_1.mp4" in caplog.text
    whole = clips.FoulClips(of_files(folder), "val")
    assert len(source.actions[0].clips) == len(whole.actions[0].clips) - 1
    with pytest.raises(UserError, match=r"\d of \d+ clips for val cannot be read; the first: .*action_0"):
        clips.FoulClips(of_files(copy, "dataset.max_damaged=0.01"), "val")
    shutil.rmtree(copy / "valid/action_1")
    shutil.rmtree(copy / "test/action_0")
    for clip in copy.glob("test/*/*.mp4"):
        clip.unlink()
    with pytest.raises(UserError, match="clips for test none can be read"):
        clips.FoulClips(of_files(copy, "dataset.max_damaged=1.0"), "test")


def test_a_clip_that_turns_out_broken_counts_nothing_and_is_named_once(tmp_path, folder, caplog):
    copy = shutil.copytree(folder, tmp_path / "set")
    source = clips.FoulClips(of_files(copy), "val")
    for clip in source.actions[3].clips:
        clip.write_bytes(b"since then it was lost")
    for _ in range(2):
        batch = batch_of(source)
    assert list(batch["weight"]) == [1, 1, 1, 0, 1, 1, 1, 1]
    assert batch["mask"][3].sum() == 1  # black: what does not count must not be divided by nothing
    assert not batch["video"][3].any()
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == len(set(named)) == len(source.actions[3].clips)
    assert "valid/action_3/clip_0.mp4" in named[0]


def test_tables_say_which_actions_there_are(tmp_path, folder):
    own = as_files(tmp_path / "set")
    (own / "val.csv").write_text("Clips,Action class,Offence,Severity\ntrain/action_0,Dive,Offence,5.0\n")
    config = of_files(own, "dataset.train_csv=train.csv", f"dataset.val_csv={own / 'val.csv'}")
    train, val, test = (clips.FoulClips(config, split) for split in collision_set.SPLITS)
    assert list(train.action) == list(clips.FoulClips(of_files(folder), "train").action)
    assert [(one.severity, one.action) for one in val.actions] == [(3, 7)]
    assert len(test.actions) == 16


def test_what_is_not_there_is_refused_at_once(tmp_path):
    files = [*OF_FILES, "dataset=mvfoul"]
    with pytest.raises(UserError, match=r"dataset.data_dir: required, and not set; add dataset.data_dir=VALUE"):
        composed(*files)
    with pytest.raises(UserError, match=r"dataset.data_dir: there is no folder .*nowhere; give the one that has train"):
        composed(*files, f"dataset.data_dir={tmp_path}/nowhere")
    with pytest.raises(UserError, match=r"has no train/annotations.json"):
        clips.FoulClips(of_files(tmp_path), "train")


# ---- changes in training ----------------------------------------------------------------------


VIEWS = [np.random.default_rng(n).integers(0, 255, (3, 16, 16, 3)).astype(np.uint8) for n in range(2)]


def test_frames_of_a_clip_change_alike(folder):
    data = of_files(folder).dataset
    still = [np.broadcast_to(view[:1], view.shape) for view in VIEWS]
    for view in augmentation.changed(still, data, np.random.default_rng(0)):
        assert view.shape == (3, 16, 16, 3)
        assert view.dtype == np.uint8
        assert all(np.array_equal(frame, view[0]) for frame in view)


def test_each_change_can_be_had_alone(folder):
    off = ("dataset.flip=0", "dataset.rotation=0", "dataset.colour_jitter=0")
    rng = np.random.default_rng(0)
    assert all(map(np.array_equal, augmentation.changed(VIEWS, of_files(folder, *off).dataset, rng), VIEWS))
    mirrored = augmentation.changed(VIEWS, of_files(folder, *off, "dataset.flip=1").dataset, rng)
    assert all(np.array_equal(one, other[:, :, ::-1]) for one, other in zip(mirrored, VIEWS, strict=True))
    turned = augmentation.changed(VIEWS, of_files(folder, *off, "dataset.rotation=90").dataset, rng)
    assert not np.array_equal(turned[0], VIEWS[0])
    grey = np.full((2, 4, 4, 3), 100, np.uint8)
    (lit,) = augmentation.changed([grey], of_files(folder, *off, "dataset.colour_jitter=0.2").dataset, rng)
    assert len(np.unique(lit.reshape(-1, 3), axis=0)) == 1
    assert np.abs(lit.astype(int) - 100).max() <= 45


def test_mixup_adds_and_cutmix_cuts_with_the_share_that_the_loss_has(folder):
    black, white = [np.zeros((2, 10, 10, 3), np.uint8)] * 3, [np.full((2, 10, 10, 3), 200, np.uint8)]
    mixes = {name: of_files(folder, f"dataset.{name}=0.4").dataset for name in ("mixup", "cutmix")}
    for seed in range(5):
        views, share = augmentation.blended(black, white, mixes["mixup"], np.random.default_rng(seed))
        assert len(views) == 3
        assert views[0] == pytest.approx(np.full_like(views[0], 200 * (1 - share)), abs=1)
        views, share = augmentation.blended(black, white, mixes["cutmix"], np.random.default_rng(seed))
        assert {*np.unique(views[0])} <= {0, 200}
        assert (views[0] == 0).mean() == pytest.approx(share)
        assert np.array_equal(views[0][0], views[0][1])


def test_a_blended_batch_says_of_what(folder):
    source = clips.FoulClips(of_files(folder, "dataset.mixup=1.0"), "train")
    batch = batch_of(source)
    assert ((batch["share"] > 0) & (batch["share"] < 1)).all()
    assert not np.array_equal(batch["other_action"], batch["action"])
    again = batch_of(clips.FoulClips(of_files(folder, "dataset.mixup=1.0"), "train"))
    assert all(np.array_equal(batch[name], again[name]) for name in batch)


@pytest.mark.slow
def test_decoding_processes_make_the_same_batches(folder, tmp_path):
    from contextlib import closing

    from trialfleet.training.data import HostBatches, Position, TrainingOrder
    from trialfleet.training.decoding import decoded

    source = clips.FoulClips(of_files(folder, f"dataset.cache_dir={tmp_path / 'cache'}"), "train")
    order = TrainingOrder(HostBatches(source, 1, 8, 0, 8, False), 3, Position(0, 0, 0), None)
    with closing(decoded(order, 1, 2)) as made:
        first = next(made)
    assert all(np.array_equal(leaf, first.batch[name]) for name, leaf in order[0].batch.items())
    assert len(list(Path(tmp_path / "cache").iterdir())) > 8

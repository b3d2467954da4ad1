"""Weights of a local folder: found by name, read slice by slice, and refused in words."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from trialfleet.errors import UserError
from trialfleet.training.published import PublishedWeights

LAYERS = {f"layers.{number}.w": np.full((4, 6), number, np.float32) for number in range(3)}
TABLE = np.arange(64, dtype=np.float32).reshape(16, 4)


@pytest.fixture
def folder(tmp_path):
    """Weights in two files, one of which is in bfloat16."""
    save_file(LAYERS, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"table": TABLE.astype(ml_dtypes.bfloat16)}, tmp_path / "model-00002-of-00002.safetensors")
    files = dict.fromkeys(LAYERS, "model-00001-of-00002.safetensors") | {"table": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return tmp_path


def test_arrays_are_read_by_slices(folder):
    weights = PublishedWeights(folder, "model.weights")
    assert weights.names == {*LAYERS, "table"}
    assert weights.shape("table") == (16, 4)
    part = weights.read("table", (slice(3, 5), slice(1, 3)))
    assert part.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(part.astype(np.float32), TABLE[3:5, 1:3])
    np.testing.assert_array_equal(weights.read("layers.1.w"), LAYERS["layers.1.w"])
    stacked = weights.read_stacked(tuple(LAYERS), (slice(1, 3), slice(0, 2), slice(None)))
    np.testing.assert_array_equal(stacked, np.stack([LAYERS["layers.1.w"][:2], LAYERS["layers.2.w"][:2]]))


def test_each_device_reads_its_share(folder, monkeypatch):
    read, weights = [], PublishedWeights(folder, "model.weights")
    mesh = jax.make_mesh((8,), ("fsdp",))

    def part(index):
        found = weights.read("table", index).astype(np.float32)
        read.append(found.size)
        return found

    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    np.testing.assert_array_equal(jax.make_array_from_callback((16, 4), place, part), TABLE)
    assert read == [TABLE.size // 8] * 8


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(), "00002.safetensors: is not there"),
        (lambda folder: (folder / "model-00002-of-00002.safetensors").write_bytes(b"x" * 50), "no whole safetensors"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "is no index of weights"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "model.safetensors: is not there"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"other": "model-00001-of-00002.safetensors"}})
            ),
            "names arrays that no file has: other",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_at_once(folder, harm, words):
    harm(folder)
    with pytest.raises(UserError, match=words) as caught:
        PublishedWeights(folder, "model.weights")
    assert str(caught.value).startswith(f"model.weights: {folder}")


def test_an_array_that_is_not_there_is_named(folder):
    with pytest.raises(UserError, match="has no array 'head'"):
        PublishedWeights(folder, "model.weights").read("head")

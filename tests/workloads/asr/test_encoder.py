"""Whisper's encoder: it hears what the library transformers hears, and silence behind a recording changes nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from trialfleet.config.asr_decoder import AudioEncoder
from trialfleet.errors import UserError
from trialfleet.training import trees
from trialfleet.training.published import PublishedWeights
from trialfleet.workloads.asr import encoder, published
from trialfleet.workloads.asr.features import log_mel

GOLDEN = Path(__file__).parent / "golden"
SIZES: dict[str, Any] = {"bands": 10, "width": 24, "layers": 2, "heads": 3, "hidden": 40}


def small(**changes: Any) -> AudioEncoder:
    return AudioEncoder(weights=None, hears_silence=False, **{**SIZES, **changes})


def read(config: AudioEncoder) -> published.EncoderWeights:
    return published.EncoderWeights(
        config, PublishedWeights(GOLDEN / "whisper", "model.encoder.weights"), "model.encoder"
    )


@pytest.fixture(scope="module")
def params() -> Any:
    """The golden weights as ours."""
    config = small()
    shapes = trees.flatten(jax.eval_shape(lambda: encoder.init(config, jax.random.key(0))))
    weights = read(config)
    flat = {path: weights.read(path, (slice(None),) * leaf.ndim) for path, leaf in shapes.items()}
    assert all(flat[path].shape == leaf.shape for path, leaf in shapes.items())
    return trees.unflatten(flat)


def test_it_hears_what_transformers_hears(params):
    said = load_file(GOLDEN / "said.safetensors")
    got = encoder.encode(small(), params, jnp.asarray(said["features"]), jnp.ones(said["encoded"].shape[:2]))
    assert np.abs(said["encoded"]).mean() > 0.5
    np.testing.assert_allclose(got, said["encoded"], atol=1e-5, rtol=0)


def test_what_lies_behind_a_recording_is_not_heard(params):
    features = np.asarray(load_file(GOLDEN / "said.safetensors")["features"])
    features[:, 20:] = 0  # silence, as a shorter recording has it: a convolution looks one frame ahead
    valid = (np.arange(16) < 10).astype(np.float32)[None].repeat(2, 0)
    changed = features.copy()
    changed[:, 21:] = 7
    got, other = (encoder.encode(small(), params, jnp.asarray(each), valid)[:, :10] for each in (features, changed))
    np.testing.assert_allclose(got, other, atol=1e-5, rtol=0)
    short = encoder.encode(small(), params, jnp.asarray(features[:, :20]), valid[:, :10])
    np.testing.assert_allclose(got, short, atol=1e-5, rtol=0)


def test_a_slice_is_a_part_of_the_whole():
    weights = read(small())
    for path, index in (("layers/attn/query/w", (1, slice(4, 9), slice(1, 3))), ("conv2/w", (slice(1, 3), slice(5)))):
        index = tuple(slice(one, one + 1) if isinstance(one, int) else one for one in index)
        whole = weights.read(path, (slice(None),) * len(index))
        np.testing.assert_array_equal(weights.read(path, index), whole[index])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 36}, r"model.encoder: model.encoder.conv1.weight has the shape \(24, 10, 3\), and .* \(36, 10, 3\)"),
        ({"layers": 1}, "model.encoder: there are more than 1 layers"),
        ({"layers": 3}, "layers.2"),
    ],
)
def test_weights_of_another_model_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        read(small(**changes))


def test_each_leaf_has_its_axes():
    flat = trees.flatten(jax.eval_shape(lambda: encoder.init(small(), jax.random.key(0))))
    named = trees.flatten(encoder.axes(small()))
    assert {path: leaf.ndim for path, leaf in flat.items()} == {path: len(axes) for path, axes in named.items()}


def test_heads_that_the_config_beside_the_weights_contradicts_are_refused(tmp_path):
    shutil.copyfile(GOLDEN / "whisper" / "model.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"encoder_attention_heads": 3, "d_model": 24}))
    there = PublishedWeights(tmp_path, "model.encoder.weights")
    published.EncoderWeights(small(), there, "model.encoder.weights")
    with pytest.raises(UserError, match=r"config\.json is of another model: model\.encoder\.heads is 6, and there 3"):
        published.EncoderWeights(small(heads=6), there, "model.encoder.weights")
    (tmp_path / "config.json").unlink()
    published.EncoderWeights(small(heads=6), there, "model.encoder.weights")  # nobody compares


@pytest.mark.parametrize("changes", [{"bands": 2}, {"bands": 150}, {"width": 2, "heads": 1}])
def test_sizes_of_which_there_is_no_encoder_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        small(**changes)


@pytest.mark.parametrize(("width", "bands"), [(4, 3), (6, 149)])
def test_the_least_and_the_largest_sizes_hear_numbers(width, bands):
    assert np.isfinite(encoder.positions(5, width)).all()
    assert small(bands=bands, width=width, heads=1).bands == bands
    assert np.isfinite(log_mel(np.zeros(1000, np.float32), bands)).all()

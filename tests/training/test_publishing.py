"""What is written array by array is what the library safetensors reads."""

import json
from math import prod

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from trialfleet.training import publishing
from trialfleet.training.published import INDEX, ONE, PublishedWeights

SHAPES = {"one": (4, 3), "large": (50, 3), "b": (7,), "a": (2, 2, 2)}
ARRAYS = {name: np.random.default_rng(len(name)).normal(size=shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_file_holds_all(tmp_path, dtype):
    assert publishing.write(tmp_path, SHAPES, iter(ARRAYS.items()), dtype, 1e9) == 1
    found = load_file(tmp_path / ONE)
    kind = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
    assert set(found) == set(SHAPES)
    for name, array in ARRAYS.items():
        assert found[name].dtype == kind
        np.testing.assert_array_equal(found[name], array.astype(kind))


def test_files_are_no_larger_than_said_but_for_an_array_that_is(tmp_path):
    assert publishing.write(tmp_path, SHAPES, iter(ARRAYS.items()), "float32", 70) == 3
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["weight_map"] == {"one": files[0], "large": files[1], "b": files[2], "a": files[2]}
    assert index["metadata"]["total_size"] == 4 * sum(map(prod, SHAPES.values()))
    weights = PublishedWeights(tmp_path, "model.weights")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(weights.read(name), array.astype(np.float32))


@pytest.mark.parametrize("arrays", [{"b": np.zeros(7)}, {"a": np.zeros(7)}, {}])
def test_an_array_that_is_not_the_next_one_is_a_mistake(tmp_path, arrays):
    with pytest.raises(ValueError, match=r"comes where|longer"):
        publishing.write_file(tmp_path / ONE, {"a": (2, 2, 2)}, iter(arrays.items()), "float32")

"""Small and true models of torchvision: which arrays they have, weights for them, and what they say of some views.

The weights are drawn from their names and shapes, so that no file has to hold them: `golden/make.py`, which has
torchvision, and the tests, which have not, draw the same.
"""

import json
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.training.harness import composed
from trialfleet.training.published import ONE

GOLDEN = Path(__file__).parent / "golden"
VIEWS = 2
FRAMES, SIZE = 4, 32  # of the views that are looked at

TRUE = {
    "r3d_18": ("model=resnet3d",),
    "r2plus1d_18": ("model=resnet3d", "model.kind=r2plus1d"),
    "mvit_v2_s": ("model=mvit",),
}
_SMALL_RESNET = ("model=resnet3d", "model.widths=[8,8,12,16]", "model.depths=[1,2,1,1]", "model.stem_hidden=5")
SMALL = {
    "small_r3d": _SMALL_RESNET,
    "small_r2plus1d": (*_SMALL_RESNET, "model.kind=r2plus1d"),
    "small_mvit": (
        "model=mvit",
        "model.widths=[8,16,24]",
        "model.depths=[1,2,1]",
        "model.heads=[1,2,3]",
        "model.key_stride=4",
    ),
}
_PLAIN = ("model.aggregator=none", "dataset.frames=4", "dataset.size=32", "runtime.compilation_cache=null")


# The arrays of true models, or of those with the true blocks for small views, and what those are called.
OF_SMALL_VIEWS = {"mvit_v2_s": "mvit_v2_s of small views"}


def config(name: str, *overrides: str) -> Any:
    """The config whose model is the one of this name."""
    return composed("workload=mvfoul", *(TRUE | SMALL)[name], *_PLAIN, *overrides)


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The arrays of a model by their published names."""
    found = json.loads((GOLDEN / "shapes.json").read_text())[name]
    return {key: tuple(shape) for key, shape in found.items()}


def drawn(names: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Arrays that keep a signal's size, with norms that are no identity."""
    return {name: _drawn(name, shape) for name, shape in names.items()}


def _drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.asarray(3, np.int64)
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)  # its stream never changes
    if name.endswith("running_var"):
        noise = np.exp(0.3 * noise)
    elif "rel_pos" in name:
        noise = 0.3 * noise
    elif len(shape) > 1:
        noise = noise * prod(shape[1:]) ** -0.5
    elif name.endswith("weight"):
        noise = 1 + 0.2 * noise
    else:
        noise = 0.2 * noise
    return noise.astype(np.float32)


def folder(path: Path, name: str) -> Path:
    """A folder of published weights of the model."""
    save_file(drawn(shapes(name)), path / ONE)
    return path


def views() -> np.ndarray:
    """What is looked at (N, T, H, W, 3), as if it were scaled already."""
    return np.random.RandomState(0).standard_normal((VIEWS, FRAMES, SIZE, SIZE, 3)).astype(np.float32)


def said(name: str) -> np.ndarray:
    """What torchvision's model makes of the views, before its head (N, C)."""
    return load_file(GOLDEN / "said.safetensors")[name]

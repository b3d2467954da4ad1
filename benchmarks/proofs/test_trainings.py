"""What the tests try of trainings by samples: each mesh for longer, and a kill, or two processes, of each workload."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.training import test_distributed, test_mesh, test_resume
from tests.workloads import test_grpo_training, test_mvfoul_training
from tests.workloads.mvfoul import test_networks_training
from trialfleet.config import Config


@pytest.mark.parametrize(
    ("overrides", "kills"),
    [
        (test_resume.ASR, (9, 24, 41)),
        (test_resume.MVFOUL, (13,)),
        (test_resume.GRPO, (10,)),
        (test_resume.ARRAYS, (24,)),
    ],
    ids=["asr", "mvfoul", "grpo", "arrays"],
)
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: Sequence[str], kills: Sequence[int]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(test_resume.DIGITS_MLP))
    test_resume.survive(tmp_path, overrides, kills)


def test_two_processes_train_the_default_workload(tmp_path: Path, compiled: Path) -> None:
    words = (*test_resume.ASR, *test_distributed.MESH, f"runtime.compilation_cache={compiled}")
    test_distributed.together(tmp_path, words)


def test_asr_is_the_same_on_every_mesh(config: Callable[..., Config]) -> None:
    test_mesh.agree(config, test_mesh.MESHES, steps=30)


@pytest.mark.parametrize(("norm", "others"), test_mvfoul_training.MESHES)
def test_mvfoul_is_the_same_on_every_mesh(norm: str, others: Sequence[Sequence[str]]) -> None:
    test_mvfoul_training.agree(norm, others, steps=30)


@pytest.mark.parametrize("overrides", [test_networks_training.SPLIT, ("training.per_device_batch=2",)])
@pytest.mark.parametrize("name", ["r2plus1d", "resnet3d_tiny"])
def test_video_networks_are_the_same_on_every_mesh(name: str, overrides: Sequence[str]) -> None:
    test_networks_training.agree(name, overrides)


def test_grpo_is_the_same_on_every_mesh() -> None:
    split = ("mesh.data=1", "mesh.fsdp=8")
    test_grpo_training.agree((split, test_grpo_training.TENSOR, test_grpo_training.MICRO), steps=30)

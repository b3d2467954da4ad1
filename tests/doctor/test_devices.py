"""Devices: those of drivers that answer, complain or hang, and what JAX makes of them."""

import json
import sys
from typing import Any

import pytest

from trialfleet.doctor import devices

from .conftest import Machine

SMI = "NVIDIA H100 80GB HBM3, 550.54.15, 81559, 81000"


def jax_says(machine: Machine, monkeypatch: pytest.MonkeyPatch, **said: Any) -> None:
    """In the place of Python: what a process with JAX in it would print."""
    answer = {"platform": "cpu", "version": "cpu", "processes": 1, "devices": [["cpu", None, None]], **said}
    line = devices._MARK + json.dumps(answer)
    monkeypatch.setattr(sys, "executable", str(machine.program("python", "echo a banner", f"printf '%s\\n' '{line}'")))


def test_no_gpu_is_well(bare: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TPU_NAME", raising=False)
    (found,) = devices.driver()
    assert found.status == "ok"


def test_gpus_with_their_driver(machine: Machine) -> None:
    machine.program("nvidia-smi", f"echo '{SMI}'", "echo 'MIG thing, 550.54.15, [N/A], [N/A]'")
    (found,) = devices.driver()
    assert found.status == "ok"
    assert "driver 550.54.15: NVIDIA H100 80GB HBM3 (79.1 of 79.6 GiB free), MIG thing" in found.found


def test_a_driver_that_does_not_answer(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.program("nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'", "exit 18")
    (found,) = devices.driver()
    assert found.status == "FAIL"
    assert "version mismatch" in found.found
    machine.program("nvidia-smi", "exec sleep 600")
    monkeypatch.setattr(devices, "SMI_SECONDS", 0.1)
    (found,) = devices.driver()
    assert (found.status, found.found) == ("FAIL", "nvidia-smi: no answer")


def test_tpu_variables(bare: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_NAME", "pod-1")
    (found,) = devices.driver()
    assert found.found.startswith("TPU: TPU_NAME=pod-1")


def test_what_jax_sees_here() -> None:
    (found,) = devices.jax("cpu")
    assert found.status == "ok"
    assert found.found.startswith("platform cpu")


def test_memory_of_the_devices(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.program("nvidia-smi", f"echo '{SMI}'")
    stats = ["NVIDIA H100", 60 * 2**30, 2**30]
    jax_says(machine, monkeypatch, platform="gpu", version="PJRT C API\ncuda 12090", devices=[stats, stats])
    (found,) = devices.jax(None)
    assert found.status == "ok"
    assert found.found == (
        "platform gpu (PJRT C API), 2 of NVIDIA H100, memory 59.0 of 60.0 GiB free; 59.0 of 60.0 GiB free"
    )


def test_a_gpu_that_jax_does_not_use(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.program("nvidia-smi", f"echo '{SMI}'")
    jax_says(machine, monkeypatch)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = devices.jax(None)
    assert found.status == "note"
    assert "pip install 'jax[cuda12]==" in found.fix
    assert [one.status for one in devices.jax("cpu")] == ["ok"]  # as it was asked for
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "unset JAX_PLATFORMS=cpu" in next(iter(devices.jax(None))).fix


def test_jax_that_fails_or_hangs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    program = machine.program("python", "echo 'RuntimeError: no cuda' >&2", "exit 1")
    monkeypatch.setattr(sys, "executable", str(program))
    (found,) = devices.jax("gpu")
    assert found.status == "FAIL"
    assert "does not start with runtime.platform=gpu: RuntimeError: no cuda" in found.found
    machine.program("python", "exec sleep 600")
    monkeypatch.setattr(devices, "SECONDS", 0.1)
    (found,) = devices.jax(None)
    assert found.status == "FAIL"
    assert "did not show its devices within 0.1 s" in found.found


def test_jax_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "installed", lambda name: None)
    (found,) = devices.jax(None)
    assert found.status == "note"

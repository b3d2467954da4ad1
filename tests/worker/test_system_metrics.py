"""What a run uses is sampled beside it; whatever goes wrong there, the run goes on."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.cluster.processes import wait_until
from trialfleet.trial.metrics import SYSTEM, SYSTEM_EVERY, read_from
from trialfleet.worker import system_metrics
from trialfleet.worker.system_metrics import sampled

CPU, MEMORY = "system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"


def samples(folder: Path, least: int) -> list[tuple[int, dict[str, float]]]:
    with sampled(folder, 0.01):
        assert wait_until(lambda: len(read_from(folder / SYSTEM)[0]) >= least, 20)
    return [(line.step, line.values) for line in read_from(folder / SYSTEM)[0]]


def test_steps_count_on_over_the_runs_of_a_trial(tmp_path: Path) -> None:
    first = samples(tmp_path / "1.0", 3)
    assert [step for step, _ in first] == list(range(len(first)))
    assert all(0 <= values[CPU] <= 100 and values[MEMORY] > 1 for _, values in first)
    assert samples(tmp_path / "2.0", 1)[0][0] == len(first)


def test_nothing_is_sampled_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for said, seconds in (("", None), ("often", None), ("2.5", 2.5)):
        monkeypatch.setenv(SYSTEM_EVERY, said)
        assert system_metrics.asked() == seconds
    with sampled(tmp_path / "1.0", None):
        time.sleep(0.05)
    assert not (tmp_path / "1.0").exists()


def test_the_gpus_are_those_that_the_job_may_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_power(handle: str) -> int:
        raise RuntimeError("not supported")

    fake = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 4,
        nvmlDeviceGetHandleByIndex=lambda index: f"index {index}",
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=1 << 30, total=4 << 30),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=70 if handle == "index 2" else 30),
        nvmlDeviceGetPowerUsage=no_power,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-a1,9,0")
    _, values = samples(tmp_path / "1.0", 1)[0]
    assert values["system/gpu_0_utilization_percentage"] == 70
    assert values["system/gpu_1_memory_usage_percentage"] == 25
    assert "system/gpu_2_utilization_percentage" not in values  # what comes behind a device that is none is not seen
    assert "system/gpu_0_power_usage_watts" not in values


def test_a_folder_that_cannot_be_written_stops_the_samples_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with sampled(tmp_path / "file" / "1.0", 0.01):
        time.sleep(0.05)

"""What a run's processes use of CPU, memory and GPUs, sampled beside it into its folder's system.jsonl.

Only what is the job's own counts: this process and its descendants, on the cores that it may use; the GPUs that it may
see. The names are those under which MLflow shows system metrics. GPUs need the package nvidia-ml-py. Whatever goes
wrong in here, the run goes on without samples.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trialfleet.trial import metrics, records

_TAIL = 4096  # bytes of an earlier run's samples, of which the last step is read
_MIB = 1 << 20


def asked() -> float | None:
    """Seconds between two samples, if this job's study asked for them."""
    try:
        return float(os.environ.get(metrics.SYSTEM_EVERY, ""))
    except ValueError:
        return None


@contextlib.contextmanager
def sampled(run_folder: Path, every: float | None) -> Iterator[None]:
    """Sample for the length of the block.

    Args:
        every: seconds between two samples; None for none.
    """
    if every is None or every <= 0:
        yield
        return
    sampler = Sampler(run_folder, every)
    thread = threading.Thread(target=sampler.run, name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        sampler.over.set()
        thread.join(2.0)


class Sampler:
    """Appends a sample now and then. Steps count on over the runs of a trial.

    Args:
        every: seconds between two samples.
    """

    def __init__(self, run_folder: Path, every: float) -> None:
        self._folder, self._every = run_folder, every
        self.over = threading.Event()

    def run(self) -> None:
        """Until `over` is set."""
        with contextlib.suppress(Exception):
            step = _next_step(self._folder)
            writer = metrics.Writer(self._folder / metrics.SYSTEM)
            gpus, cpu = _gpus(), _Cpu()
            try:
                while not self.over.wait(self._every):
                    values = {**cpu.sample(), **gpus()}
                    if values:
                        writer.append(step, values)
                        step += 1
            finally:
                writer.close()


def _next_step(run_folder: Path) -> int:
    """The step behind the last one of the trial's earlier runs."""
    last = -1
    for file in run_folder.parent.glob(f"*/{metrics.SYSTEM}"):
        for raw in records.tail(file, _TAIL).encode().splitlines():
            with contextlib.suppress(ValueError):  # the first line may be cut
                last = max(last, metrics.parse(raw).step)
    return last + 1


class _Cpu:
    """CPU time and memory of this process and its descendants, as Linux tells."""

    def __init__(self) -> None:
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._cores = len(os.sched_getaffinity(0))
        self._before: dict[int, int] = {}
        self._at = time.monotonic()
        self.sample()

    def sample(self) -> dict[str, float]:
        now, used, pages = time.monotonic(), {}, 0
        for pid in _family(os.getpid()):
            with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
                used[pid] = int(fields[11]) + int(fields[12])
                pages += int(fields[21])
        spent = sum(max(0, ticks - self._before.get(pid, 0)) for pid, ticks in used.items()) / self._ticks
        seconds = max(1e-3, now - self._at)
        self._before, self._at = used, now
        return {
            "system/cpu_utilization_percentage": min(100.0, 100 * spent / seconds / self._cores),
            "system/system_memory_usage_megabytes": pages * self._page / _MIB,
        }


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    found, ahead = [], [pid]
    while ahead:
        one = ahead.pop()
        found.append(one)
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError, ValueError):
                ahead += [int(word) for word in children.read_text().split()]
    return found


def _gpus() -> Callable[[], dict[str, float]]:
    """Samples the job's own NVIDIA GPUs; nothing where there are none, or nvidia-ml-py is not installed."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [_handle(pynvml, name) for name in _visible(pynvml.nvmlDeviceGetCount())]
    except Exception:  # noqa: BLE001  # no package, no driver, no device, or none that this job may ask
        return dict

    def sample() -> dict[str, float]:
        values: dict[str, float] = {}
        for index, handle in enumerate(handles):
            with contextlib.suppress(Exception):  # a MIG device does not tell everything
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                values[f"system/gpu_{index}_memory_usage_megabytes"] = memory.used / _MIB
                values[f"system/gpu_{index}_memory_usage_percentage"] = 100 * memory.used / memory.total
                rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
                values[f"system/gpu_{index}_utilization_percentage"] = rates.gpu
                values[f"system/gpu_{index}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        return values

    return sample


def _visible(count: int) -> list[str]:
    """The job's own, by CUDA_VISIBLE_DEVICES: indices or UUIDs, up to the first that is none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index in range(count)]
    found: list[str] = []
    for word in (part.strip() for part in named.split(",")):
        if not word or word == "-1" or (word.isdigit() and int(word) >= count):
            break
        found.append(word)
    return found


def _handle(pynvml: Any, name: str) -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)

"""The devices, as the driver shows them and as JAX sees them.

JAX is asked in a process of its own: a driver that hangs is then a finding, and no memory of a device is kept.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialfleet.doctor.findings import Finding, fail, note, ok
from trialfleet.doctor.versions import installed

SECONDS = 90.0  # for JAX to start: a GPU's driver that was not loaded takes half a minute
SMI_SECONDS = 20.0
_QUERY = "name,driver_version,memory.total,memory.free"
_MARK = "trialfleet-devices "
_PROGRAM = f"""
import json, jax
found = []
for device in jax.devices():
    try:
        stats = device.memory_stats() or {{}}
    except Exception:
        stats = {{}}
    found.append([device.device_kind, stats.get("bytes_limit"), stats.get("bytes_in_use")])
client = jax.devices()[0].client
said = {{"platform": client.platform, "version": client.platform_version, "processes": jax.process_count()}}
print({_MARK!r} + json.dumps({{**said, "devices": found}}))
"""
_TPU = ("TPU_NAME", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID")
_DRIVER, _JAX = "driver", "jax"


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi has it; memory in MiB, None where it does not say (a MIG device, say)."""

    name: str
    driver: str
    total: float | None
    free: float | None

    def __str__(self) -> str:
        if self.total is None or self.free is None:
            return self.name
        return f"{self.name} ({self.free / 1024:.1f} of {self.total / 1024:.1f} GiB free)"


def driver() -> Iterator[Finding]:
    """What the machine has, whatever JAX makes of it."""
    tpu = [f"{name}={os.environ[name]}" for name in _TPU if name in os.environ]
    chips = len([*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")])
    if shutil.which("nvidia-smi") is not None:
        try:
            found = gpus()
        except subprocess.SubprocessError as error:
            yield fail(
                _DRIVER, f"nvidia-smi: {_complaint(error)}", "see to the GPU's driver: dmesg, systemctl, a reboot"
            )
            return
        yield ok(_DRIVER, f"NVIDIA driver {found[0].driver}: {', '.join(map(str, found))}" if found else "no GPU")
    elif tpu or chips:
        yield ok(_DRIVER, "TPU: " + ", ".join([*tpu, *([f"{chips} device files"] if chips else [])]))
    else:
        yield ok(_DRIVER, "no nvidia-smi and no TPU: a machine with CPUs alone")


def gpus() -> list[Gpu]:
    """The GPUs that nvidia-smi shows.

    Raises:
        subprocess.SubprocessError: it does not answer, or says that something is wrong.
    """
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SMI_SECONDS, check=True)
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    return [Gpu(row[0], row[1], _number(row[2]), _number(row[3])) for row in rows if len(row) == 4]


def jax(platform: str | None) -> Iterator[Finding]:
    """What JAX starts with in a trial of this platform."""
    if installed("jax") is None:
        fix = "nothing for a script of your own; for the trainer: pip install 'trialfleet[train]'"
        yield note(_JAX, "is not installed, and is optional", fix)
        return
    try:
        said = _asked(platform)
    except subprocess.TimeoutExpired:
        fix = "a driver hangs, or another process holds the devices (a TPU serves one): nvidia-smi, lsof /dev/accel*"
        yield fail(_JAX, f"did not show its devices within {SECONDS:g} s", fix)
        return
    except subprocess.CalledProcessError as error:
        wanted = f" with runtime.platform={platform}" if platform else ""
        yield fail(_JAX, f"does not start{wanted}: {_complaint(error)}", _FIX.format(jax=installed("jax")))
        return
    found = _described(said)
    unused = _unused_gpus(said["platform"])
    if unused and platform != "cpu":
        yield note(_JAX, f"{found}; {unused} that nvidia-smi shows are not used", _why_unused())
    else:
        yield ok(_JAX, found)


_FIX = "for NVIDIA GPUs: pip install 'jax[cuda12]=={jax}'; for TPUs: pip install 'jax[tpu]=={jax}'"


def _why_unused() -> str:
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        if name in os.environ:
            return f"unset {name}={os.environ[name]}, which may hide them; else " + _FIX.format(jax=installed("jax"))
    return _FIX.format(jax=installed("jax"))


def _asked(platform: str | None) -> dict[str, Any]:
    """JAX's answer. It must not take a GPU's memory from those who use it."""
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if platform is not None:
        environment["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(platform, platform)
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=True, env=environment
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith(_MARK))
    answer: dict[str, Any] = json.loads(line.removeprefix(_MARK))
    return answer


def _described(said: dict[str, Any]) -> str:
    devices = said["devices"]
    memory = [_memory(*stats) for _, *stats in devices if stats[0] is not None]
    kinds = " and ".join(dict.fromkeys(str(kind) for kind, *_ in devices))
    version = re.split(r"[\n;]", str(said["version"]))[0]
    text = f"platform {said['platform']} ({version}), {len(devices)} of {kinds}"
    return f"{text}, memory {'; '.join(memory)}" if memory else f"{text}, which does not tell its memory"


def _memory(limit: int, used: int | None) -> str:
    return f"{(limit - (used or 0)) / 2**30:.1f} of {limit / 2**30:.1f} GiB free"


def _unused_gpus(platform: str) -> str:
    """The GPUs that the machine has and JAX has not; empty if there are none."""
    if platform != "cpu" or shutil.which("nvidia-smi") is None:
        return ""
    try:
        found = gpus()
    except subprocess.SubprocessError:
        return ""  # `driver` says it
    return f"{len(found)} GPUs" if found else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _complaint(error: subprocess.SubprocessError) -> str:
    """The last line that a program said before it ended, or that it did not answer."""
    if isinstance(error, subprocess.CalledProcessError):
        lines: Sequence[str] = [line for line in f"{error.stdout}\n{error.stderr}".splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {error.returncode}"
    return "no answer"

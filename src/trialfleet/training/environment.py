"""What must be fixed before jax starts, since it reads these once. Does not import jax, but uses it if it is there.

Device count, thread count and determinism change results in their last bits, so they come from the config
and not from whatever the machine's environment happens to say.
"""

# mypy: allow-untyped-calls
# (jax's config.update has no annotations.)

import contextlib
import getpass
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from trialfleet.config import Config
from trialfleet.config.location import expanded
from trialfleet.errors import UserError
from trialfleet.trial.jax_devices import jax_has_devices
from trialfleet.trial.run import NotInThisProcess


def prepare(config: Config, among_others: bool = False) -> None:
    """Sets the environment variables of jax and XLA for this trial.

    A workload may have imported jax already, its config's file too. XLA reads its variables when the devices are
    asked for; what jax has read at its import is set in its own configuration.

    Args:
        among_others: whether the process may have trained other trials, and there are processes that have not.

    Raises:
        UserError: if jax is already running with another number of simulated devices.
        NotInThisProcess: if it runs with anything else than this trial asks for, among others.
    """
    wanted = variables(config)
    if "jax" not in sys.modules:
        _set(wanted)
    elif jax_has_devices():
        if wanted == _running_with:
            os.environ.update(wanted)  # for its children, and whoever looks
        elif among_others:
            raise NotInThisProcess("jax is running in this process with other settings than this trial's")
        else:
            _check_running(config)
    else:
        import jax

        _set(wanted)
        for name, value in wanted.items():
            if name in _READ_AT_IMPORT:
                jax.config.update(name.lower(), _READ_AT_IMPORT[name](value))


_running_with: dict[str, str] = {}  # the variables that were set last before jax had devices


def _set(wanted: dict[str, str]) -> None:
    os.environ.update(wanted)
    _running_with.clear()
    _running_with.update(wanted)


def prepare_for_shapes(config: Config) -> None:
    """The same for a process that compiles and never runs: as many simulated devices as the mesh asks for.

    With a device named (`runtime.device`) the CPU stands for it, whatever is here. No compiled program is kept.
    """
    if jax_has_devices():
        return  # whether they suffice for the mesh, the mesh says
    runtime = config.runtime
    open_axes = [name for name in ("fsdp", "tp") if getattr(config.mesh, name) == -1]
    if runtime.device is not None and open_axes and runtime.simulated_devices is None:
        raise UserError(
            f"mesh.{open_axes[0]}: -1 leaves open over how many devices the state is split",
            "give the number that a job has; only mesh.data may be -1 where runtime.device is named",
        )
    needed = prod(size for size in (config.mesh.data, config.mesh.fsdp, config.mesh.tp) if size != -1)
    there = re.findall(rf"{_DEVICES}=(\d+)", os.environ.get("XLA_FLAGS", ""))
    missing = needed if needed > int((there or ["1"])[-1]) else None
    prepare(
        replace(
            config,
            runtime=replace(
                runtime,
                platform=runtime.platform if runtime.device is None else "cpu",
                simulated_devices=runtime.simulated_devices or missing,
                compilation_cache=None,
            ),
        )
    )


def variables(config: Config) -> dict[str, str]:
    """The environment variables that a trial's config asks for."""
    runtime = config.runtime
    wanted = {"PJRT_NPROC": str(runtime.cpu_threads), "XLA_FLAGS": _xla_flags(config)}
    platform = "cpu" if runtime.simulated_devices else runtime.platform
    if platform is not None:
        wanted["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(platform, platform)
    if runtime.compilation_cache is not None:
        wanted["JAX_COMPILATION_CACHE_DIR"] = str(cache_directory(runtime.compilation_cache))
        wanted["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        wanted["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    return wanted


# The variables that jax reads when it is imported, and how; the others are XLA's.
_READ_AT_IMPORT: dict[str, Callable[[str], Any]] = {
    "JAX_PLATFORMS": str,
    "JAX_COMPILATION_CACHE_DIR": str,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": float,
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": int,
}


def cache_directory(root: str) -> Path:
    """The part of a compilation cache that this process may share.

    A cached program runs on its own kind of CPU only, and whoever can write one can run code in its readers:
    so there is a folder for each platform, CPU model, jaxlib and user.
    """
    kind = re.sub(r"[^A-Za-z0-9]+", "-", f"{sys.platform}-{platform.machine()}-{_cpu_model()}").strip("-").lower()
    return expanded(root).absolute() / kind / f"jaxlib-{version('jaxlib')}" / getpass.getuser()


def trim_cache(config: Config) -> None:
    """Deletes the least recently used programs of this process's part of the cache beyond what it may hold.

    Other processes may do the same at the same time, or read what is deleted: they compile it anew.
    """
    if config.runtime.compilation_cache is None:
        return
    entries = []
    for path in cache_directory(config.runtime.compilation_cache).glob("*-cache"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            entries.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    excess = sum(size for _, size, _ in entries) - config.runtime.compilation_cache_bytes
    for _, size, path in sorted(entries):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


def _xla_flags(config: Config) -> str:
    """What the user set already, and what the config says, which wins."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    if config.runtime.simulated_devices is not None:
        flags = [flag for flag in flags if not flag.startswith(_DEVICES)]
        flags.append(f"{_DEVICES}={config.runtime.simulated_devices}")
    if config.runtime.deterministic is True:
        flags += [flag for flag in _DETERMINISTIC if flag not in flags]
    return " ".join(flags)


def is_exact(platform: str) -> bool:
    """Whether the same training gives the same bits each time on devices of this platform, as XLA was started."""
    return platform != "gpu" or set(_DETERMINISTIC) <= set(os.environ.get("XLA_FLAGS", "").split())


_DEVICES = "--xla_force_host_platform_device_count"
_DETERMINISTIC = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


def _check_running(config: Config) -> None:
    simulated = config.runtime.simulated_devices
    if simulated is not None and f"{_DEVICES}={simulated}" not in os.environ.get("XLA_FLAGS", "").split():
        raise UserError(
            f"runtime.simulated_devices: {simulated}, but jax is running in this process with other devices",
            "start this trial in a process of its own",
        )
    import jax

    if config.runtime.deterministic is True and not is_exact(jax.default_backend()):
        raise UserError(
            "runtime.deterministic: true, but jax is running in this process without it",
            "start this trial in a process of its own",
        )


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    features = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    wide = "avx512" if features and "avx512f" in features[1].split() else ""
    return f"{found[1] if found else platform.processor()} {wide}"

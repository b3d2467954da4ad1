"""Where a run's seconds went, and what jax compiled meanwhile."""

# mypy: allow-untyped-calls
# (jax's PartitionSpec, ShapeDtypeStruct and a few functions have no annotations.)

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from trialfleet.config import devices, schema

_COMPILING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_HIT, _MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


class Compilations:
    """Counts, for the whole process, what jax compiles and what it finds in the persistent cache."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.compiled = 0  # programs made ready, from the cache or anew
        self.hits = 0
        self.misses = 0
        jax.monitoring.register_event_duration_secs_listener(self._took)
        jax.monitoring.register_event_listener(self._happened)

    def _took(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event in _COMPILING:
            self.seconds += duration_secs
            self.compiled += event == _COMPILING[-1]

    def _happened(self, event: str, **_: str | int) -> None:
        self.hits += event == _HIT
        self.misses += event == _MISS


compilations = Compilations()


class Goodput:
    """Seconds by what they were spent on; what was compiled meanwhile is taken out and counted apart."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._begun: dict[str, tuple[float, float]] = {}  # blocks that have not ended, with what was compiled before
        self._compiling_before = compilations.seconds
        self._cache_before = (compilations.compiled, compilations.hits, compilations.misses)

    @contextlib.contextmanager
    def spent(self, what: str) -> Iterator[None]:
        """Adds the block's time, less what jax compiled in it."""
        self._begun[what] = time.monotonic(), compilations.seconds
        try:
            yield
        finally:
            self._seconds[what] = self.of(what)
            del self._begun[what]

    def of(self, what: str) -> float:
        """Seconds so far, those of a block that has not ended included: a report is made within one."""
        own = 0.0
        if what in self._begun:
            began, compiling = self._begun[what]
            own = time.monotonic() - began - (compilations.seconds - compiling)
        return self._seconds.get(what, 0.0) + max(0.0, own)

    def seconds(self) -> dict[str, float]:
        """Seconds by purpose, compilation included."""
        compiling = compilations.seconds - self._compiling_before
        return {"compile": round(compiling, 3), **{what: round(own, 3) for what, own in self._seconds.items()}}

    def compiled(self) -> dict[str, int]:
        """Programs made ready in this run, and how many of them the persistent cache had."""
        compiled, hits, misses = self._cache_before
        return {
            "programs": compilations.compiled - compiled,
            "cache_hits": compilations.hits - hits,
            "cache_misses": compilations.misses - misses,
        }


def utilization(flops_per_second: float, mesh: Mesh) -> dict[str, float]:
    """Model FLOP/s, and their share of what the mesh could do where that is known."""
    if flops_per_second <= 0:
        return {}
    name = devices.of_kind(mesh.devices.ravel()[0].device_kind)
    share = {"utilization": flops_per_second / (devices.DEVICES[name].bfloat16 * mesh.size)} if name else {}
    return {"model_flops_per_second": flops_per_second, **share}


class Profiler:
    """A profiler trace of the steps that the config names, or nothing."""

    def __init__(self, wanted: schema.Profile | None, artifacts: Path) -> None:
        self._wanted, self._folder = wanted, artifacts / "profile"
        self._running = False

    @contextlib.contextmanager
    def step(self, made: int) -> Iterator[None]:
        """Around each step; `made` is the number of steps before it."""
        if self._wanted is None:
            yield
            return
        first = self._wanted.first_step - 1
        if made == first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=made + 1):
            yield
        if made + 1 == first + self._wanted.steps:
            self.close()

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

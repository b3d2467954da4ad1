"""What processes request of each other: to save, or to stop. All of them must do it at the same step.

A request travels in the step's inputs and comes back, as the largest of all processes', in its outputs: no
collective of its own. A process that is alone heeds its request at once.
"""

import time
from collections.abc import Callable
from enum import IntEnum

import jax
import numpy as np
from jax.sharding import Mesh

from trialfleet.training.distributed import largest
from trialfleet.training.mesh import put
from trialfleet.training.program import stop_sharding
from trialfleet.trial.run import Run, Stop


class Request(IntEnum):
    """In rising order of urgency; 0 means to go on."""

    SAVE = 1
    PREEMPT = 2
    PRUNE = 3
    SUPERSEDED = 4


_OF = {Stop.PREEMPT: Request.PREEMPT, Stop.PRUNE: Request.PRUNE, Stop.SUPERSEDED: Request.SUPERSEDED}


class StopSync:
    """What this process asks for, made of what its run says and of the time since the last save.

    Args:
        saving: whether a save is still being written: the next one would stall the steps until it is.
    """

    def __init__(
        self, mesh: Mesh, run: Run, save_every_seconds: float | None, saving: Callable[[], bool] = lambda: False
    ) -> None:
        self._mesh, self._run, self._every, self._saving = mesh, run, save_every_seconds, saving
        self._arrays: dict[int, jax.Array] = {}  # placed once for each value
        self._saved = time.monotonic()

    def own(self) -> int:
        """What this process asks for now, or 0."""
        if stop := self._run.stop():
            return int(_OF[stop])
        # Only one clock decides about saves: clocks of two processes never agree.
        overdue = self._every is not None and time.monotonic() - self._saved > self._every
        return int(Request.SAVE) if overdue and jax.process_index() == 0 and not self._saving() else 0

    def sent(self) -> jax.Array:
        """What to give to the next step: nothing, if there is nobody else to agree with."""
        request = self.own() if jax.process_count() > 1 else 0
        if request not in self._arrays:
            # Each process puts its own request on its own devices.
            self._arrays[request] = put(np.full(self._mesh.size, request, np.int32), stop_sharding(self._mesh))
        return self._arrays[request]

    def alone(self) -> int:
        """What to heed at once, because no other process has to agree."""
        return self.own() if jax.process_count() == 1 else 0

    def agreed(self) -> int:
        """What all processes request, asked between two steps: a collective, so all must ask."""
        return largest(self.own())

    def saved(self) -> None:
        self._saved = time.monotonic()

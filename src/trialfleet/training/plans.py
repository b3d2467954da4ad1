"""An epoch of full batches, planned when somebody asks for one of them."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import overload

import numpy as np

from trialfleet.training.workload import BatchPlan


class ShuffledPlans(Sequence[BatchPlan]):
    """The full batches of an epoch, in an order that is drawn when the first one is asked for.

    How many there are is known before: a training of a thousand epochs draws none of them to count its steps.

    Args:
        draw: the rows in the epoch's order, at least `examples` of them.
        examples: in the epoch; those that fill no batch are left out.
        batch: examples in a batch.
    """

    def __init__(self, draw: Callable[[], np.ndarray], examples: int, batch: int) -> None:
        self._draw, self._examples, self._batch = draw, examples, batch

    @cached_property
    def _rows(self) -> np.ndarray:
        return self._draw()

    def __len__(self) -> int:
        return self._examples // self._batch

    @overload
    def __getitem__(self, index: int) -> BatchPlan: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[BatchPlan]: ...

    def __getitem__(self, index: int | slice) -> BatchPlan | Sequence[BatchPlan]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        part = self._rows[number * self._batch : (number + 1) * self._batch]
        return BatchPlan(tuple(map(int, part)), bucket=0)

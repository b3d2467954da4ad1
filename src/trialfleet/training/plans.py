"""An epoch of batches, planned when somebody asks for one of them."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import overload

import numpy as np

from trialfleet.training.workload import Batch, BatchPlan, Example, Source


class PlansOnDemand(Sequence[BatchPlan]):
    """Plans that are drawn when the first one is asked for.

    How many there are is known before: a training of a thousand epochs draws none of them to count its steps.

    Args:
        count: of the plans.
        draw: all of them, in their order.
    """

    def __init__(self, count: int, draw: Callable[[], Sequence[BatchPlan]]) -> None:
        self._count, self._draw = count, draw

    @cached_property
    def _plans(self) -> Sequence[BatchPlan]:
        return self._draw()

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> BatchPlan: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[BatchPlan]: ...

    def __getitem__(self, index: int | slice) -> BatchPlan | Sequence[BatchPlan]:
        if isinstance(index, slice):
            chosen = range(*index.indices(len(self)))
            return PlansOnDemand(len(chosen), lambda: [self[number] for number in chosen])
        return self._plans[range(len(self))[index]]


class ShuffledPlans(PlansOnDemand):
    """The full batches of an epoch; examples that fill no batch are left out.

    Args:
        draw: the rows in the epoch's order, at least `examples` of them.
        examples: in the epoch.
        batch: examples in a batch.
        bucket: of all plans.
    """

    def __init__(self, draw: Callable[[], np.ndarray], examples: int, batch: int, bucket: int = 0) -> None:
        def plans() -> list[BatchPlan]:
            rows = draw()[: len(self) * batch].reshape(-1, batch)
            return [BatchPlan(tuple(map(int, part)), bucket) for part in rows]

        super().__init__(examples // batch, plans)


class ShortEpochs:
    """A source of which an epoch ends after so many batches."""

    def __init__(self, source: Source, batches: int) -> None:
        self._source, self._batches = source, batches
        self.dropped = int(getattr(source, "dropped", 0))

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        return self._source.epoch(seed, epoch)[: self._batches]

    def example(self, row: int, rng: np.random.Generator) -> Example:
        return self._source.example(row, rng)

    def collate(self, examples: Sequence[Example], bucket: int) -> Batch:
        return self._source.collate(examples, bucket)

"""Data that lies in memory, as a source."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from trialfleet.config import schema
from trialfleet.errors import UserError
from trialfleet.training.plans import ShuffledPlans
from trialfleet.training.workload import Batch, BatchPlan, Example


class ArraySource:
    """One split of arrays in memory; see `trialfleet.training.workload.Source`.

    For training, each epoch is shuffled anew by (seed, epoch) and has full batches only: what does not fill the last
    one has its turn in other epochs. Other splits keep their order, and the last batch may be short.
    """

    def __init__(self, arrays: Mapping[str, Any], split: str, training: schema.Training) -> None:
        """
        Args:
            arrays: by the name that they have in a batch, the example axis first; numbers of 64 bits become such of
                32. `weight`, if it is there, says how much an example counts; `id` is the row unless it is there.
            split: 'train', 'val' or 'test'.

        Raises:
            UserError: if an array holds no numbers, their lengths differ, or they do not fill one batch.
        """
        self._arrays = {name: _numbers(f"the array {name!r} of {split!r}", value) for name, value in arrays.items()}
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) != 1:
            shown = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "no array"
            raise UserError(
                f"ArraySource of {split!r}: the lengths differ: {shown}", "give arrays with one row for each example"
            )
        self._count = next(iter(lengths.values()))
        self._shuffled = split == "train"
        self._batch = training.global_batch if self._shuffled else training.eval_batch
        if self._count == 0:
            raise UserError(f"ArraySource of {split!r}: the arrays of {split!r} have no examples", "give some rows")
        if self._shuffled and self._count < self._batch:
            raise UserError(
                f"training.global_batch: {self._batch}, and the arrays of {split!r} have {self._count} examples",
                "choose a smaller global batch, or give more data",
            )

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        if self._shuffled:
            draw = partial(np.random.default_rng([seed, epoch]).permutation, self._count)
            return ShuffledPlans(draw, self._count, self._batch)
        firsts = range(0, self._count, self._batch)
        return [BatchPlan(range(first, min(first + self._batch, self._count)), bucket=0) for first in firsts]

    def example(self, row: int, rng: np.random.Generator) -> Example:
        return {"id": np.int32(row), **{name: array[row] for name, array in self._arrays.items()}}

    def collate(self, examples: Sequence[Example], bucket: int) -> Batch:
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _numbers(name: str, value: Any) -> np.ndarray:
    """The array as the devices take it: no number of it has 64 bits."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise UserError(
            f"ArraySource: {name} is {array.dtype} {array.shape}", "give numbers, with one row for each example"
        )
    if array.dtype.itemsize < 8:
        return array
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.size and not (np.iinfo(np.int32).min <= array.min() and array.max() <= np.iinfo(np.int32).max):
        raise UserError(f"ArraySource: {name} has whole numbers beyond 32 bits", "make them smaller, or float32")
    return array.astype(np.int32)

"""From a source to batches on the devices: seeded, resumable, each process reading its own share.

A position is (epoch, plan, update), never the state of an iterator, and all randomness comes from it: so a
training goes on where it was on any number of processes, and what was prefetched can be thrown away.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from trialfleet.config import schema
from trialfleet.training.contract import batch_of
from trialfleet.training.decoding import decoded
from trialfleet.training.workload import Batch, BatchPlan, Example, Source

log = logging.getLogger(__name__)

CLOSING = 30  # seconds for which the example that is being read may take at the end
ENDLESS = 1 << 48  # batches: more than any training takes


class Position(NamedTuple):
    """The next update to be made."""

    epoch: int
    plan: int  # index in the epoch
    update: int  # of those made on one batch

    def after(self, update: int, last_update: bool, ends_epoch: bool) -> "Position":
        """The position behind an update on the batch that is at this one."""
        if not last_update:
            return Position(self.epoch, self.plan, update + 1)
        return Position(self.epoch + 1, 0, 0) if ends_epoch else Position(self.epoch, self.plan + 1, 0)


class Fed(NamedTuple):
    """A batch on the devices and where it comes from."""

    batch: Batch
    position: Position
    bucket: int
    ends_epoch: bool


def plans_of(source: Source, seed: int, epoch: int, overfit_batches: int | None) -> Sequence[BatchPlan]:
    """The plans of a training epoch."""
    if overfit_batches is not None:
        return source.epoch(seed, 0)[:overfit_batches]
    return source.epoch(seed, epoch)


def total_steps(source: Source, seed: int, training: schema.Training, updates_per_batch: int) -> int:
    """The updates of a whole training: `max_steps`, or the sum of the epochs' lengths if that is less."""
    if training.max_epochs is None:
        assert training.max_steps is not None
        return training.max_steps
    total = 0
    for epoch in range(training.max_epochs):
        total += updates_per_batch * len(plans_of(source, seed, epoch, training.overfit_batches))
        if training.max_steps is not None and total >= training.max_steps:
            return training.max_steps
    return total


def examples_of(
    source: Source, plan: BatchPlan, seed: int, epoch: int, first: int, rows: Sequence[int]
) -> list[Example]:
    """The examples at some rows of a plan; `first` is the position in the epoch of the plan's first row."""
    return [source.example(plan.rows[row], _generator(seed, epoch, first + row)) for row in rows]


def _generator(seed: int, epoch: int, position: int) -> np.random.Generator:
    """Randomness of one example: by its place in the training, not by who reads it."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, position]))


@dataclass(frozen=True)
class HostBatches:
    """A split's global batches, of which this process makes the rows that its devices need. Can be pickled.

    Attributes:
        groups: micro-batches of a global batch.
        per_group: examples in each.
        low, high: the rows of a group that this process makes.
        told_apart: whether a batch says which examples it has, as evaluation wants it.
    """

    source: Source
    groups: int
    per_group: int
    low: int
    high: int
    told_apart: bool

    def make(self, plan: BatchPlan, seed: int, epoch: int, index: int) -> Batch:
        """The batch of a plan; one that is too short is filled up with examples of weight 0."""
        rows = [group * self.per_group + i for group in range(self.groups) for i in range(self.low, self.high)]
        there = [min(row, len(plan.rows) - 1) for row in rows]
        examples = examples_of(self.source, plan, seed, epoch, index * self.groups * self.per_group, there)
        ids = [plan.rows[row] for row in there] if self.told_apart else None
        batch = batch_of(self.source, examples, plan.bucket, ids)
        filled = np.asarray([row >= len(plan.rows) for row in rows])
        if filled.any():
            batch = {**batch, "weight": np.where(filled, np.float32(0), batch["weight"])}
        return batch


class Made(NamedTuple):
    """A batch on the host and where it comes from."""

    batch: Batch
    position: Position
    bucket: int
    ends_epoch: bool


class TrainingOrder:
    """The batches of a training from a position on, by number: any process can make any of them."""

    def __init__(self, batches: HostBatches, seed: int, start: Position, overfit_batches: int | None) -> None:
        self._batches, self._seed, self._start, self._overfit = batches, seed, start, overfit_batches
        self._first = -start.plan  # the number of the first batch of the epoch that was asked for last
        self._epoch = start.epoch
        self._plans = self._of_epoch(start.epoch)

    def __len__(self) -> int:
        return ENDLESS  # the training ends by its steps

    def __getitem__(self, number: int) -> Made:
        if number < self._first:
            self._first, self._epoch = -self._start.plan, self._start.epoch
            self._plans = self._of_epoch(self._epoch)
        while number - self._first >= len(self._plans):
            self._first, self._epoch = self._first + len(self._plans), self._epoch + 1
            self._plans = self._of_epoch(self._epoch)
        index = number - self._first
        # Overfitting means the very same batches, their noise included.
        noise_epoch = 0 if self._overfit is not None else self._epoch
        batch = self._batches.make(self._plans[index], self._seed, noise_epoch, index)
        position = Position(self._epoch, index, 0)
        return Made(batch, position, self._plans[index].bucket, index == len(self._plans) - 1)

    def _of_epoch(self, epoch: int) -> Sequence[BatchPlan]:
        return plans_of(self._batches.source, self._seed, epoch, self._overfit)


class EvaluationOrder:
    """The batches of a split's evaluations by number: the same ones again and again."""

    def __init__(self, batches: HostBatches, plans: Sequence[BatchPlan]) -> None:
        self._batches, self._plans = batches, plans

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> Made:
        index = number % len(self._plans)
        plan = self._plans[index]
        batch = self._batches.make(plan, 0, 0, index)
        return Made(batch, Position(0, index, 0), plan.bucket, index == len(self._plans) - 1)


class Loader:
    """Makes global batches of a split, of which this process reads only what its devices need."""

    def __init__(self, source: Source, sharding: NamedSharding, size: int, accumulation: int | None) -> None:
        """
        Args:
            sharding: of leaves (accumulation, examples, ...), or (examples, ...) if accumulation is None.
            size: examples in a global batch.
        """
        self.source = source
        self._sharding = sharding
        self._stacked = accumulation is not None
        groups = accumulation or 1
        shape = (groups, size // groups) if self._stacked else (size,)
        indices = sharding.addressable_devices_indices_map(shape).values()
        needed = [index[-1].indices(size // groups) for index in indices if index is not None]
        self.batches = HostBatches(
            source=source,
            groups=groups,
            per_group=size // groups,
            low=min(low for low, _, _ in needed),
            high=max(high for _, high, _ in needed),
            told_apart=not self._stacked,
        )

    def load(self, plan: BatchPlan, seed: int, epoch: int, index: int) -> Batch:
        """The batch of a plan, on the devices."""
        return self.place(self.batches.make(plan, seed, epoch, index))

    def place(self, batch: Batch) -> Batch:
        """A batch that `batches` made, on the devices."""
        return {name: self._placed(leaf) for name, leaf in batch.items()}

    def _placed(self, leaf: np.ndarray) -> jax.Array:
        own, whole, first = self.batches.high - self.batches.low, self.batches.per_group, self.batches.low
        if self._stacked:
            leaf = leaf.reshape(self.batches.groups, own, *leaf.shape[1:])
        if jax.process_count() == 1:
            placed: jax.Array = jax.device_put(leaf, self._sharding)
            return placed
        axis = 1 if self._stacked else 0
        shape = (*leaf.shape[:axis], whole, *leaf.shape[axis + 1 :])

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            low, high, _ = index[axis].indices(whole)
            own_index = list(index)
            own_index[axis] = slice(low - first, high - first)
            return leaf[tuple(own_index)]

        return jax.make_array_from_callback(shape, self._sharding, part)


class Feed:
    """Training batches from a position on, made ready by a thread, or by processes, while the devices work."""

    def __init__(
        self, loader: Loader, seed: int, start: Position, overfit_batches: int | None, ahead: int, workers: int = 0
    ) -> None:
        """
        Args:
            ahead: batches that wait ready.
            workers: processes that read and decode; 0: the thread does.
        """
        self._loader = loader
        self._made = decoded(TrainingOrder(loader.batches, seed, start, overfit_batches), workers, ahead)
        self._ready: queue.Queue[Fed | BaseException] = queue.Queue(maxsize=max(1, ahead))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)
        self._thread.start()

    def next(self) -> Fed:
        """The next batch; an error in the source is raised here."""
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """End the thread and the processes. A source that does not answer is left behind: the process must end."""
        self._closed.set()
        end = time.monotonic() + CLOSING
        while self._thread.is_alive() and time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=0.01)
        if self._thread.is_alive():
            log.warning("the data has not answered for %d s, and is left behind", CLOSING)

    def _work(self) -> None:
        try:
            for item in self._batches():
                self._put(item)
                if self._closed.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is asked for
            self._put(error)
        finally:
            self._made.close()  # here: the processes end with the thread that started them

    def _put(self, item: Fed | BaseException) -> None:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _batches(self) -> Iterator[Fed]:
        for made in self._made:
            yield Fed(self._loader.place(made.batch), made.position, made.bucket, made.ends_epoch)

"""What a workload gives to the trainer. It owns no loop, no optimizer and no files.

A workload is a subclass of `Workload` whose only argument is a config. The trainer makes two of it: one from
the full config, for the data and the scores on the host, and one from the config's static part, for all that is
compiled, where a value that is not part of the program cannot even be read by mistake (it is a `Withheld`;
calculating with it is a TypeError).

Shapes: G is `training.global_batch`, M the examples of a micro-batch over all devices (G / accumulation), E
`training.eval_batch`. Every leaf of a batch has the example axis first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

PyTree = Any
Params = Any  # nested dicts of float32 arrays
Extra = Any  # what a forward pass updates besides gradients, batch-norm statistics for example; () if nothing
Batch = dict[str, Any]  # leaves with the example axis first: numpy on the host, jax.Array in the program
Example = dict[str, Any]  # numpy; one row of a batch, before padding
Rows = dict[str, Any]  # what an evaluation says of each example; leaves with the example axis first
Hyperparameters = Mapping[str, jax.Array]  # float32 scalars by dotted config key, 'model.dropout' for example
Axes = tuple[str | None, ...]  # a logical name for each axis of an array


class BatchPlan(NamedTuple):
    """One global batch: which rows, and which of the static shapes they are padded to."""

    rows: Sequence[int]  # G of them in training, up to E in evaluation
    bucket: int


class Source(Protocol):
    """The data of one split. Pure: the same arguments give the same answer, on every process.

    It may have an attribute `dropped`: the number of examples that it leaves out, for the trial's record.
    """

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        """The batches of an epoch, for all processes together; evaluation asks for epoch 0 alone.

        Epochs may differ in length. A split for training gives full batches only.
        """
        ...

    def example(self, row: int, rng: np.random.Generator) -> Example:
        """One example. `rng` depends on the seed, the epoch and the position, not on who reads it.

        A row that cannot be read is an example with `weight` 0: never an error, never another row.
        """
        ...

    def collate(self, examples: Sequence[Example], bucket: int) -> Batch:
        """Pads and stacks, to shapes that depend on the bucket and the number of examples only.

        The batch must have a leaf `weight` (float32; 0: not to be counted) and, for evaluation, `id` (int32,
        the row).
        """
        ...


class Loss(NamedTuple):
    """What a loss returns beside its value."""

    extra: Extra
    metrics: dict[str, jax.Array]  # shares like the loss itself: their sum is logged as train/<name>


class Summary(NamedTuple):
    """What an evaluation says of a whole split."""

    metrics: dict[str, float]  # without the split: 'wer' is logged as 'val/wer'
    files: dict[str, bytes]  # samples, figures; by file name, written to the artifacts


class Context(Protocol):
    """What the host side of a workload may ask the trainer while it prepares a batch."""

    @property
    def mesh(self) -> Mesh: ...

    def stop(self) -> bool:
        """Whether to break off. All processes get the same answer; ask between two calls of the devices."""
        ...


class Workload(ABC):
    """A model, its data and its scores."""

    updates_per_batch: int = 1  # steps that are made on each batch; more in reinforcement learning

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """Keeps the config; reads no data yet."""

    # ---- data ---------------------------------------------------------------------------------------------

    @abstractmethod
    def source(self, split: str) -> Source:
        """The data of 'train', 'val' or 'test'.

        Raises:
            UserError: if the data cannot be read; it names the key of the config.
        """

    # ---- parameters ---------------------------------------------------------------------------------------

    @abstractmethod
    def init(self, key: jax.Array) -> tuple[Params, Extra]:
        """Fresh parameters, float32. Pure and traceable: shapes are found without computing anything."""

    @abstractmethod
    def axes(self) -> PyTree:
        """The logical axes of each parameter, in the same tree: a tuple with one name or None for each axis.

        Names and where they go are in `trialfleet.training.mesh.RULES`.
        """

    @abstractmethod
    def group(self, path: str) -> str:
        """The name of a parameter's group ('encoder/layer0/w' -> 'encoder'), for its rate and decay."""

    def trained(self, path: str) -> bool:
        """Whether a parameter is trained at some time.

        What never is costs no gradient, no moments and no place in a checkpoint, and is kept in the compute
        dtype. `freezing.never` takes out more.
        """
        return True

    def unit(self, path: str) -> str:
        """The unit in which a parameter is frozen and released; a unit is made of whole parameters."""
        return self.group(path)

    def release_order(self) -> Sequence[str]:
        """The units that a freezing schedule holds back at first, in the order in which they are released."""
        return ()

    def load(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        """One slice of published weights, or None to keep what `init` gave."""
        return None

    # ---- training -----------------------------------------------------------------------------------------

    @abstractmethod
    def norms(self, batch: Batch) -> dict[str, jax.Array]:
        """Denominators of the loss (numbers of tokens, sums of weights), for a micro-batch.

        They must be sums over examples: the trainer adds them up over the global batch before any loss is
        calculated, so that accumulation changes nothing. (Batch norm is the exception: it sees micro-batches.)
        """

    @abstractmethod
    def loss(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        norms: dict[str, jax.Array],
        key: jax.Array,
        hp: Hyperparameters,
    ) -> tuple[jax.Array, Loss]:
        """This micro-batch's share of the loss, a float32 scalar; the shares of a global batch add up to it.

        Args:
            params: all of them, in the compute dtype.
            norms: those of the global batch.
            key: differs by step and micro-batch.
            hp: also 'on.<unit>', 1 or 0: whether a unit is being trained, if a freezing schedule holds units back.
        """

    def prepare(
        self, context: Context, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters
    ) -> Batch | None:
        """Makes of a batch what the updates on it need; on the host, before the first of them. Rollouts go here.

        Args:
            params: all of them; those that are trained are float32.
            batch: leaves (accumulation, micro-batch, ...) on the devices, and so must be those returned.

        Returns:
            None if `context.stop()` said so.
        """
        return batch

    # ---- evaluation ---------------------------------------------------------------------------------------

    @abstractmethod
    def eval_step(self, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters) -> Rows:
        """What is to be known of each example: leaves (E, ...), among them `id` and `weight` of the batch.

        Trailing axes may differ by bucket: the trainer fills the shorter up with zeros.
        """

    @abstractmethod
    def summarize(self, rows: Rows, split: str) -> Summary:
        """Scores of a split from the rows of all its examples; numpy, padding (weight 0) already taken out."""

    # ---- accounting ---------------------------------------------------------------------------------------

    def flops(self, bucket: int) -> float | None:
        """Floating-point operations of a forward pass over one example of a bucket, counted analytically."""
        return None


Factory = Callable[[Any], Workload]

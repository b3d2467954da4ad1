"""What a workload gives to the trainer. It owns no loop, no optimizer and no files.

A workload is a subclass of `Workload` whose only argument is a config. What it must say is `source`, `init`, `loss` and
`eval_step`; all else has a default. The trainer makes two of it: one from
the full config, for the data and the scores on the host, and one from the config's static part, for all that is
compiled, where a value that is not part of the program cannot even be read by mistake (it is a `Withheld`;
calculating with it is a TypeError). It calls them by `trialfleet.training.contract`, which checks what they return.

A method that returns a pair, of which the second part is nothing in simple cases, may return the first part alone.

Shapes: G is `training.global_batch`, M the examples of a micro-batch over all devices (G / accumulation), E
`training.eval_batch`. Every leaf of a batch has the example axis first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from trialfleet.training.publishing import Publisher

PyTree = Any
Params = Any  # a tree of float32 arrays; the trainer's own are nested dicts
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

    Data that lies in arrays needs no class of its own: see `trialfleet.training.arrays.ArraySource`.

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

        A leaf `weight` (float32) says how much an example counts, 0: not at all; without it each counts 1. A leaf
        `id` (int32) tells examples apart in evaluation; without it, it is the row.
        """
        ...


class Loss(NamedTuple):
    """What a loss returns beside its value."""

    extra: Extra = ()
    metrics: Mapping[str, jax.Array] = MappingProxyType({})  # shares as the loss is: their sum is train/<name>


class Summary(NamedTuple):
    """What an evaluation says of a whole split."""

    metrics: Mapping[str, float]  # without the split: 'wer' is logged as 'val/wer'
    files: Mapping[str, bytes] = MappingProxyType({})  # samples, figures; by file name, written to the artifacts


def artifact_name(file: str, split: str) -> str:
    """The name among the artifacts of a file of a split's `Summary`."""
    return f"{split}-{file}"


class Product(NamedTuple):
    """A product of the forward pass, for counting operations.

    Attributes:
        flops: of the forward pass over one example.
        weight: the path of the parameter that is multiplied; '' if both factors are activations, as in attention.
    """

    flops: float
    weight: str = ""


class Context(Protocol):
    """What the host side of a workload may ask the trainer while it prepares a batch."""

    @property
    def mesh(self) -> Mesh: ...

    def stop(self) -> bool:
        """Whether to break off. All processes get the same answer; ask between two calls of the devices."""
        ...

    def generated(self, tokens: int) -> None:
        """Counts tokens that were generated on all devices, for train/tokens_per_second: of the time to prepare."""
        ...


class Workload(ABC):
    """A model, its data and its scores."""

    updates_per_batch: int = 1  # steps that are made on each batch; more in reinforcement learning

    def __init__(self, config: Any) -> None:
        """Keeps the config; reads no data yet."""
        self.config = config

    # ---- data ---------------------------------------------------------------------------------------------

    @abstractmethod
    def source(self, split: str) -> Source:
        """The data of 'train', 'val' or 'test'.

        Raises:
            UserError: if the data cannot be read; it names the key of the config.
        """

    # ---- parameters ---------------------------------------------------------------------------------------

    @abstractmethod
    def init(self, key: jax.Array) -> tuple[Params, Extra] | Params:
        """Fresh parameters, float32; alone, if there is no extra.

        Pure and traceable: shapes are found without computing anything. Nested dicts, or any tree of arrays that jax
        knows (an Equinox module, the state of an nnx module, Haiku's dicts): the other methods get the same tree.
        """

    def axes(self) -> PyTree | None:
        """The logical axes of each parameter, in the same tree: a tuple with one name or None for each axis.

        Names and where they go are in `trialfleet.training.mesh.RULES`. None stands for the longest axis of each
        matrix over fsdp, and nothing over tp. Whatever has two axes or more is decayed, but for stacked vectors.
        """
        return None

    def group(self, path: str) -> str:
        """The name of a parameter's group ('encoder/layer0/w' -> 'encoder'), for its rate and decay."""
        return "all"

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

    def load_extra(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        """The same of what `init` gives besides parameters: statistics that were published with the weights."""
        return None

    def carries_extra(self, path: str) -> bool:
        """Whether a training that begins with another's parameters takes this leaf of what `init` gives besides, too.

        Statistics by which a model normalises belong to it; what a training remembers of itself does not.
        """
        return True

    def publisher(self) -> Publisher | None:
        """Who writes trained models as others read them; None: nobody does."""
        return None

    # ---- training -----------------------------------------------------------------------------------------

    def norms(self, batch: Batch) -> dict[str, jax.Array]:
        """Denominators of the loss (numbers of tokens, sums of weights), for a micro-batch; `weight` by default.

        They must be sums over examples: the trainer adds them up over the global batch before any loss is
        calculated, so that accumulation changes nothing. (Batch norm is the exception: it sees micro-batches.)
        """
        return {"weight": jnp.sum(batch["weight"])}

    @abstractmethod
    def loss(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        norms: dict[str, jax.Array],
        key: jax.Array,
        hp: Hyperparameters,
    ) -> tuple[jax.Array, Loss] | jax.Array:
        """This micro-batch's share of the loss, a float32 scalar; the shares of a global batch add up to it.

        Alone, if extra stays as it is and there are no metrics.

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

    def prepared(
        self, mesh: Mesh, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters
    ) -> Batch | None:
        """What `prepare` calculates on the devices, and zeros for what it adds on the host: traced, never run.

        From it a dry run knows the shapes of prepared batches, and how much memory their making needs.

        Returns:
            None if nobody can say: then a dry run knows the state's memory alone.
        """
        return None

    # ---- evaluation ---------------------------------------------------------------------------------------

    @abstractmethod
    def eval_step(self, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters) -> Rows:
        """What is to be known of each example: leaves (E, ...); `id` and `weight` of the batch come along.

        Trailing axes may differ by bucket: the trainer fills the shorter up with zeros.
        """

    def summarize(self, rows: Rows, split: str) -> Summary | Mapping[str, float]:
        """Scores of a split from the rows of all its examples; numpy, padding (weight 0) already taken out.

        The metrics alone, if there are no files. By default a metric is the weighted mean of each row's numbers.
        """
        weight = rows["weight"]
        names = set(rows) - {"id", "weight"}
        return {name: float(np.average(rows[name].astype(np.float64), weights=weight)) for name in sorted(names)}

    # ---- accounting ---------------------------------------------------------------------------------------

    def flops(self, bucket: int) -> Sequence[Product] | float | None:
        """Floating-point operations of a forward pass over one example of a bucket, counted analytically.

        Product by product in the order of the pass, so that gradients of frozen weights are not counted
        (`trialfleet.training.flops`); a number alone counts as if everything were trained. A weight that is only
        looked up is a product of 0: what comes behind it has a gradient if it is trained.
        """
        return None


Factory = Callable[[Any], Workload]

"""What the trainer takes from a workload: what may be left out is filled in, what is wrong is refused.

The trainer calls a workload through `CheckedWorkload` and reads batches by `batch_of`, and in no other way. What is
compiled is checked while it is traced, from shapes alone: a check adds nothing to a program.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from trialfleet.config import Config
from trialfleet.errors import UserError, nearest
from trialfleet.training import trees
from trialfleet.training.mesh import RULES
from trialfleet.training.workload import (
    Axes,
    Batch,
    Context,
    Example,
    Extra,
    Factory,
    Hyperparameters,
    Loss,
    Params,
    Product,
    Rows,
    Source,
    Summary,
    Workload,
)

_WITH_ID = ("id", "weight")  # rows that every evaluation has


class CheckedWorkload(Workload):
    """A workload as the trainer sees it. Its methods raise UserError, naming class, method and what is wrong."""

    def __init__(self, factory: Factory, config: Config) -> None:
        self._own = factory(config)
        self._config = config
        self._name = type(self._own).__name__
        self._sources: dict[str, Source] = {}
        self._structure: Any = None  # of the workload's own tree of parameters
        self._paths: list[str] = []  # of its leaves
        self.updates_per_batch = self._own.updates_per_batch
        if not isinstance(self.updates_per_batch, int) or self.updates_per_batch < 1:
            self._refuse("updates_per_batch", f"is {self.updates_per_batch!r}", "make it a whole number from 1 on")
        for metric in sorted(config.metrics()):
            if metric.partition("/")[0] not in ("train", "val", "test") or not metric.partition("/")[2]:
                raise UserError(
                    f"{type(config).__name__}.METRICS: {metric!r} is not the name of a metric",
                    f"begin it with the split, for example 'val/{metric}'",
                )

    def _refuse(self, method: str, what: str, fix: str) -> NoReturn:
        raise UserError(f"{self._name}.{method}: {what}", fix)

    # ---- data ---------------------------------------------------------------------------------------------

    def source(self, split: str) -> Source:
        """The same object at each call: a source may hold its data."""
        if split not in self._sources:
            source = self._own.source(split)
            lacking = [name for name in ("epoch", "example", "collate") if not callable(getattr(source, name, None))]
            if lacking:
                self._refuse(
                    f"source({split!r})",
                    f"returned {_kind(source)}, which has no {', '.join(lacking)}",
                    "return an ArraySource, or an object with the methods of trialfleet.training.workload.Source",
                )
            self._sources[split] = source
        return self._sources[split]

    # ---- parameters ---------------------------------------------------------------------------------------

    @cached_property
    def shapes(self) -> trees.Flat:
        """The parameters' shapes by path."""
        params, _ = jax.eval_shape(self.init, jax.random.key(0))
        return trees.flatten(params)

    @cached_property
    def _extra_shapes(self) -> trees.Flat:
        return dict(trees.named_leaves(jax.eval_shape(self.init, jax.random.key(0))[1]))

    def init(self, key: jax.Array) -> tuple[Params, Extra]:
        made = self._own.init(key)
        if isinstance(made, tuple) and len(made) != 2:
            self._refuse("init", f"returned {len(made)} values", "return the parameters, or (parameters, extra)")
        params, extra = made if isinstance(made, tuple) else (made, ())
        leaves, structure = trees.named_leaves(params), jax.tree.structure(params)
        if not leaves or jax.tree_util.treedef_is_leaf(structure):
            self._refuse(
                "init",
                f"returned {_kind(params)} as parameters",
                "return float32 arrays in a tree: nested dicts of them, or a library's own tree",
            )
        self._check_paths([path for path, _ in leaves])
        for path, leaf in leaves:
            self._check_parameter(path, leaf)
        self._structure, self._paths = structure, [path for path, _ in leaves]
        for keys, leaf in jax.tree_util.tree_leaves_with_path(extra):
            if not _is_array(leaf):
                where = jax.tree_util.keystr(keys)
                self._refuse("init", f"extra{where} is {_kind(leaf)}, not an array", "make it an array")
        return trees.unflatten(dict(leaves)), extra

    def _check_parameter(self, path: str, leaf: Any) -> None:
        if not _is_array(leaf):
            self._refuse(
                "init",
                f"the parameter {path!r} is {_kind(leaf)}, not an array",
                "return float32 arrays alone: of an Equinox module eqx.partition(module, eqx.is_inexact_array)[0], "
                "of an nnx module nnx.state(module, nnx.Param)",
            )
        if leaf.dtype != jnp.float32:
            self._refuse(
                "init",
                f"the parameter {path!r} is {leaf.dtype}",
                "make it float32 (training.compute_dtype says what is calculated in); what no gradient trains "
                "belongs in extra, the second value that init may return",
            )

    def _check_paths(self, paths: Sequence[str]) -> None:
        """A path is one parameter's, and no part of another's."""
        seen: set[str] = set()
        for path in sorted(paths):
            parts = path.split("/")
            above = {"/".join(parts[:n]) for n in range(1, len(parts) + 1)} & seen
            if "" in parts or above:
                what = f"is below {min(above)!r}, which is one, too" if above else "has an empty name in it"
                self._refuse("init", f"the parameter {path!r} {what}", "give each parameter a path of its own")
            seen.add(path)

    def _own_tree(self, params: Params) -> Any:
        """The parameters in the workload's own tree, as its `init` gave them."""
        if self._structure is None:
            assert self.shapes  # which has called `init`
        flat = trees.flatten(params)
        return jax.tree.unflatten(self._structure, [flat[path] for path in self._paths])

    def axes(self) -> trees.Flat:
        """Logical axes by path, of each parameter."""
        given = self._own.axes()
        if given is None:
            return {path: _default_axes(shape.shape) for path, shape in self.shapes.items()}
        axes = trees.flatten(given)
        if missing := [path for path in self.shapes if path not in axes]:
            self._refuse(
                "axes", f"says nothing of {', '.join(missing)}", "give the same tree as init, or leave axes out"
            )
        for path, names in axes.items():
            self._check_axes(path, names)
        return axes

    def _check_axes(self, path: str, names: Any) -> None:
        if path not in self.shapes:
            self._refuse(
                "axes", f"{path!r} is no parameter of init{nearest(path, self.shapes)}", "give the same tree as init"
            )
        shape = self.shapes[path].shape
        if not isinstance(names, tuple) or len(names) != len(shape):
            self._refuse(
                "axes",
                f"{path!r} has the shape {shape}, and its axes are {names!r}",
                f"give a tuple of {len(shape)}, one name or None for each axis",
            )
        for name in names:
            if name is not None and name not in RULES:
                self._refuse(
                    "axes",
                    f"{path!r} has an unknown logical axis {name!r}{nearest(str(name), RULES)}",
                    f"use one of {', '.join(RULES)}, or None for an axis that is never split",
                )

    def group(self, path: str) -> str:
        return self._named("group", path, self._own.group(path))

    def unit(self, path: str) -> str:
        return self._named("unit", path, self._own.unit(path))

    def _named(self, method: str, path: str, name: Any) -> str:
        if not isinstance(name, str) or not name:
            self._refuse(f"{method}({path!r})", f"returned {name!r}", "return a name")
        return str(name)

    def trained(self, path: str) -> bool:
        return bool(self._own.trained(path))

    def release_order(self) -> Sequence[str]:
        order = self._own.release_order()
        units = sorted({self.unit(path) for path in self.shapes})
        for unit in order:
            if unit not in units:
                self._refuse(
                    "release_order",
                    f"there is no unit {unit!r}{nearest(str(unit), units)}",
                    f"unit() gives {', '.join(units)}",
                )
        return order

    def load(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        return self._loaded("load", path, index, self.shapes[path].shape, self._own.load(path, index))

    def load_extra(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        return self._loaded(
            "load_extra", path, index, self._extra_shapes[path].shape, self._own.load_extra(path, index)
        )

    def carries_extra(self, path: str) -> bool:
        return bool(self._own.carries_extra(path))

    def _loaded(
        self, method: str, path: str, index: tuple[slice, ...], whole: Sequence[int], loaded: Any
    ) -> np.ndarray | None:
        """What was loaded, if it is the slice that was asked for."""
        if loaded is None:
            return None
        shape = tuple(len(range(*one.indices(size))) for one, size in zip(index, whole, strict=True))
        if np.shape(loaded) != shape:
            self._refuse(
                f"{method}({path!r})",
                f"returned an array {np.shape(loaded)} for a slice {shape}",
                "return that slice alone",
            )
        return np.asarray(loaded)

    # ---- training -----------------------------------------------------------------------------------------

    def norms(self, batch: Batch) -> dict[str, jax.Array]:
        if type(self._own).norms is Workload.norms and "weight" not in batch:
            self._refuse("prepare", "returned a batch without 'weight'", "keep 'weight' in it, or define norms()")
        norms: Any = self._own.norms(batch)
        if not isinstance(norms, dict) or not all(_is_array(norm) for norm in norms.values()):
            self._refuse("norms", f"returned {_kind(norms)}", "return a dict of arrays, sums over the examples")
        checked: dict[str, jax.Array] = norms
        return checked

    def loss(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        norms: dict[str, jax.Array],
        key: jax.Array,
        hp: Hyperparameters,
    ) -> tuple[jax.Array, Loss]:
        given: Any = self._own.loss(self._own_tree(params), extra, batch, norms, key, hp)
        if isinstance(given, tuple) and (len(given) != 2 or not isinstance(given[1], Loss)):
            kinds = ", ".join(_kind(part) for part in given)
            self._refuse("loss", f"returned ({kinds})", "return the loss, or (loss, Loss(extra, metrics))")
        loss, beside = given if isinstance(given, tuple) else (given, Loss(extra, {}))
        if not _is_array(loss) or loss.shape != () or loss.dtype != jnp.float32:
            self._refuse(
                "loss",
                f"returned {_kind(loss)}",
                "return a float32 scalar: this micro-batch's share, for example "
                "jnp.sum(losses * batch['weight']) / norms['weight']",
            )
        if _shapes(beside.extra) != _shapes(extra):
            self._refuse(
                "loss",
                f"extra was {_shapes(extra)[1]} and became {_shapes(beside.extra)[1]}",
                "return extra with the names, shapes and types that init gave it",
            )
        self._check_names_of_metrics("loss", "train", beside.metrics)
        for name, value in beside.metrics.items():
            if not _is_array(value) or value.shape != ():
                self._refuse(
                    "loss", f"the metric {name!r} is {_kind(value)}", "make it a scalar, a share like the loss"
                )
        return loss, Loss(beside.extra, dict(beside.metrics))

    @property
    def prepares(self) -> bool:
        """Whether the workload makes something of a batch before its updates."""
        return type(self._own).prepare is not Workload.prepare

    def prepare(
        self, context: Context, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters
    ) -> Batch | None:
        prepared = self._own.prepare(context, self._own_tree(params), extra, batch, key, hp)
        return self._checked_batch("prepare", prepared, batch)

    def prepared(
        self, mesh: Mesh, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters
    ) -> Batch | None:
        prepared = self._own.prepared(mesh, self._own_tree(params), extra, batch, key, hp)
        return self._checked_batch("prepared", prepared, batch)

    def _checked_batch(self, method: str, prepared: Any, batch: Batch) -> Batch | None:
        if prepared is None:
            return None
        size = jax.tree.leaves(batch)[0].shape[:2]
        if not isinstance(prepared, dict):
            self._refuse(method, f"returned {_kind(prepared)}", "return a dict of arrays, or None if told to stop")
        for name, leaf in prepared.items():
            if not _is_array(leaf) or leaf.shape[:2] != size:
                self._refuse(
                    method,
                    f"{name!r} of its batch is {_kind(leaf)}",
                    f"make it an array whose first axes are {size}: micro-batches, and their examples",
                )
        checked: Batch = prepared
        return checked

    # ---- evaluation ---------------------------------------------------------------------------------------

    def eval_step(self, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters) -> Rows:
        given = self._own.eval_step(self._own_tree(params), extra, batch, key, hp)
        if not isinstance(given, dict):
            self._refuse("eval_step", f"returned {_kind(given)}", "return a dict of arrays, one row for each example")
        rows = {**{name: batch[name] for name in _WITH_ID}, **given}
        size, means = len(batch["weight"]), type(self._own).summarize is Workload.summarize
        for name, leaf in rows.items():
            if not _is_array(leaf) or leaf.shape[:1] != (size,):
                self._refuse(
                    "eval_step",
                    f"{name!r} is {_kind(leaf)}, and the batch has {size} examples",
                    "return an array with the example axis first; means are the business of summarize()",
                )
            if means and leaf.shape != (size,):
                self._refuse(
                    "eval_step",
                    f"{name!r} is {_kind(leaf)}, of which no mean can be a metric",
                    "return one number for each example, or define summarize()",
                )
        if means:
            self._check_names_of_metrics("eval_step", "val", set(rows) - set(_WITH_ID))
        return rows

    def summarize(self, rows: Rows, split: str) -> Summary:
        given = self._own.summarize(rows, split)
        summary = given if isinstance(given, Summary) else Summary(given)
        if not isinstance(summary.metrics, Mapping):
            self._refuse(
                "summarize", f"returned {_kind(given)}", "return Summary(metrics, files), or the metrics alone"
            )
        self._check_names_of_metrics("summarize", "val", summary.metrics)
        for name, value in summary.metrics.items():
            if np.ndim(value) != 0 or not isinstance(value, int | float | np.number | np.bool_):
                self._refuse("summarize", f"the metric {name!r} is {_kind(value)}", "make it a float")
        for name, content in summary.files.items():
            if not isinstance(content, bytes):
                self._refuse("summarize", f"the file {name!r} is {_kind(content)}", "give its content as bytes")
        return Summary({name: float(value) for name, value in summary.metrics.items()}, summary.files)

    def _check_names_of_metrics(self, method: str, split: str, names: Iterable[str]) -> None:
        """All that are declared, and no others."""
        schema = type(self._config)
        given = sorted(f"{split}/{name}" for name in names)
        declared = sorted(name for name in self._config.metrics() if name.startswith(f"{split}/"))
        for name in given:
            if name not in declared:
                self._refuse(
                    method,
                    f"the metric {name!r} is not declared{nearest(name, declared)}",
                    f"add it to {schema.__name__}.METRICS, which has {', '.join(declared) or f'none of {split}/'}",
                )
        for name in declared:
            if name not in given:
                self._refuse(
                    method,
                    f"{schema.__name__}.METRICS has {name!r}, which never comes{nearest(name, given)}",
                    f"return it, or take it out of METRICS; there are {', '.join(given) or f'none of {split}/'}",
                )

    # ---- accounting ---------------------------------------------------------------------------------------

    def flops(self, bucket: int) -> Sequence[Product] | None:
        """Product by product; a number alone is one product of nobody's weight."""
        given: Any = self._own.flops(bucket)
        if given is None:
            return None
        if isinstance(given, int | float):
            return [Product(float(given))]
        for product in given:
            if not isinstance(product, Product):
                self._refuse("flops", f"has {_kind(product)} in its list", "return Products, or their sum")
            if product.weight and product.weight not in self.shapes:
                self._refuse(
                    "flops",
                    f"{product.weight!r} is no parameter of init{nearest(product.weight, self.shapes)}",
                    "name the weight by its path, or give '' where there is none",
                )
        products: Sequence[Product] = given
        return products


def check_class(factory: Any, path: str) -> None:
    """Refuses a class that is no complete workload, or whose methods cannot be called as the trainer calls them.

    Raises:
        UserError: naming the key, the class and the methods.
    """
    if not (inspect.isclass(factory) and issubclass(factory, Workload)):
        raise UserError(
            f"workload.factory: {path} is no workload", "inherit from trialfleet.training.workload.Workload"
        )
    if lacking := sorted(factory.__abstractmethods__):
        raise UserError(f"workload.factory: {path} lacks {', '.join(lacking)}", "define what is lacking")
    for name, standard in inspect.getmembers(Workload, inspect.isfunction):
        own = inspect.getattr_static(factory, name)
        if getattr(factory, name) is standard:
            continue
        expected = list(inspect.signature(standard).parameters)[1:]
        if not inspect.isfunction(own):
            raise UserError(f"{path}.{name}: is {_kind(own)}", f"make it a method ({', '.join(['self', *expected])})")
        signature = inspect.signature(own)
        try:
            signature.bind(None, *expected)
        except TypeError:
            fits = False
        else:
            shared = [parameter for parameter in signature.parameters if parameter in expected]
            fits = shared == [parameter for parameter in expected if parameter in shared]
        if not fits:
            raise UserError(
                f"{path}.{name}{signature}: the trainer calls it with ({', '.join(expected)})",
                "take these arguments, in this order",
            )


def batch_of(source: Source, examples: Sequence[Example], bucket: int, rows: Sequence[int] | None) -> Batch:
    """The examples as a batch, with `weight`, all ones if the source says nothing of it.

    Args:
        rows: the examples' numbers, for a batch that needs `id` even if the source gives none; None if it does not.

    Raises:
        UserError: if arrays are none, or of different sizes.
    """
    batch = source.collate(examples, bucket)
    where, size = f"{type(source).__name__}.collate", len(examples)
    if not isinstance(batch, dict):
        raise UserError(f"{where}: returned {_kind(batch)}", "return a dict of arrays")
    batch = {"weight": np.ones(size, np.float32), **batch}
    if rows is not None:
        batch = {"id": np.asarray(rows, np.int32), **batch}
    for name, leaf in batch.items():
        if not _is_array(leaf) or leaf.dtype.kind not in "biuf":
            kind = f"an array of {leaf.dtype}" if isinstance(leaf, np.ndarray) else _kind(leaf)
            raise UserError(f"{where}: {name!r} is {kind}", "make it an array of numbers")
    sizes = {name: leaf.shape[:1] for name, leaf in batch.items()}
    if set(sizes.values()) != {(size,)}:
        shown = ", ".join(f"{name} {leaf.shape}" for name, leaf in sorted(batch.items()))
        raise UserError(
            f"{where}: of {size} examples it made {shown}",
            f"give all arrays a first axis of {size}, one for each example",
        )
    if batch["weight"].shape != (size,):
        raise UserError(f"{where}: 'weight' has the shape {batch['weight'].shape}", "give one number for each example")
    return batch


def _default_axes(shape: Sequence[int]) -> Axes:
    """The longest axis of a matrix (and of what has more axes) is split over fsdp; nothing is over tp."""
    longest = int(np.argmax(shape)) if len(shape) > 1 else None
    return tuple("embed" if axis == longest else None for axis in range(len(shape)))


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _kind(value: Any) -> str:
    """What a value is, in words."""
    if _is_array(value):
        return f"{value.dtype} {value.shape}" if value.shape else f"a {value.dtype} scalar"
    return "None" if value is None else f"a {type(value).__name__}"


def _shapes(tree: Any) -> tuple[Any, str]:
    """Structure, shapes and types of a tree of arrays, to compare and to show."""
    shown = jax.tree.map(_kind, tree)
    return jax.tree.structure(tree), str(shown)

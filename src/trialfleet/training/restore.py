"""What a training begins from: published weights, another training's parameters, its own last checkpoint."""

# mypy: allow-untyped-calls
# (jax's PartitionSpec, ShapeDtypeStruct and a few functions have no annotations.)

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from trialfleet.config import Config, signature
from trialfleet.config.location import expanded
from trialfleet.config.schema import RESUME
from trialfleet.errors import UserError
from trialfleet.training import checkpoints, distributed, lora, trees
from trialfleet.training.checkpoints import CheckpointManager, Saved
from trialfleet.training.goodput import Goodput
from trialfleet.training.mesh import batch_sharding
from trialfleet.training.program import Program
from trialfleet.training.saved_parameters import SavedParameters
from trialfleet.training.setup import Setup, fingerprint
from trialfleet.training.state import State
from trialfleet.training.workload import Batch, Extra, Params, Workload

log = logging.getLogger(__name__)

Load = Callable[[str, tuple[slice, ...]], np.ndarray | None]  # one slice of what has a path

# What may differ between the run that saved a state and the one that goes on from it.
_FREE = (
    *("mesh.", "runtime.", "training.per_device_batch", "training.eval_batch"),
    *("generation.gather_weights", "generation.unstack_weights"),  # where weights are while tokens are drawn
)

_NEEDED = frozenset({"signature", "frozen", "batch", "fingerprint"})  # of a checkpoint's meta.json, to go on from it


class Resumed(NamedTuple):
    """A training as it was when it was saved."""

    state: State
    prepared: Batch  # the batch in work, if the save came between two updates on it; else {}
    saved: Saved


class Start(NamedTuple):
    """What a run begins with.

    Attributes:
        frozen: parameters that are not trained; empty if all are.
        frozen_digest: tells these from other frozen parameters.
        prepared: the batch in work; {} unless the run goes on between two updates on it.
        step: updates that were made.
        meta: what the checkpoint says besides the arrays; None for a run that goes on from none.
        init_report: which parameters came from `training.init_from`; None if none were wanted.
    """

    state: State
    frozen: Params
    frozen_digest: str
    prepared: Batch
    step: int
    meta: dict[str, Any] | None
    init_report: dict[str, Any] | None


def begin(config: Config, setup: Setup, saves: CheckpointManager, goodput: Goodput) -> Start:
    """What a run begins with: from the seed, from published weights, or from where the trial was left.

    The order is important. Frozen parameters are in no checkpoint of a trial, so they are made first, and a checkpoint
    is refused that was trained on others. What a checkpoint has is not read from `training.init_from` before. What was
    drawn leaves the devices before a checkpoint is read: there may be no room for both. If none can be read after all,
    it is drawn again, from the same seed.

    Raises:
        UserError: what the config names to begin from does not fit.
    """
    program, source = setup.program, config.training.init_from
    has_frozen, drawn = bool(program.layout.frozen), _Drawn(config, setup, goodput)
    with goodput.spent("restore"):
        if source and has_frozen:
            drawn.take(source)
        frozen_digest = digest(drawn.frozen)
        found = resumed(config, program, saves, frozen_digest, drawn.leave)
        if found is not None:
            return Start(
                found.state,
                drawn.frozen,
                frozen_digest,
                found.prepared,
                found.saved.step,
                found.saved.meta,
                drawn.report,
            )
        if drawn.left:
            drawn = _Drawn(config, setup, goodput)
        if source and drawn.report is None:
            drawn.take(source)
    return Start(drawn.state, drawn.frozen, frozen_digest, {}, 0, None, drawn.report)


class _Drawn:
    """The first state and the frozen parameters: from the seed, and the weights that the workload loads."""

    def __init__(self, config: Config, setup: Setup, goodput: Goodput) -> None:
        self._config, self._setup = config, setup
        self.report: dict[str, Any] | None = None
        self.left = False  # whether the state is gone
        with goodput.spent("start"):
            state, frozen = setup.program.init(setup.inputs.hp, setup.inputs.seed)
            self.state, self.frozen = with_published(setup.workload, setup.program, state, frozen)

    def take(self, source: str) -> None:
        """Parameters of another training's checkpoint."""
        verify = self._config.training.checkpoints.verify
        taken = with_parameters_of(source, self._setup, self.state, self.frozen, verify=verify)
        self.state, self.frozen, self.report = taken

    def leave(self) -> None:
        """Make room on the devices for another state."""
        if not self.left:
            self.left = True
            for leaf in jax.tree.leaves(self.state):
                leaf.delete()


def with_published(workload: Workload, program: Program, state: State, frozen: Params) -> tuple[State, Params]:
    """The first state with the weights that the workload loads, each device reading its own slices."""
    layout = program.layout
    params = _loaded(workload.load, state.params, layout.shardings.params)
    frozen = _loaded(workload.load, frozen, layout.frozen_shardings)
    extra = _loaded_extra(workload, state.extra, layout.shardings.extra)
    return state._replace(params=params, extra=extra, ema=_averages(state, params)), frozen


def _averages(state: State, params: Params) -> Any:
    """Averages that begin with these parameters; () where none are kept.

    Copies: a step donates parameters and averages, and may not be given one buffer twice.
    """
    if state.ema == ():
        return ()
    for leaf in jax.tree.leaves(state.ema):
        leaf.delete()
    return jax.tree.map(jnp.copy, params)


def _loaded(load: Load, tree: Params, shardings: Any) -> Params:
    places: Mapping[str, NamedSharding] = trees.flatten(shardings)
    return trees.unflatten(
        {path: _read_in(load, path, leaf, places[path]) for path, leaf in trees.flatten(tree).items()}
    )


def _loaded_extra(workload: Workload, tree: Extra, shardings: Any) -> Extra:
    """In the workload's own tree: what a forward pass updates need be no nested dicts."""
    leaves, structure = jax.tree.flatten(tree)
    names, places = [path for path, _ in trees.named_leaves(tree)], jax.tree.leaves(shardings)
    read = [_read_in(workload.load_extra, *each) for each in zip(names, leaves, places, strict=True)]
    return jax.tree.unflatten(structure, read)


def _read_in(load: Load, path: str, leaf: jax.Array, place: NamedSharding) -> jax.Array:
    """What is loaded in the place of a leaf; the leaf itself, if nothing is."""
    if load(path, tuple(slice(0, 1) for _ in leaf.shape)) is None:
        return leaf
    leaf.delete()  # what was drawn in its place would take as much room again

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        loaded = load(path, index or ())
        assert loaded is not None
        return loaded.astype(leaf.dtype)

    return jax.make_array_from_callback(leaf.shape, place, part)


def with_parameters_of(
    source: str,
    setup: Setup,
    state: State,
    frozen: Params,
    key: str = "training.init_from",
    verify: bool = True,
    own: bool = False,
) -> tuple[State, Params, dict[str, Any]]:
    """The state and the frozen parameters with those of another training's checkpoint, as far as they fit.

    Leaf by leaf: what stood in a parameter's place leaves the devices before it is read. Statistics that belong to the
    model come along.

    Args:
        key: what names the source, for messages.
        verify: compare the digests of the checkpoint's files.
        own: it is one of this training itself, in which frozen parameters are not to be expected.

    Returns:
        Both, and a report of what was taken and what was not.

    Raises:
        UserError: if `source` is no checkpoint, nothing fits, or what is never trained has another shape there.
    """
    saved, layout = SavedParameters(source, key, verify), setup.program.layout
    shapes = trees.flatten(trees.merge(layout.shapes.params, layout.frozen_shapes))
    places = trees.flatten(trees.merge(layout.shardings.params, layout.frozen_shardings))
    fits = [path for path, leaf in shapes.items() if saved.fits(path, leaf.shape)]
    if not fits:
        other = saved.other_settings(setup.config)
        raise UserError(f"{key}: no parameter of {saved.folder} has the name and shape of one of this model{other}")
    not_there = sorted(path for path in shapes if path not in saved)
    other_shape = sorted(set(shapes) - set(fits) - set(not_there))
    if not own:
        _refuse_drawn(key, saved, setup, other_shape)
    whole = trees.flatten(trees.merge(state.params, frozen))
    for path in fits:
        whole.pop(path).delete()
        read = saved.read(path, shapes[path].shape, places[path])
        whole[path] = read.astype(shapes[path].dtype)  # frozen parameters are in the compute dtype
    never, params = trees.split(trees.unflatten(whole), layout.frozen.__contains__)
    report: dict[str, Any] = {
        "from": str(saved.folder),
        "taken": len(fits),
        "not_there": not_there,
        "other_shape": other_shape,
    }
    extra, report["extra_not_there"] = _extra_of(saved, setup, state.extra, own)
    log.info("%s: %d of %d parameters from %s", key, len(fits), len(shapes), saved.folder)
    for what in ("not_there", "other_shape", "extra_not_there"):
        expected = set(layout.frozen) if own else set[str]()
        if what == "not_there":  # a training that begins from a whole model has adapters of its own
            expected |= set(filter(lora.is_adapter, report[what]))
        if unexpected := [path for path in report[what] if path not in expected]:
            why = saved.other_settings(setup.config) if what == "other_shape" else ""
            named = ", ".join(unexpected)
            log.warning("%s: %s, so as drawn or published: %s%s", key, what.replace("_", " "), named, why)
    return state._replace(params=params, extra=extra, ema=_averages(state, params)), never, report


def _refuse_drawn(key: str, saved: SavedParameters, setup: Setup, other_shape: list[str]) -> None:
    """What is never trained would stay as it was drawn, if neither the source nor published weights have it."""

    layout = setup.program.layout
    shapes = trees.flatten(layout.frozen_shapes)

    def drawn(path: str) -> bool:
        return setup.workload.load(path, tuple(slice(0, 1) for _ in shapes[path].shape)) is None

    if lost := [path for path in other_shape if path in layout.frozen and drawn(path)]:
        raise UserError(
            f"{key}: {', '.join(lost)} would be drawn and never trained: of another shape in {saved.folder}"
            f"{saved.other_settings(setup.config)}",
            "use the model of that training, or train these, too (freezing, model)",
        )


def _extra_of(saved: SavedParameters, setup: Setup, extra: Extra, own: bool) -> tuple[Extra, list[str]]:
    """What forward passes update, with what a checkpoint has of it and the model takes; and what it lacks.

    Args:
        own: it is a checkpoint of this training itself, all of which is taken.
    """
    layout, carries = setup.program.layout, setup.workload.carries_extra
    taken, lacking = list[jax.Array](), list[str]()
    read = saved.extra(layout.shapes.extra, layout.shardings.extra)
    for (path, leaf), found in zip(trees.named_leaves(extra), read, strict=True):
        taken.append(found if found is not None and (own or carries(path)) else leaf)
        if found is None and carries(path):
            lacking.append(path)
    return jax.tree.unflatten(jax.tree.structure(extra), taken), lacking


def resumed(
    config: Config, program: Program, saves: CheckpointManager, frozen: str, make_room: Callable[[], None]
) -> Resumed | None:
    """The trial's furthest whole checkpoint, else the one that the config names; None if it wants none, or has none.

    Args:
        frozen: the digest of the frozen parameters.
        make_room: called before arrays are read.

    Raises:
        UserError: if it is of another config or other frozen weights, or if there must be one and is not.
    """
    if config.training.resume == "never":
        return None
    for saved in _to_go_on_from(config, saves):
        _refuse_another(config, saved, frozen)
        batch = {
            name: jax.ShapeDtypeStruct(tuple(shape), dtype) for name, (shape, dtype) in saved.meta["batch"].items()
        }
        shapes = {"state": program.layout.shapes, "batch": batch}
        places = {"state": program.layout.shardings, "batch": dict.fromkeys(batch, batch_sharding(program.mesh))}
        make_room()
        tree = _read(saved, shapes, places)
        if tree is None:
            continue
        _say_where(saved, program)
        _say_of_what(saved, config)
        return Resumed(tree["state"], tree["batch"], saved)
    if config.training.resume == "auto":
        return None
    raise UserError(
        f"training.resume: {config.training.resume}, and there is no checkpoint that could be read",
        "training.resume=auto begins anew where there is none; else give the folder of a training or of a checkpoint",
    )


def _to_go_on_from(config: Config, saves: CheckpointManager) -> Iterator[Saved]:
    """The run's own, and then those that `training.resume` names, the furthest first."""
    yield from saves.newest()
    if config.training.resume not in RESUME:
        yield from saves.within(expanded(config.training.resume).absolute())


def _read(saved: Saved, shapes: Any, places: Any) -> Any:
    """The arrays of a checkpoint; None if they cannot be read, and there may be one before.

    Of several processes one that cannot read what the others can must end: they wait for each other while they read,
    and would wait for it for ever. It is the next run that tries again.
    """
    try:
        return checkpoints.read(saved, shapes, places)
    except Exception as error:
        if distributed.place()[1] > 1:
            raise
        log.warning("checkpoint %s is passed over: %s", saved.path, error)
        return None


def _refuse_another(config: Config, saved: Saved, frozen: str) -> None:
    if lacking := _NEEDED - saved.meta.keys():
        raise UserError(
            f"training.resume: {saved.path / 'meta.json'} has no {', '.join(sorted(lacking))}: no training of this "
            "version saved it",
            "take its parameters alone by training.init_from, or use training.resume=never",
        )
    then, now = saved.meta["signature"], signature(config)
    differing = [key for key in {**then, **now} if then.get(key) != now.get(key) and not key.startswith(_FREE)]
    if differing:
        shown = ", ".join(f"{key}: {then.get(key)} -> {now.get(key)}" for key in sorted(differing))
        raise UserError(
            f"training.resume: {saved.path} is of another config ({shown})",
            "put these back, or use training.resume=never",
        )
    if saved.meta["frozen"] != frozen:
        raise UserError(
            f"training.resume: the frozen weights are not those that {saved.path} was trained on",
            f"put back what decides them ({_deciding(config)}), or use training.resume=never",
        )


def _deciding(config: Config) -> str:
    """The keys that decide what frozen weights are."""
    keys = [key for key, folder in config.published().items() if folder is not None]
    return ", ".join([*keys, *(["training.init_from"] if config.training.init_from else []), "seed"])


def _say_where(saved: Saved, program: Program) -> None:
    then, now = saved.meta["fingerprint"], fingerprint(program.mesh)
    differing = ", ".join(f"{key} {then.get(key)} -> {now[key]}" for key in now if then.get(key) != now[key])
    log.info("going on from step %d (%s)", saved.step, saved.path)
    if differing:
        log.warning("not bit for bit as it would have been, since this is another place: %s", differing)


def _say_of_what(saved: Saved, config: Config) -> None:
    """Files may have moved, so that other ones are no error; but the place in the data is that in the ones before."""
    then = saved.meta.get("data", {})  # checkpoints did not always say it
    for key, paths in config.data_files().items():
        if key in then and then[key] != list(paths):
            log.warning(
                "training.resume: %s was %s and is %s: right if these are the same data", key, then[key], list(paths)
            )


def digest(frozen: Params) -> str:
    """What tells one set of frozen weights from another: sums of their bits, with and without their places."""
    if not frozen:
        return ""
    one, other = _sums(frozen)
    return f"{int(one):08x}{int(other):08x}"


@jax.jit
def _sums(tree: Params) -> tuple[jax.Array, jax.Array]:
    plain = weighted = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
        # By axes: to flatten what is split over devices would gather it on each of them.
        place = jnp.zeros(bits.shape, jnp.uint32)
        for axis, size in enumerate(bits.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        plain += jnp.sum(bits)
        weighted += jnp.sum(bits * (2 * place + 1))
    return plain, weighted

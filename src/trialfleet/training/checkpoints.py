"""Checkpoints of a run: written in the background, whole or absent, and checked when they are read.

    checkpoints/00000200/
      state/          arrays, as Orbax writes them: each process its own shards
      meta.json       position, events done, control: small, readable
      manifest.json   size and digest of every other file (integrity.py); without it there is no checkpoint

A run writes its own folder and reads those of earlier runs. What was cut short has no manifest, what was
damaged has another digest: both are passed over in favour of the one before. Which one is read is decided by
process 0, which alone lists the folders; all processes read the same.
"""

# mypy: allow-untyped-calls
# (jax's PartitionSpec, ShapeDtypeStruct and a few functions have no annotations.)

import contextlib
import glob
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax

from trialfleet.config import schema
from trialfleet.training import distributed, integrity
from trialfleet.trial import records

log = logging.getLogger(__name__)

Json = dict[str, Any]
Arrays = dict[str, Any]  # leaves of a state by name


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was found whole."""

    path: Path
    step: int
    meta: Json


class CheckpointManager:
    """The checkpoints of one run and, read-only, of the runs before it."""

    def __init__(self, directory: Path, earlier: Sequence[Path], keep: schema.Checkpoints) -> None:
        self._directory = directory.absolute()
        self._earlier = [path.absolute() for path in earlier]
        self._keep = keep
        self._writing: threading.Thread | None = None
        self._saved: dict[int, Json] = {}  # what this run has committed, by step

    def go_on(self, step: int) -> None:
        """Take what lies in the run's folder up to this step for its own: a process before this one has saved it.

        What is beyond belongs to another training, whose folder this was.
        """
        for folder in _numbered([self._directory]):
            if int(folder.name) <= step and (folder / integrity.MANIFEST).is_file():
                with contextlib.suppress(OSError, records.Damaged):
                    self._saved[int(folder.name)] = records.read(folder / "meta.json") or {}

    def save(self, step: int, state: Any, meta: Json) -> None:
        """Begins to save; the state may be donated once this has returned.

        Waits for a save that is still being written. All processes must call it at the same step.
        """
        self.wait()
        folder = self._directory / f"{step:08d}"
        saver = _saver()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            saver.save(_arrays(folder), args=_orbax().args.StandardSave(named(state)), force=True)
        except OSError as error:
            if distributed.place()[1] > 1:  # the other processes wait for this one: they all go on from the last save
                raise
            _give_up(folder, step, error)
            return
        self._writing = threading.Thread(target=self._commit, args=(folder, step, meta), name="checkpoint")
        self._writing.start()

    def saving(self) -> bool:
        """Whether a checkpoint is still being written."""
        return self._writing is not None and self._writing.is_alive()

    def wait(self) -> None:
        """Until what is being saved is committed."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def _commit(self, folder: Path, step: int, meta: Json) -> None:
        try:
            _saver().wait_until_finished()
            if integrity.commit(folder, {"step": step, **meta}):
                self._saved[step] = meta
                self._delete_superseded()
        except Exception as error:  # noqa: BLE001 - Orbax and its storage raise whatever they like
            # A full disk, most of all: training goes on, and the checkpoint before this one stays.
            _give_up(folder, step, error)

    def _delete_superseded(self) -> None:
        kept = retained({step: meta.get("score") for step, meta in self._saved.items()}, self._keep)
        for step in sorted(set(self._saved) - kept):
            del self._saved[step]
            _delete(self._directory / f"{step:08d}")

    def kept(self) -> dict[str, str]:
        """Where this run's last checkpoint is, and its best."""
        if not self._saved:
            return {}
        scores = {step: meta["score"] for step, meta in self._saved.items() if meta.get("score") is not None}
        found = {"last": max(self._saved)}
        if scores:
            found["best"] = min(scores, key=lambda step: (records.number(scores[step]), step))
        return {name: str(self._directory / f"{step:08d}") for name, step in found.items()}

    def newest(self) -> Iterator[Saved]:
        """Whole checkpoints of this run and of those before it, the furthest first: the same on all processes.

        All of them must take the next one, or none.
        """
        return self._whole(self._folders())

    def within(self, folder: Path) -> Iterator[Saved]:
        """Whole checkpoints of another run, the furthest first: of its folder, or of that of one checkpoint."""
        if (folder / integrity.MANIFEST).is_file():
            return self._whole([folder])
        return self._whole(_numbered([folder, folder / "checkpoints"]))

    def at(self, step: int) -> Saved | None:
        """The whole checkpoint of a step, of this run or of one before it."""
        return next(self._whole([folder for folder in self._folders() if int(folder.name) == step]), None)

    def _whole(self, folders: Sequence[Path]) -> Iterator[Saved]:
        """Those of them that are whole, in the order that process 0 has."""
        for name in distributed.agreed_json([str(folder) for folder in folders]):
            folder = Path(name)
            if wrong := integrity.damage(folder, self._keep.verify):
                log.warning("checkpoint %s is passed over: %s", folder, wrong)
            else:
                meta = records.read(folder / "meta.json") or {}
                yield Saved(folder, int(meta.get("step", folder.name)), meta)  # a folder that was named may be a copy

    def _folders(self) -> list[Path]:
        """Whatever may be a checkpoint, the furthest first."""
        return _numbered([self._directory, *self._earlier])


def _numbered(directories: Sequence[Path]) -> list[Path]:
    """The folders in some directories whose names are steps, the furthest first."""
    folders = [
        folder
        for directory in directories
        if directory.is_dir()
        for folder in directory.iterdir()
        if folder.name.isdecimal()
    ]
    return sorted(folders, key=lambda folder: -int(folder.name))


def read(saved: Saved, shapes: Any, shardings: Any) -> Any:
    """The saved state, in the structure of `shapes` and placed by `shardings`, whatever mesh it was saved on.

    Raises:
        ValueError: if it holds other arrays than `shapes`.
    """

    def placed(shape: Any, place: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)

    target = jax.tree.map(placed, shapes, shardings)
    restored = _saver().restore(_arrays(saved.path), args=_orbax().args.StandardRestore(named(target)))
    return jax.tree.unflatten(jax.tree.structure(shapes), [restored[name] for name in named(shapes)])


def read_part(saved: Saved, shapes: Any, shardings: Any) -> Any:
    """Those arrays of the saved state that `shapes` has, in its structure and placed by `shardings`."""

    def placed(shape: Any, place: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)

    found = read_some(saved.path, named(jax.tree.map(placed, shapes, shardings)))
    return jax.tree.unflatten(jax.tree.structure(shapes), [found[name] for name in named(shapes)])


def contents(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every array in a checkpoint, by name."""
    item = _reader().metadata(_arrays(folder)).item_metadata.tree
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in item.items()}


def read_some(folder: Path, targets: Arrays) -> Arrays:
    """Only those arrays of a checkpoint that are named in `targets` (jax.ShapeDtypeStruct with sharding)."""
    ocp = _orbax()
    restore_args = ocp.checkpoint_utils.construct_restore_args(targets)
    arguments = ocp.args.PyTreeRestore(targets, restore_args=restore_args, partial_restore=True)
    read: Arrays = _reader().restore(_arrays(folder), args=arguments)
    return read


def named(tree: Any) -> Arrays:
    """The leaves of a tree by a name made of their path, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=".").replace("/", "."): leaf for path, leaf in leaves}


def retained(scores: dict[int, float | None], keep: schema.Checkpoints) -> set[int]:
    """The steps whose checkpoints stay, of those there are; of equal scores the first is the better, as in control."""
    newest = sorted(scores, reverse=True)[: keep.keep_last]
    scored = [(records.number(score), step) for step, score in scores.items() if score is not None]
    best = [step for _, step in sorted(scored)[: keep.keep_best]]
    forever = [step for step in scores if keep.keep_every and step % keep.keep_every == 0]
    return {*newest, *best, *forever}


def _arrays(folder: Path) -> Path:
    """Where the arrays of a checkpoint are, by a path that Orbax can take.

    It looks for what it has written by a pattern that begins with this path. Where a folder's name has [, * or ? in it,
    as one named after overrides does, it would find nothing, and leave a checkpoint that nobody can read.
    """
    plain = glob.escape(str(folder)) == str(folder)
    return (folder if plain else _alias(folder)) / "state"


@cache
def _alias(folder: Path) -> Path:
    link = Path(_aliases().name) / str(len(list(Path(_aliases().name).iterdir())))
    link.symlink_to(folder, target_is_directory=True)
    return link


@cache
def _aliases() -> tempfile.TemporaryDirectory[str]:
    """For as long as this process lives."""
    return tempfile.TemporaryDirectory(prefix="trialfleet-checkpoints-")


def _delete(folder: Path) -> None:
    (folder / integrity.MANIFEST).unlink(missing_ok=True)  # first: half a checkpoint must not look like one
    shutil.rmtree(folder, ignore_errors=True)


def _give_up(folder: Path, step: int, error: BaseException) -> None:
    """Takes away what was written of a checkpoint, which also makes room where the disk is full."""
    _delete(folder)
    log.warning("the checkpoint of step %d could not be saved, older ones stay: %s", step, error)


@cache
def _orbax() -> Any:
    """Orbax, imported when it is first needed: its import would delay the first step."""
    import orbax.checkpoint

    return orbax.checkpoint


@cache
def _reader() -> Any:
    return _orbax().Checkpointer(_orbax().PyTreeCheckpointHandler())


@cache
def _saver() -> Any:
    return _orbax().AsyncCheckpointer(_orbax().StandardCheckpointHandler())

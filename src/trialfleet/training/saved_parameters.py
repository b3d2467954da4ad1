"""The parameters that a checkpoint holds, and what else belongs to its model, read one by one."""

# mypy: allow-untyped-calls
# (jax's ShapeDtypeStruct has no annotations.)

from typing import Any

import jax
from jax.sharding import Sharding

from trialfleet.config import Config, signature
from trialfleet.config.location import expanded
from trialfleet.errors import UserError
from trialfleet.training import checkpoints, integrity
from trialfleet.trial import records


class SavedParameters:
    """Parameters by path: the averages, wherever there were some, since those were evaluated.

    Args:
        source: the checkpoint's folder.
        key: what names the source, for messages.
        verify: compare the digests of the checkpoint's files.

    Attributes:
        folder: the checkpoint's.

    Raises:
        UserError: it is no checkpoint.
    """

    def __init__(self, source: str, key: str, verify: bool) -> None:
        self.folder = expanded(source).absolute()
        if wrong := integrity.damage(self.folder, verify):
            raise UserError(
                f"{key}: {self.folder} is no whole checkpoint: {wrong}", "give a folder such as …/checkpoints/00000900"
            )
        self._there = checkpoints.contents(self.folder)
        averaged = any(name.startswith("state.ema.") for name in self._there)
        self._kind = "state.ema." if averaged else "state.params."

    def _name(self, path: str) -> str:
        return self._kind + path.replace("/", ".")

    def __contains__(self, path: str) -> bool:
        return self._name(path) in self._there

    def fits(self, path: str, shape: tuple[int, ...]) -> bool:
        """Whether there is a parameter of this path and shape."""
        return self._there.get(self._name(path)) == (shape, "float32")

    def other_settings(self, config: Config) -> str:
        """In brackets, the keys of the model that were otherwise when this was saved; nothing if none is known."""
        then, now = (records.read(self.folder / "meta.json") or {}).get("signature", {}), signature(config)
        found = [
            f"{key} was {records.dumps(then[key])} and is {records.dumps(now[key])}"
            for key in sorted(then.keys() & now.keys())
            if key.startswith("model.") and then[key] != now[key] and "<traced>" not in (then[key], now[key])
        ]
        return f" ({', '.join(found)})" if found else ""

    def read(self, path: str, shape: tuple[int, ...], place: Sharding) -> jax.Array:
        """One of them, float32."""
        name = self._name(path)
        target = jax.ShapeDtypeStruct(shape, "float32", sharding=place)
        found: jax.Array = checkpoints.read_some(self.folder, {name: target})[name]
        return found

    def extra(self, shapes: Any, places: Any) -> list[jax.Array | None]:
        """What forward passes update, in the order of the leaves of `shapes`; None where nothing fits.

        Args:
            shapes: as the model has it, in its structure.
            places: a sharding for each.
        """
        named = checkpoints.named({"state": {"extra": shapes}})
        targets = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
            for (name, leaf), place in zip(named.items(), jax.tree.leaves(places), strict=True)
            if self._there.get(name) == (leaf.shape, str(leaf.dtype))
        }
        read = checkpoints.read_some(self.folder, targets) if targets else {}
        return [read.get(name) for name in named]

"""Parameters are nested dicts; their leaves have paths such as 'encoder/layer0/w'."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

Tree = Any
Flat = dict[str, Any]


def flatten(tree: Tree) -> Flat:
    """Leaves by path, in the order of sorted paths."""
    return dict(sorted(_leaves(tree, "")))


def _leaves(tree: Tree, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for name, child in tree.items():
            yield from _leaves(child, f"{path}/{name}" if path else str(name))
    else:
        yield path, tree


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Leaves by path, of any tree that jax knows: an Equinox module, the state of an nnx module, Haiku's dicts.

    An nnx variable is its value: that it has one is no part of a path.
    """
    return [(_path(keys), leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _path(keys: Sequence[Any]) -> str:
    """Keys of dicts, names of attributes and indices; Haiku's keys are paths already."""
    names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in keys]
    wrapped = len(keys) > 1 and getattr(keys[-1], "name", "") == "value"
    return "/".join(names[:-1] if wrapped else names)


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """The nested dicts of which `flat` has the leaves."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def split(tree: Tree, chosen: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Two trees: the leaves whose path is chosen, and the others."""
    flat = flatten(tree)
    return (
        unflatten({path: leaf for path, leaf in flat.items() if chosen(path)}),
        unflatten({path: leaf for path, leaf in flat.items() if not chosen(path)}),
    )


def merge(first: Tree, second: Tree) -> Tree:
    """The tree that has the leaves of both."""
    return unflatten({**flatten(first), **flatten(second)})

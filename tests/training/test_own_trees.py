"""Parameters in trees of other libraries: a workload gets back what its `init` gave, and the trainer sees paths."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import pytest

from tests.training import small
from tests.training.harness import composed
from trialfleet.errors import UserError
from trialfleet.training import train, trees
from trialfleet.training.contract import CheckedWorkload

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_mlp"
SMALL = (
    f"hydra.searchpath=[file://{Path(__file__).parent / 'conf'}]",
    "workload=small",
    "runtime.compilation_cache=null",
)


@jax.tree_util.register_pytree_with_keys_class
class Module:
    """As Equinox's are: arrays are attributes, and what is no array is part of the structure."""

    def __init__(self, w: Any, b: Any) -> None:
        self.w, self.b = w, b

    def tree_flatten_with_keys(self) -> Any:
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in ("w", "b")], "relu"

    @classmethod
    def tree_unflatten(cls, kind: str, leaves: Any) -> "Module":
        assert kind == "relu"
        return cls(*leaves)


@jax.tree_util.register_pytree_with_keys_class
class Variable:
    """As nnx's are: an array, with a value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tree_flatten_with_keys(self) -> Any:
        return [(jax.tree_util.GetAttrKey("value"), self.value)], None

    @classmethod
    def tree_unflatten(cls, kind: None, leaves: Any) -> "Variable":
        return cls(*leaves)


def as_module(params: Any) -> Any:
    return {"layers": [Module(**params["line"])]}


def as_state(params: Any) -> Any:
    return {"line": {0: {name: Variable(leaf) for name, leaf in params["line"].items()}}}


def as_haiku(params: Any) -> Any:
    return {"net/~/line": params["line"]}


def from_module(tree: Any) -> Any:
    return {"line": {"w": tree["layers"][0].w, "b": tree["layers"][0].b}}


def from_state(tree: Any) -> Any:
    return {"line": {name: variable.value for name, variable in tree["line"][0].items()}}


def from_haiku(tree: Any) -> Any:
    return {"line": tree["net/~/line"]}


KINDS = {
    "module": (as_module, from_module, ["layers/0/b", "layers/0/w"]),
    "state": (as_state, from_state, ["line/0/b", "line/0/w"]),
    "haiku": (as_haiku, from_haiku, ["net/~/line/b", "net/~/line/w"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_of_another_kind_trains_as_nested_dicts_do(
    kind: str, new_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, back, paths = KINDS[kind]

    class Other(small.Small):
        def init(self, key: Any) -> Any:
            return there(super().init(key))

        def loss(self, params: Any, extra: Any, batch: Any, norms: Any, key: Any, hp: Any) -> Any:
            return super().loss(back(params), extra, batch, norms, key, hp)

        def eval_step(self, params: Any, extra: Any, batch: Any, key: Any, hp: Any) -> Any:
            return super().eval_step(back(params), extra, batch, key, hp)

    monkeypatch.setattr(small, "Other", Other, raising=False)  # where the config's path finds it
    words = ("training.max_steps=4", "training.eval_every=2", "training.report_every=1", "mesh.data=2")
    losses = []
    for factory in ("Small", "Other"):
        # Something is frozen, so that the two parts are put together again.
        config = composed(*SMALL, *words, f"workload.factory=tests.training.small.{factory}", "freezing.never=[.*b]")
        run = new_run()
        train(config, run)
        losses.append(run.reported("train/loss"))
    assert losses[0] == losses[1]
    assert list(CheckedWorkload(Other, config).shapes) == paths


def test_paths_of_a_tree_name_its_leaves() -> None:
    tree = {"a": [Variable(1), {"b": 2}], "c/d": Module(3, 4), "value": 5}
    assert dict(trees.named_leaves(tree)) == {"a/0": 1, "a/1/b": 2, "c/d/w": 3, "c/d/b": 4, "value": 5}


def test_the_example_in_nnx_learns_or_says_what_is_missing(new_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """flax is an extra of its own: where it is not installed, the error names it."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    words = ("training.max_steps=60", "training.eval_every=60", "training.checkpoints.keep_best=0", "mesh.data=1")
    where = f"hydra.searchpath=[file://{EXAMPLE / 'conf'}]"
    config = composed(where, "workload=digits_nnx", *words, "runtime.compilation_cache=null")
    if find_spec("flax") is None:
        with pytest.raises(UserError, match=r"digits_nnx\.DigitsNnx cannot be imported: No module named 'flax'"):
            train(config, new_run())
    else:
        assert train(config, new_run()).metrics["val/accuracy"] > 0.8

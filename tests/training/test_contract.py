"""What a workload may leave out, and what is refused before a first step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import small
from tests.training.harness import TOY, composed
from tests.training.small import Small
from trialfleet.config import Config
from trialfleet.errors import UserError
from trialfleet.training import check, contract, describe, train, trees
from trialfleet.training.setup import Setup, find_factory
from trialfleet.training.workload import Loss, Summary

SEARCH = TOY[0]


def composed_small(*overrides: str) -> Config:
    return composed(SEARCH, "workload=small", *overrides)


@pytest.fixture
def with_methods(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The small workload with other methods, as a class of its own: programs are kept by class."""

    def make(**methods: Any) -> Config:
        monkeypatch.setattr(small, "Faulty", type("Faulty", (Small,), methods), raising=False)
        return composed_small("workload.factory=tests.training.small.Faulty")

    return make


# ---------------------------------------------------------------- defaults


def test_what_is_left_out_has_a_default(new_run):
    run = new_run()
    outcome = train(composed_small("optimizer.learning_rate=0.1", "training.max_steps=40"), run)
    losses = run.reported("val/loss")
    assert outcome.metrics["val/loss"] < 0.1 * losses[4]
    assert run.reported("train/grad_norm/all") == run.reported("train/grad_norm")


def test_all_examples_are_evaluated_once_and_padding_is_not_counted(with_methods, new_run):
    seen = []

    def summarize(self, rows, split):
        seen.append((sorted(rows["id"]), set(rows["weight"])))
        return {"loss": float(rows["loss"].mean())}

    train(with_methods(summarize=summarize), new_run())  # 40 examples, 16 a batch
    assert seen == [(list(range(40)), {1.0})] * 2


def test_a_mean_is_weighted_as_the_examples_are():
    rows = {"id": np.arange(2), "weight": np.asarray([1.0, 3.0]), "loss": np.asarray([0.0, 4.0])}
    assert Small(None).summarize(rows, "val") == {"loss": 3.0}


def test_matrices_alone_are_split_and_decayed():
    layout = Setup(composed_small("mesh.fsdp=2")).program.layout
    specs = {path: tuple(place.spec) for path, place in trees.flatten(layout.shardings.params).items()}
    assert specs == {"line/b": (None,), "line/w": ("fsdp", None)}
    assert {path: leaf.decays for path, leaf in layout.leaves.items()} == {"line/b": False, "line/w": True}


def test_a_default_mesh_changes_no_loss(new_run):
    curves = []
    for mesh in (["mesh.data=1"], ["mesh.data=2", "mesh.fsdp=4"]):
        run = new_run()
        train(composed_small(*mesh), run)
        curves.append(run.reported("train/loss"))
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)


def test_looking_ahead_traces_nothing_twice(with_methods, new_run):
    traced = {"loss": 0, "eval_step": 0}

    def counting(name):
        def method(self, *arguments):
            traced[name] += 1
            return getattr(Small, name)(self, *arguments)

        return method

    train(with_methods(loss=counting("loss"), eval_step=counting("eval_step")), new_run())
    assert traced == {"loss": 1, "eval_step": 1}


# ---------------------------------------------------------------- faults


def stacked(**leaves: Any) -> Any:
    """A `source` whose batches have other leaves."""

    def source(self, split):
        found = Small.source(self, split)
        found.collate = lambda examples, bucket: {"x": np.zeros((len(examples), 8)), **leaves}
        return found

    return source


FAULTS = {
    "parameter of other kind": (
        {"init": lambda self, key: {"line": {"w": [1.0]}}},
        r"Faulty.init: the parameter 'line/w/0' is a float, not an array",
    ),
    "one array": ({"init": lambda self, key: jnp.zeros(1)}, r"Faulty.init: returned float32 \(1,\) as parameters"),
    "no parameters": ({"init": lambda self, key: {}}, "Faulty.init: returned a dict as parameters"),
    "a function": (
        {"init": lambda self, key: {"w": jnp.zeros(1), "activation": jnp.tanh}},
        r"Faulty.init: the parameter 'activation' is a \w+, not an array\n.*eqx.partition.*nnx.state",
    ),
    "three values": ({"init": lambda self, key: ({}, (), 1)}, "Faulty.init: returned 3 values"),
    "whole numbers": (
        {"init": lambda self, key: {"n": jnp.zeros(3, jnp.int32)}},
        r"Faulty.init: the parameter 'n' is int32",
    ),
    "a path twice": (
        {"init": lambda self, key: {"a/b": jnp.zeros(3), "a": {"b": jnp.zeros(3)}}},
        "Faulty.init: the parameter 'a/b' is below 'a/b', which is one, too",
    ),
    "a path in a path": (
        {"init": lambda self, key: {"a": jnp.zeros(3), "a/b": jnp.zeros(3)}},
        "Faulty.init: the parameter 'a/b' is below 'a', which is one, too",
    ),
    "a name of nothing": ({"init": lambda self, key: {"": jnp.zeros(3)}}, "Faulty.init: .*has an empty name in it"),
    "extra": (
        {"init": lambda self, key: (Small.init(self, key), {"mean": 0.0})},
        r"Faulty.init: extra\['mean'\] is a float, not an array",
    ),
    "unknown axis": (
        {"axes": lambda self: {"line": {"w": ("embd", None), "b": (None,)}}},
        "Faulty.axes: 'line/w' has an unknown logical axis 'embd'; did you mean 'embed'.*\n.*embed, mlp, heads",
    ),
    "axes of other length": (
        {"axes": lambda self: {"line": {"w": ("embed",), "b": (None,)}}},
        r"Faulty.axes: 'line/w' has the shape \(8, 1\), and its axes are \('embed',\)",
    ),
    "axes missing": ({"axes": lambda self: {"line": {"w": (None, None)}}}, "Faulty.axes: says nothing of line/b"),
    "axes of nothing": (
        {"axes": lambda self: {"line": {"w": (None, None), "b": (None,), "bb": (None,)}}},
        "Faulty.axes: 'line/bb' is no parameter of init; did you mean 'line/b'",
    ),
    "group": ({"group": lambda self, path: None}, r"Faulty.group\('line/b'\): returned None"),
    "no source": ({"source": lambda self, split: {}}, r"Faulty.source\('train'\): returned a dict, which has no epoch"),
    "leading sizes": ({"source": stacked(y=np.zeros((5, 1)))}, r"collate: of 1 examples it made .*y \(5, 1\)"),
    "words": ({"source": stacked(y=np.asarray(["a"]))}, "collate: 'y' is an array of <U1"),
    "weight": ({"source": stacked(weight=np.ones((1, 2)))}, r"collate: 'weight' has the shape \(1, 2\)"),
    "norms": ({"norms": lambda self, batch: 3}, "Faulty.norms: returned a int"),
    "loss of each example": (
        {"loss": lambda self, params, extra, batch, norms, key, hp: small.errors(params, batch)},
        r"Faulty.loss: returned float32 \(16,\)\n.*float32 scalar",
    ),
    "loss that is whole": (
        {"loss": lambda self, params, extra, batch, norms, key, hp: jnp.zeros((), jnp.int32)},
        "Faulty.loss: returned a int32 scalar",
    ),
    "no loss": ({"loss": lambda self, params, extra, batch, norms, key, hp: None}, "Faulty.loss: returned None"),
    "loss and dict": (
        {"loss": lambda self, params, extra, batch, norms, key, hp: (jnp.zeros(()), {})},
        r"Faulty.loss: returned \(a float32 scalar, a dict\)",
    ),
    "metric of a loss": (
        {"loss": lambda self, params, extra, batch, norms, key, hp: (jnp.zeros(()), Loss((), {"kl": jnp.zeros(())}))},
        "Faulty.loss: the metric 'train/kl' is not declared.*\n.*SmallConfig.METRICS, which has none of train/",
    ),
    "extra changes": (
        {"loss": lambda self, params, extra, batch, norms, key, hp: (jnp.zeros(()), Loss({"n": jnp.zeros(())}))},
        r"Faulty.loss: extra was \(\) and became \{'n': 'a float32 scalar'\}",
    ),
    "rows that are means": (
        {"eval_step": lambda self, params, extra, batch, key, hp: {"loss": jnp.zeros(())}},
        "Faulty.eval_step: 'loss' is a float32 scalar, and the batch has 16 examples",
    ),
    "rows of no mean": (
        {"eval_step": lambda self, params, extra, batch, key, hp: {"loss": batch["x"]}},
        r"Faulty.eval_step: 'loss' is float32 \(16, 8\), of which no mean",
    ),
    "undeclared metric": (
        {"eval_step": lambda self, params, extra, batch, key, hp: {"loss": batch["weight"], "acc": batch["weight"]}},
        "Faulty.eval_step: the metric 'val/acc' is not declared.*\n.*SmallConfig.METRICS, which has val/loss",
    ),
    "metric that never comes": (
        {"eval_step": lambda self, params, extra, batch, key, hp: {}},
        "Faulty.eval_step: SmallConfig.METRICS has 'val/loss', which never comes",
    ),
    "no rows": ({"eval_step": lambda self, *_: None}, "Faulty.eval_step: returned None"),
    "arguments": (
        {"loss": lambda self, params, batch, key: None},
        r"Faulty.loss\(self, params, batch, key\): the trainer calls it with \(params, extra, batch, norms, key, hp\)",
    ),
    "order of arguments": (
        {"eval_step": lambda self, params, batch, extra, key, hp: None},
        r"Faulty.eval_step\(self, params, batch, extra, .*calls it with \(params, extra, batch, key, hp\)",
    ),
    "no method": ({"group": "all"}, "Faulty.group: is a str"),
    "updates": ({"updates_per_batch": 0}, "Faulty.updates_per_batch: is 0"),
    "release order": (
        {"release_order": lambda self: ["stage1"]},
        "Faulty.release_order: there is no unit 'stage1'.*\n.*all",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_before_anything_is_computed(with_methods, new_run, fault):
    methods, message = FAULTS[fault]
    config, run = with_methods(**methods), new_run()
    if "release_order" in methods:
        config = composed_small("workload.factory=tests.training.small.Faulty", "freezing=scheduled")
    for command in (describe, check, lambda config: train(config, run)):
        with pytest.raises(UserError, match=message):
            command(config)
    assert run.lines == []


def test_a_name_of_a_metric_without_a_split_is_refused(monkeypatch):
    monkeypatch.setattr(small.SmallConfig, "METRICS", frozenset({"loss", "val/loss"}))
    with pytest.raises(UserError, match=r"SmallConfig.METRICS: 'loss' is not the name of a metric\n.*'val/loss'"):
        check(composed_small())


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ({"loss": 0.0, "los": 0.0}, "summarize: the metric 'val/los' is not declared; did you mean 'val/loss'"),
        ({}, "summarize: SmallConfig.METRICS has 'val/loss', which never comes"),
        ({"loss": np.zeros(3)}, r"summarize: the metric 'loss' is float64 \(3,\)"),
        ({"loss": "low"}, "summarize: the metric 'loss' is a str"),
        (Summary({"loss": 0.0}, {"a.txt": "text"}), "summarize: the file 'a.txt' is a str"),
        (0.5, "summarize: returned a float"),
    ],
)
def test_a_summary_that_cannot_be_used_is_refused_at_the_first_evaluation(with_methods, new_run, summary, message):
    with pytest.raises(UserError, match=f"Faulty.{message}"):
        train(with_methods(summarize=lambda self, rows, split: summary), new_run())


@pytest.mark.parametrize(
    ("prepared", "message"),
    [
        ({"x": np.zeros((1, 3))}, r"prepare: 'x' of its batch is float64 \(1, 3\)\n.*\(1, 16\)"),
        ([], "prepare: returned a list"),
        (None, "prepare: returned no batch, and nobody asked it to stop"),
        ({"x": np.zeros((1, 16, 8), np.float32)}, "prepare: returned a batch without 'weight'"),
    ],
)
def test_what_prepare_makes_is_checked_before_the_update(with_methods, new_run, prepared, message):
    run = new_run()
    with pytest.raises(UserError, match=message):
        train(with_methods(prepare=lambda self, *_: prepared), run)
    assert run.lines == []


def test_a_slice_of_published_weights_has_the_slices_shape(with_methods, new_run):
    with pytest.raises(UserError, match=r"Faulty.load\('line/b'\): returned an array \(3,\) for a slice \(1,\)"):
        train(with_methods(load=lambda self, path, index: np.zeros(3)), new_run())


def test_the_workloads_of_the_package_have_the_contracts_arguments():
    for path in ("asr.Asr", "mvfoul.Mvfoul", "grpo.Grpo", "grpo.GrpoBase"):
        module, _, name = path.partition(".")
        assert find_factory(f"trialfleet.workloads.{path}").__name__ == name, module


def test_a_check_is_no_part_of_a_program():
    config = composed_small()
    plain, checked = Small(config), contract.CheckedWorkload(Small, config)
    params, _ = checked.init(jax.random.key(0))
    batch = {"id": jnp.arange(4), "weight": jnp.ones(4), "x": jnp.ones((4, 8)), "y": jnp.ones((4, 1))}
    arguments = (params, (), batch, {"weight": jnp.float32(4)}, jax.random.key(0), {})
    programs = [jax.make_jaxpr(loss)(*arguments) for loss in (plain.loss, lambda *given: checked.loss(*given)[0])]
    assert str(programs[0]) == str(programs[1])

"""A checkpoint's model as transformers and peft have it: names, shapes, bits, and what a refusal leaves behind."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training.harness import composed
from tests.workloads.decoder.reference import GOLDEN, MODELS, adapter, config_of, said, weights_of
from tests.workloads.decoder.small import logits
from trialfleet.config import Config
from trialfleet.errors import UserError
from trialfleet.training import lora, trees
from trialfleet.training.checkpoints import CheckpointManager
from trialfleet.training.exporting import export
from trialfleet.training.publishing import Order
from trialfleet.training.setup import Setup

FAMILIES = list(MODELS)
RANK, ALPHA = 3, 12.0  # as golden/make.py says it to peft
ADAPTED = (f"model.lora_rank={RANK}", f"model.lora_alpha={ALPHA}", "mesh.data=1")


def saved(folder: Path, config: Config, flat: dict[str, np.ndarray], meta: dict[str, Any] | None = None) -> str:
    """A checkpoint of these parameters, and what it says of itself."""
    saves = CheckpointManager(folder, [], config.training.checkpoints)
    params = trees.unflatten({path: jnp.asarray(leaf) for path, leaf in flat.items()})
    saves.save(1, {"state": {"params": params}}, meta or {})
    saves.wait()
    return str(folder / "00000001")


def order(folder: Path, form: str = "merged", dtype: str = "float32", most: float = 1e9) -> Order:
    return Order(folder, form, dtype, most, None)


def arrays_in(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for path in sorted(folder.glob("*.safetensors")) for name, array in load_file(path).items()}


def base(family: str, tmp_path: Path) -> tuple[Config, str]:
    """A model whose weights are all trained, and a checkpoint in which they are twice the golden ones."""
    config = composed("workload=grpo_base", *MODELS[family], "model.lora_rank=null", "mesh.data=1")
    weights = weights_of(config_of(family))
    return config, saved(tmp_path / "checkpoints", config, {path: 2 * leaf for path, leaf in weights.items()})


def tuned(family: str, tmp_path: Path, *words: str) -> tuple[Config, str, dict[str, np.ndarray]]:
    """Adapters on the golden weights, that do something: the config, a checkpoint, and the adapters by path."""
    config, rng = config_of(family, *ADAPTED, *words), np.random.default_rng(3)
    shapes = trees.flatten(Setup(config).program.layout.shapes.params)
    flat = {path: rng.normal(size=leaf.shape).astype(np.float32) * 0.3 for path, leaf in shapes.items()}
    return config, saved(tmp_path / "checkpoints", config, flat), flat


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_written_bit_by_bit_under_the_published_names(family, tmp_path):
    config, checkpoint = base(family, tmp_path)
    assert export(config, checkpoint, order(tmp_path / "new" / "out", most=20e3)) > 1
    wanted, found = arrays_in(GOLDEN / family), arrays_in(tmp_path / "new" / "out")
    assert {name: array.shape for name, array in found.items()} == {n: array.shape for n, array in wanted.items()}
    for name, array in found.items():
        np.testing.assert_array_equal(array, 2 * wanted[name], err_msg=name)
    again = weights_of(composed("workload=grpo", *MODELS[family], f"model.weights={tmp_path / 'new' / 'out'}"))
    for path, leaf in weights_of(config_of(family)).items():
        np.testing.assert_array_equal(again[path], 2 * leaf, err_msg=path)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("family", FAMILIES)
def test_its_config_is_the_librarys(family, tmp_path):
    """All that its own config says, but for the words of rotary positions, which are older here, and all ends."""
    config, checkpoint, _ = tuned(family, tmp_path)
    export(config, checkpoint, order(tmp_path / "out", dtype="bfloat16"))
    own, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", GOLDEN / family))
    ends = list(dict.fromkeys([1, 5, *np.atleast_1d(theirs["eos_token_id"]).tolist()]))  # [1, 5]: as it was trained
    assert own["eos_token_id"] == ends
    same = [key for key in own if key in theirs and key != "eos_token_id"]
    assert len(same) > 15
    assert {key: own[key] for key in same} == {key: theirs[key] for key in same}
    assert own["torch_dtype"] == "bfloat16"
    rotary = theirs["rope_parameters"]
    everywhere = rotary.get("full_attention", rotary)
    assert own["rope_theta"] == everywhere["rope_theta"]
    if family == "gemma3":
        assert own["rope_local_base_freq"] == rotary["sliding_attention"]["rope_theta"]
        assert own["rope_scaling"] == {"rope_type": "linear", "factor": everywhere["factor"]}
    of_base = json.loads((GOLDEN / family / "generation_config.json").read_text())
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written == {**of_base, "eos_token_id": ends}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_pefts(family, tmp_path):
    config, checkpoint, _ = tuned(family, tmp_path)
    export(config, checkpoint, order(tmp_path / "out", "adapter"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    theirs = adapter(family)
    shapes = {name: list(array.shape) for name, array in arrays_in(tmp_path / "out").items()}
    assert shapes == theirs["arrays"]
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    settings["target_modules"] = sorted(settings["target_modules"])
    assert settings.pop("base_model_name_or_path") == str(GOLDEN / family)
    assert settings == {key: theirs["config"][key] for key in settings}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_its_adapters_added_says_what_both_say(family, tmp_path):
    config, checkpoint, adapters = tuned(family, tmp_path)
    for form in ("merged", "adapter"):
        export(config, checkpoint, order(tmp_path / form, form))
    parts, wanted = arrays_in(tmp_path / "adapter"), arrays_in(GOLDEN / family)
    merged = arrays_in(tmp_path / "merged")
    for name in {name.removeprefix("base_model.model.").rsplit(".", 2)[0] for name in parts}:  # what peft would do
        a, b = (parts[f"base_model.model.{name}.lora_{which}.weight"].astype(np.float64) for which in "AB")
        np.testing.assert_allclose(
            merged[f"{name}.weight"], wanted[f"{name}.weight"] + ALPHA / RANK * (b @ a), atol=2e-6, err_msg=name
        )
    tokens, _ = said(family)
    given = (jnp.asarray(tokens), jnp.ones(tokens.shape), {"model.lora_alpha": jnp.asarray(ALPHA)})
    both = trees.unflatten({**weights_of(config), **adapters})
    alone: Any = trees.unflatten(
        weights_of(composed("workload=grpo", *MODELS[family], f"model.weights={tmp_path / 'merged'}"))
    )
    one, other, bare = (
        logits(config.model, params, *given) for params in (both, alone, trees.unflatten(weights_of(config)))
    )
    np.testing.assert_allclose(one, other, atol=5e-5)
    assert np.abs(one - bare).max() > 0.1


def test_only_adapted_matrices_have_adapters(tmp_path):
    config, checkpoint, flat = tuned("gemma3", tmp_path, "model.lora_module_path=.*kv_einsum")
    export(config, checkpoint, order(tmp_path / "out", "adapter"))
    found = arrays_in(tmp_path / "out")
    assert {name.split(".")[6] for name in found} == {"k_proj", "v_proj"}
    both = [found[f"base_model.model.model.layers.2.self_attn.{one}_proj.lora_A.weight"] for one in "kv"]
    np.testing.assert_array_equal(*both)
    np.testing.assert_array_equal(both[0], flat[f"layers/attn/kv_einsum{lora.A}"][2].T)
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["k_proj", "v_proj"]


@pytest.mark.parametrize(
    ("family", "words", "form", "message"),
    [
        ("llama", ["model.global_every=2", "model.window=4"], "merged", r"model\.global_every: 2 has no place"),
        ("llama", ["model.query_scale=4"], "merged", r"model\.query_scale: 4 has no place"),
        ("gemma3", ["model.window=null"], "merged", r"model\.window: null has no place"),
    ],
)
def test_what_no_published_model_has_is_refused(family, words, form, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(config_of(family, *ADAPTED, *words), "nowhere", order(tmp_path / "out", form))


def test_a_refusal_or_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    config, checkpoint = base("llama", tmp_path)
    (tmp_path / "there").mkdir()
    for wrong, given, message in (
        (config, order(tmp_path / "there"), "is there already"),
        (config, order(tmp_path / "out", "adapter"), "form=adapter: the model has no adapters"),
        (composed("workload=asr"), order(tmp_path / "out"), "workload=asr: its model has no published form"),
    ):
        with pytest.raises(UserError, match=message):
            export(wrong, checkpoint, given)
    monkeypatch.setattr("trialfleet.training.publishing.os.fsync", lambda number: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(config, checkpoint, order(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "there"]


@pytest.mark.parametrize(
    ("name", "why"), [("file/out", "Not a directory"), ("link", "exists"), ("n" * 300, "too long")]
)
def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_read(name, why, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    config = composed("workload=grpo_base", *MODELS["llama"], "model.lora_rank=null", "mesh.data=1")
    with pytest.raises(UserError, match=rf"to: .* cannot be written: .*{why}"):
        export(config, "nowhere", order(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_a_checkpoint_that_is_not_there_leaves_no_folder_behind(tmp_path):
    config = composed("workload=grpo_base", *MODELS["llama"], "model.lora_rank=null", "mesh.data=1")
    with pytest.raises(UserError, match=r"no whole checkpoint: there is no such folder"):
        export(config, "nowhere", order(tmp_path / "new" / "er" / "out"))
    assert not list(tmp_path.iterdir())

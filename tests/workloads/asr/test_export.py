"""A checkpoint of a model of speech to text, written as others read its parts, and begun from again."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training.harness import RecordingRun
from tests.workloads.asr import speech_files
from tests.workloads.asr.test_encoder import GOLDEN, SIZES
from tests.workloads.asr.test_transcriber import config
from tests.workloads.decoder.reference import GOLDEN as DECODERS
from tests.workloads.decoder.reference import MODELS
from tests.workloads.decoder.test_export import saved
from trialfleet.config import signature
from trialfleet.errors import UserError
from trialfleet.training import evaluate, restore, trees
from trialfleet.training.exporting import export
from trialfleet.training.publishing import Order
from trialfleet.training.setup import Setup

OWN = tuple(
    word.replace("model.", "model.decoder.").replace("model=", "model@model.decoder=")
    for word in MODELS["llama"]
    if word.startswith("model.")
)
PUBLISHED = (
    *OWN,
    *(f"model.encoder.{key}={value}" for key, value in SIZES.items()),
    f"model.encoder.weights={GOLDEN / 'whisper'}",
    f"model.decoder.weights={DECODERS / 'llama'}",
    "model.decoder.lora_rank=2",
    "transcription.eos_tokens=[5]",
)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> str:
    return speech_files.write(tmp_path_factory.mktemp("speech"), 40)


def trained(speech: str, folder: Path, *words: str) -> tuple[Any, str, dict[str, np.ndarray]]:
    """A config, a checkpoint of it, and what is in that."""
    found, rng = config(speech, *PUBLISHED, *words), np.random.default_rng(3)
    shapes = trees.flatten(Setup(found).program.layout.shapes.params)
    flat = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    of_model = {key: value for key, value in signature(found).items() if key.startswith("model.")}
    return found, saved(folder / "checkpoints", found, flat, {"signature": of_model}), flat


def test_the_encoder_is_bit_for_bit_the_published_one_and_the_parts_are_read_again(speech, tmp_path):
    own, checkpoint, flat = trained(speech, tmp_path)
    assert export(own, checkpoint, Order(tmp_path / "out", "merged", "float32", 1e9, None)) == 3
    there, wanted = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "out" / "encoder", GOLDEN / "whisper")
    )
    assert there.keys() == wanted.keys()
    for name, array in wanted.items():
        got = there[name][: len(array)] if name.endswith("embed_positions.weight") else there[name]
        np.testing.assert_allclose(got, array, atol=1e-6 if name.endswith("embed_positions.weight") else 0, rtol=0)
    assert json.loads((tmp_path / "out" / "encoder" / "config.json").read_text())["d_model"] == SIZES["width"]
    projector = load_file(tmp_path / "out" / "projector.safetensors")
    assert projector.keys() == {path.removeprefix("projector/") for path in flat if path.startswith("projector/")}
    for name, array in projector.items():
        np.testing.assert_array_equal(array, flat[f"projector/{name}"])
    again = Setup(
        config(
            speech,
            *PUBLISHED,
            f"model.encoder.weights={tmp_path / 'out' / 'encoder'}",
            f"model.decoder.weights={tmp_path / 'out' / 'decoder'}",
        )
    ).workload
    bias = again.load("encoder/conv1/b", (slice(None),))
    np.testing.assert_array_equal(bias, wanted["model.encoder.conv1.bias"])
    assert again.load("decoder/final_norm", (slice(None),)) is not None


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_a_projector_of_another_kernel_size_is_refused_by_its_key(speech, tmp_path, form):
    words = ("model.projector.dropout=0.3", "training.checkpoints.verify=false")
    _, checkpoint, _ = trained(speech, tmp_path, *words, "model.projector.kernel_size=3")
    other = config(speech, *PUBLISHED, *words, "model.projector.kernel_size=5")
    said = r"model\.projector\.kernel_size was 3 and is 5\)"
    with pytest.raises(UserError, match=rf"projector/up are not there .*{said}"):
        export(other, checkpoint, Order(tmp_path / "out", form, "float32", 1e9, None))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=rf"projector/up are not there .*{said}"):
        evaluate(other, RecordingRun(tmp_path / "judged"), checkpoint)


@pytest.mark.parametrize("trains", [True, False])
def test_a_training_that_begins_from_another_kernel_size_is_told_of_its_key(speech, tmp_path, caplog, trains):
    _, checkpoint, _ = trained(speech, tmp_path, "model.projector.kernel_size=3")
    setup = Setup(
        config(speech, *PUBLISHED, "model.projector.kernel_size=1", f"freezing={'none' if trains else 'asr_adapters'}")
    )
    state, frozen = setup.program.init(setup.inputs.hp, setup.inputs.seed)
    said = r"\(model\.projector\.kernel_size was 3 and is 1\)"
    if trains:  # it learns anew
        restore.with_parameters_of(checkpoint, setup, state, frozen)
        assert re.search(f"other shape, so as drawn or published: projector/up {said}", caplog.text)
    else:
        with pytest.raises(
            UserError, match=rf"training\.init_from: projector/up would be drawn and never trained.*{said}"
        ):
            restore.with_parameters_of(checkpoint, setup, state, frozen)


def test_adapters_of_another_rank_begin_anew_and_that_is_told(speech, tmp_path, caplog):
    _, checkpoint, _ = trained(speech, tmp_path)
    setup = Setup(config(speech, *PUBLISHED, "model.decoder.lora_rank=4"))
    state, frozen = setup.program.init(setup.inputs.hp, setup.inputs.seed)
    restore.with_parameters_of(checkpoint, setup, state, frozen)
    assert re.search(r"other shape, .*lora_a.* \(model\.decoder\.lora_rank was 2 and is 4\)", caplog.text)


def test_an_adapter_comes_with_the_projector_alone(speech, tmp_path):
    own, checkpoint, _ = trained(speech, tmp_path)
    assert export(own, checkpoint, Order(tmp_path / "out", "adapter", "float32", 1e9, None)) == 2
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert names == ["decoder/adapter_config.json", "decoder/adapter_model.safetensors", "projector.safetensors"]
    settings = json.loads((tmp_path / "out" / "decoder" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(DECODERS / "llama")


def test_a_decoder_without_adapters_is_refused_by_its_key(speech, tmp_path):
    own = config(speech, *PUBLISHED, "model.decoder.lora_rank=null")
    with pytest.raises(UserError, match=r"no adapters \(model\.decoder\.lora_rank is null\)"):
        export(own, "nowhere", Order(tmp_path / "out", "adapter", "float32", 1e9, None))

"""Speech to text by a decoder: which recordings are used, their batches, and a training that learns."""

import contextlib
import itertools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training.harness import RecordingRun, after, composed
from tests.workloads.asr import speech_files
from tests.workloads.decoder.reference import GOLDEN as DECODERS
from tests.workloads.decoder.reference import MODELS
from trialfleet.config import hyperparameters, signature
from trialfleet.errors import UserError
from trialfleet.training import restore, train, trees
from trialfleet.training.checkpoints import Saved
from trialfleet.training.goodput import compilations
from trialfleet.training.setup import Setup
from trialfleet.trial.run import Preempted, Stop
from trialfleet.workloads.asr import Transcriber, speech, spelling
from trialfleet.workloads.asr.utterances import Utterances
from trialfleet.workloads.decoder import PAD, transformer

SMALL = (
    "workload=asr_decoder",
    "model.encoder.bands=20",
    "model.encoder.width=16",
    "model.encoder.hidden=16",
    "model.encoder.heads=2",
    "model.projector.hidden=16",
    "model.decoder.width=16",
    "model.decoder.hidden=16",
    "model.decoder.heads=2",
    "model.decoder.kv_heads=1",
    "model.decoder.head_dim=8",
    "dataset.buckets=[0.4,1.0]",
    "dataset.max_audio_seconds=1.0",
    "dataset.max_text_tokens=23",
    "transcription.max_tokens=24",
    "training.global_batch=4",
    "training.eval_batch=4",
    "mesh.data=1",
    "runtime.compilation_cache=null",
)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> str:
    return speech_files.write(tmp_path_factory.mktemp("speech"), 40)


def config(recordings: str, *overrides: str) -> Any:
    return composed(*SMALL, f"dataset.train=[{recordings}]", *overrides)


def source(recordings: str, split: str = "train", *overrides: str) -> Utterances:
    found = Transcriber(config(recordings, *overrides)).source(split)
    assert isinstance(found, Utterances)
    return found


def rows_of(utterances: Utterances, epoch: int = 0) -> list[int]:
    return [row for plan in utterances.epoch(0, epoch) for row in plan.rows]


def test_texts_that_are_held_out_are_not_trained_on(recordings):
    parts = {split: source(recordings, split, "dataset.held_out=0.25") for split in ("train", "val", "test")}
    texts = {split: {one.text(row) for row in rows_of(one)} for split, one in parts.items()}
    assert not texts["train"] & (texts["val"] | texts["test"])
    assert all(texts.values())


def test_what_is_too_long_or_unreadable_is_left_out_and_counted(recordings, tmp_path, caplog):
    more = ("dataset.held_out=0", f"dataset.val=[{recordings}]", f"dataset.test=[{recordings}]")
    every = source(recordings, "train", *more)
    assert every.dropped == 0
    short = source(recordings, "train", *more, "dataset.max_audio_seconds=0.3")
    wordy = source(recordings, "train", *more, "dataset.max_text_words=1")
    assert short.dropped == wordy.dropped == sum(len(every.text(row).split()) > 1 for row in range(40))
    broken = speech_files.write(tmp_path, 40)
    (tmp_path / "7.wav").write_bytes(b"no audio")
    few = (f"dataset.val=[{broken}]", f"dataset.test=[{broken}]", "dataset.held_out=0")
    assert source(broken, "train", *few, "dataset.max_damaged=0.1").dropped == 1
    assert "1 files cannot be read and are left out" in caplog.text
    assert "7.wav" in caplog.text
    with pytest.raises(UserError, match=r"dataset.train: 1 of 40 files cannot be read; the first: .*7.wav"):
        source(broken, "train", *few)


def test_a_file_that_breaks_later_weighs_nothing(tmp_path, caplog):
    own = source(speech_files.write(tmp_path, 40))
    row = rows_of(own)[0]
    Path(own.path(row)).write_bytes(b"gone")
    batch = own.collate([own.example(row, np.random.default_rng(0))], 1)
    assert batch["weight"].tolist() == [0]
    assert own.path(row) in caplog.text


def test_batches_have_the_length_of_their_bucket_with_silence_behind(recordings):
    own = source(recordings, "train", "dataset.time_masks=0", "dataset.band_masks=0")
    for plan in own.epoch(0, 0):
        batch = own.collate([own.example(row, np.random.default_rng(0)) for row in plan.rows], plan.bucket)
        assert batch["features"].shape == (4, (42, 102)[plan.bucket], 20)
        assert (batch["frames"] <= (40, 100)[plan.bucket]).all()
        assert plan.bucket == 0 or (batch["frames"] > 40).all()
        for index, frames in enumerate(batch["frames"]):
            heard = batch["features"][index]
            assert np.all(heard[frames:] == heard[:frames].max() - 2)
        assert (batch["tokens"] != PAD).sum(1).min() > 1
    assert {tuple(plan.rows) for plan in own.epoch(0, 0)} != {tuple(plan.rows) for plan in own.epoch(0, 1)}


def test_recordings_are_heard_at_each_speed_at_which_they_fit_their_bucket(recordings, tmp_path):
    """Words of .2 s in buckets of .4 and 1 s: at half the speed one fills the first, two go to the second."""
    plain = ("dataset.time_masks=0", "dataset.band_masks=0", f"dataset.disk_cache={tmp_path}")
    usual, several = (source(recordings, "train", *plain, *more) for more in ([], ["dataset.speeds=[0.5,1.0]"]))
    rows, rng = rows_of(usual), np.random.default_rng(0)
    for row in rows:
        heard = len(usual.example(row, rng)["features"])
        lengths = {len(several.example(row, rng)["features"]) for _ in range(12)}
        assert lengths == ({heard, 2 * heard} if 2 * heard <= 100 else {heard})
    for plan in several.epoch(0, 0):
        batch = several.collate([several.example(row, rng) for row in plan.rows], plan.bucket)
        assert (batch["frames"] <= (40, 100)[plan.bucket]).all()
    judged = source(recordings, "val", *plain, "dataset.speeds=[0.5]")
    heard = [judged.example(row, rng)["features"] for row in rows_of(judged)]
    expected = [source(recordings, "val", *plain).example(row, rng)["features"] for row in rows_of(judged)]
    assert all(map(np.array_equal, heard, expected))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset.train=[/nowhere]"], "dataset.train: there is no folder /nowhere"),
        (["dataset.max_audio_seconds=0.01"], "dataset.train: of .* recordings none is left"),
        (["dataset.buckets=[0.5]"], "dataset.buckets: the longest is 0.5 s, and dataset.max_audio_seconds 1.0"),
        (["dataset.buckets=[1.0,0.5]"], "dataset.buckets: must rise"),
        (["dataset.held_out=0"], "dataset.held_out: 0, and dataset.val or dataset.test has no files"),
        (["model.encoder.heads=3"], "model.encoder.width: 16 must be a multiple of heads=3"),
        (["model.projector.kernel_size=2"], "model.projector.kernel_size: must be odd, got 2"),
        (["model.decoder.head_dim=7"], "model.decoder.head_dim: must be even"),
        (["transcription.eos_tokens=[600]"], "transcription.eos_tokens: there are tokens beyond"),
        (
            ["transcription.eos_tokens=[1]"],
            r"transcription.eos_tokens: \[1\] do not have 106, with which",
        ),
        (["transcription.min_tokens=24"], "transcription.min_tokens: 24, and a text has 24 at most"),
        (["transcription.beams=2", "transcription.top_k=5"], "transcription.top_k: 5, and with .*beams=2 nothing is"),
        (["model.decoder.tokenizer=null"], "model.decoder.tokenizer: null, and model.decoder.weights, too"),
        (["model.decoder.tokenizer=/nowhere"], "model.decoder.tokenizer: there is no /nowhere"),
        (["model.decoder.vocab_size=500"], "model.decoder.tokenizer: .* but model.decoder.vocab_size is 500"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(recordings, words, message):
    with pytest.raises(UserError, match=message):
        source(recordings, "train", *words)


def test_an_encoder_that_knows_nothing_is_told(recordings, caplog):
    Transcriber(config(recordings)).source("train")
    assert "model.encoder.weights: null, so speech is heard by weights that are drawn" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [1, 3])
def test_what_is_behind_a_recording_changes_nothing(recordings, kernel):
    """The same speech in a longer bucket: what the decoder reads of it, and the loss, stay."""
    sees = f"model.projector.kernel_size={kernel}"
    own = config(recordings, "dataset.time_masks=0", "dataset.band_masks=0", sees)
    workload = Transcriber(own)
    utterances = workload.source("train")
    assert isinstance(utterances, Utterances)
    params, _ = workload.init(jax.random.key(0))
    rows = [row for plan in utterances.epoch(0, 0) if plan.bucket == 0 for row in plan.rows][:2]
    examples = [utterances.example(row, np.random.default_rng(0)) for row in rows]
    hp = {"model.decoder.lora_alpha": jnp.asarray(1.0)}
    logs, spelled = [], []
    for bucket in (0, 1):
        batch = {name: jnp.asarray(leaf) for name, leaf in utterances.collate(examples, bucket).items()}
        told = speech.told(own.model, params, batch["features"], batch["frames"])
        # A mark, a place for two of the encoder's frames, of which each is two of the spectrogram's, and a mark.
        assert told.read.shape[1] == told.there.shape[1] == 2 + -(-batch["features"].shape[1] // 4)
        logs.append(workload._logs_after(told, params["decoder"], batch["tokens"], hp))
        spelled.append(spelling.nats(told, params["decoder"], batch["tokens"])[0])
    np.testing.assert_allclose(logs[0], logs[1], atol=1e-4, rtol=0)
    np.testing.assert_allclose(*spelled, rtol=1e-5)
    assert np.all(np.asarray(logs[0])[np.asarray(batch["tokens"]) == PAD] == 0)
    heard = config(recordings, "model.encoder.hears_silence=true", sees)
    silent = speech.told(heard.model, params, batch["features"], batch["frames"])
    assert np.abs(silent.frames - told.frames).max() > 1e-3
    assert np.array_equal(silent.there, told.there)


GOLDEN = Path(__file__).parent / "golden" / "whisper"
OF_GOLDEN = (
    "model.encoder.bands=10",
    "model.encoder.width=24",
    "model.encoder.heads=3",
    "model.encoder.hidden=40",
    f"model.encoder.weights={GOLDEN}",
    *(word.replace("model.", "model.decoder.") for word in MODELS["llama"] if re.match(r"model\.\w+=", word)),
    f"model.decoder.weights={DECODERS / 'llama'}",
    "model.decoder.lora_rank=2",
    "transcription.eos_tokens=[1,5]",
)


def test_a_training_begins_from_both_published_weights(recordings):
    """And trains neither: the encoder never is, nor what a decoder's adapters are beside."""
    workload = Transcriber(config(recordings, *OF_GOLDEN))
    shapes = trees.flatten(jax.eval_shape(lambda: workload.init(jax.random.key(0))[0]))
    loaded = {path: workload.load(path, (slice(None),) * leaf.ndim) for path, leaf in shapes.items()}
    there = {path for path, leaf in loaded.items() if leaf is not None}
    assert {path for path in shapes if path not in there} == {
        path for path in shapes if path.startswith("projector/") or "_lora_" in path
    }
    assert all(np.shape(loaded[path]) == shapes[path].shape for path in there)
    conv = load_file(GOLDEN / "model.safetensors")["model.encoder.conv1.weight"]
    np.testing.assert_array_equal(loaded["encoder/conv1/w"], conv.transpose(2, 1, 0))
    assert not any(workload.trained(path) for path in there)
    assert all(workload.trained(path) for path in set(shapes) - there)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.decoder.width=32"], "model.decoder.weights: model.embed_tokens.weight has the shape"),
        (["model.decoder.norm_epsilon=1e-3"], "model.decoder.weights: .*model.decoder.norm_epsilon is 0.001"),
        (["model.encoder.layers=1"], "model.encoder.weights: there are more than 1 layers"),
        ([f"model.decoder.weights={GOLDEN}"], "model.decoder.weights: there is no array model.embed_tokens.weight"),
        ([f"model.encoder.weights={DECODERS / 'llama'}"], "model.encoder.weights: there is no array encoder.conv1"),
    ],
)
def test_weights_of_another_model_are_refused_by_their_key(recordings, words, message):
    with pytest.raises(UserError, match=message):
        Transcriber(config(recordings, *OF_GOLDEN, *words)).load("encoder/conv1/w", (slice(None),) * 3)


ADAPTED = (
    "model.decoder.lora_rank=2",
    "training.report_every=1",
    "training.max_steps=null",
    "training.eval_every=1000",
)


@pytest.mark.slow
def test_stages_train_the_projector_then_the_adapters_then_both(recordings, tmp_path):
    run = RecordingRun(tmp_path)
    rates = ("optimizer.learning_rate=1e-3", "optimizer.groups.decoder.learning_rate=4e-3", "scheduler=constant")
    own = config(
        recordings, *rates, *ADAPTED, "freezing=asr_stages", "training.max_epochs=3", "scheduler.warmup_ratio=0"
    )
    train(own, run)
    epochs = run.reported("train/epoch")
    moved = {part: run.reported(f"train/update_ratio/{part}") for part in ("projector", "decoder")}
    for step, epoch in epochs.items():
        assert (moved["projector"][step] > 0) == (epoch <= 1 or epoch > 2), step
        assert (moved["decoder"][step] > 0) == (epoch > 1), step
    assert max(epochs.values()) == 3
    assert run.lines[-2][1]["train/learning_rate/decoder"] == pytest.approx(4e-3)
    assert run.lines[-2][1]["train/learning_rate/projector"] == pytest.approx(1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("member", "part"), [("asr_projector", "projector"), ("asr_adapters", "decoder")])
def test_one_part_alone_is_trained(recordings, member, part):
    layout = Setup(config(recordings, *ADAPTED, f"freezing={member}", "training.max_epochs=1")).program.layout
    assert {path.partition("/")[0] for path in layout.leaves} == {part}


@pytest.mark.slow
@pytest.mark.parametrize("key", ["model.decoder.lora_dropout", "model.projector.dropout"])
def test_dropout_is_an_input_and_a_resumed_training_drops_the_same(recordings, tmp_path, key):
    def trained(name: str, *words: str, stop: Any = None, earlier: Sequence[Path] = ()) -> RecordingRun:
        run = RecordingRun(tmp_path / name, earlier, stop)
        own = config(recordings, *ADAPTED, "dataset.buckets=[1.0]", "training.max_epochs=1", *words)
        with contextlib.suppress(Preempted):
            train(own, run)
        return run

    whole = trained("whole", f"{key}=0.3")
    before = compilations.compiled
    other = trained("other", f"{key}=0.6")
    assert compilations.compiled == before
    assert other.reported("train/loss") != whole.reported("train/loss")
    cut = trained("cut", f"{key}=0.3", stop=after(3, Stop.PREEMPT))
    rest = trained("rest", f"{key}=0.3", earlier=[cut.checkpoints])
    assert 0 < rest.notes["resumed_from"] < max(whole.reported("train/loss"))
    both = {**cut.reported("train/loss"), **rest.reported("train/loss")}
    assert both == whole.reported("train/loss")
    assert rest.reported("val/loss") == whole.reported("val/loss")


def test_what_a_resumed_training_has_of_another_is_told_by_its_key(tmp_path, caplog):
    """Files may have moved, so that other ones are no error; frozen weights that were drawn are those of the seed."""
    before, now = config("before.jsonl"), config("now.jsonl")
    meta = {"signature": signature(before), "frozen": "1", "data": {"dataset.train": ["before.jsonl"]}}
    saved = Saved(2, tmp_path, {**meta, "batch": {}, "fingerprint": {}})
    restore._refuse_another(now, saved, "1")
    restore._say_of_what(saved, before)
    assert not caplog.records
    restore._say_of_what(saved, now)
    assert "training.resume: dataset.train was ['before.jsonl'] and is ['now.jsonl']" in caplog.text
    with pytest.raises(UserError, match=r"(?s)the frozen weights are not those .* what decides them \(seed\)"):
        restore._refuse_another(now, saved, "2")


def test_without_dropout_none_of_it_is_in_the_program(recordings):
    """Nor is it in an evaluation."""

    def draws(rate: float, key: jax.Array | None) -> bool:
        own = config(recordings, "model.decoder.lora_rank=2", f"model.decoder.lora_dropout={rate}").model.decoder
        params = jax.eval_shape(lambda: transformer.init(own, jax.random.key(0)))
        hp = {"model.lora_alpha": 1.0, "model.lora_dropout": jnp.asarray(rate)}
        tokens = jnp.ones((2, 4), jnp.int32)
        read = jax.make_jaxpr(lambda params: transformer.stream(own, params, tokens, jnp.ones((2, 4)), hp, key=key))
        return "random_bits" in str(read(params))

    assert draws(0.1, jax.random.key(0))
    assert not draws(0.1, None)
    assert not draws(0.0, jax.random.key(0))


@pytest.mark.slow
def test_each_bucket_compiles_a_step_and_an_evaluation_and_nothing_else_does(recordings, tmp_path):
    def compiled(*words: str) -> int:
        before = compilations.compiled
        own = (f"dataset.val=[{recordings}]", f"dataset.test=[{recordings}]", "training.max_epochs=1", *words)
        run = RecordingRun(tmp_path / words[0])
        train(config(recordings, *ADAPTED, "training.checkpoints.at_end=false", *own), run)
        return compilations.compiled - before

    compiled("dataset.buckets=[1.0]")  # and what every first training of a process does
    assert compiled("dataset.buckets=[0.3,1.3]") == 1 + 2 * 2  # the first state, and for each bucket both
    assert compiled("dataset.buckets=[0.3,1.3]") == 0


@pytest.mark.slow
def test_texts_keep_to_their_rules_with_beams_and_without(recordings):
    """Through the workload, by what an evaluation calls."""
    own = ("transcription.max_tokens=6", "transcription.repetition_penalty=1.5", "transcription.no_repeat_ngram=2")
    texts = {}
    for beams in (1, 4):
        workload = Transcriber(config(recordings, f"transcription.beams={beams}", "transcription.min_tokens=2", *own))
        utterances = workload.source("val")
        plan = utterances.epoch(0, 0)[0]
        examples = [utterances.example(row, np.random.default_rng(0)) for row in plan.rows]
        batch = {name: jnp.asarray(leaf) for name, leaf in utterances.collate(examples, plan.bucket).items()}
        params, _ = workload.init(jax.random.key(0))
        hp = {key: jnp.asarray(value) for key, value in hyperparameters(workload.config).items()}
        rows = jax.jit(workload.eval_step)(params, (), batch, jax.random.key(1), hp)
        texts[beams] = np.asarray(rows["found"])
        assert texts[beams].shape == (len(plan.rows), 6)
        for text in texts[beams]:
            pairs = list(itertools.pairwise(text.tolist()))
            assert len(set(pairs)) == len(pairs) or PAD in text
            assert not set(text[:2].tolist()) & {1, 106}
    assert not np.array_equal(texts[1], texts[4])


def test_a_second_training_finds_the_spectrograms_of_the_first(tmp_path, monkeypatch):
    recordings = speech_files.write(tmp_path / "one", 40)
    keep = f"dataset.disk_cache={tmp_path / 'kept'}"
    first = source(recordings, "train", keep)
    row = rows_of(first)[0]
    heard = first.example(row, np.random.default_rng(0))["features"]
    shutil.move(tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr("trialfleet.workloads.asr.features.log_mel", None)
    second = source(str(tmp_path / "two" / "list.jsonl"), "train", keep)
    np.testing.assert_array_equal(second.example(row, np.random.default_rng(0))["features"], heard)
    Path(second.path(row)).unlink()
    third = source(str(tmp_path / "two" / "list.jsonl"), "train", keep, "dataset.max_damaged=0.1")
    assert third.dropped == 1


@pytest.mark.slow
def test_it_learns_what_the_tones_say(tmp_path):
    """Projector and decoder on an encoder that nobody trained: the loss of texts that it has not heard falls."""
    recordings = speech_files.write(tmp_path / "speech", 200, words=1)
    run = RecordingRun(tmp_path / "run")
    plain = ("dataset.time_masks=0", "dataset.band_masks=0", "dataset.held_out=0")  # a word is 20 frames
    more = ("training.max_steps=150", "training.eval_every=75", "optimizer.learning_rate=1e-2", *plain)
    own = f"[{recordings}]"
    outcome = train(config(recordings, *more, f"dataset.val={own}", f"dataset.test={own}"), run)
    assert outcome.metrics["val/wer"] < 0.3
    parts = [run.reported(f"val/{name}") for name in ("insertions", "deletions", "substitutions", "wer")]
    last = max(parts[3])
    assert sum(part[last] for part in parts[:3]) == pytest.approx(parts[3][last])
    shown = (run.artifacts / "val-samples.csv").read_text().splitlines()
    assert shown[0] == "recording,audio,said,read,errors,wrong"
    assert sum(path.suffix == ".flac" for path in run.artifacts.iterdir()) == min(20, len(shown) - 1)

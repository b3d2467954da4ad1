"""A small Whisper in the format of CTranslate2, written as it is published: the same arrays, sizes and tokenizer."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipelines import from_ctranslate2
from tests.workloads.asr.test_encoder import GOLDEN, SIZES, small
from trialfleet.errors import UserError
from trialfleet.training.published import PublishedWeights
from trialfleet.workloads.asr import ctranslate2, encoder, published

WIDTH, HIDDEN, LAYERS, VOCABULARY, PLACES = SIZES["width"], SIZES["hidden"], SIZES["layers"], 60, 16
DTYPES = {np.dtype(np.float32): 0, np.dtype(np.int8): 1, np.dtype(np.int16): 2, np.dtype(np.float16): 4}
ADDED = [{"content": "<|endoftext|>", "id": 58}, {"content": "<|startoftranscript|>", "id": 59}]


def there() -> dict[str, np.ndarray]:
    """The golden encoder by its names there, and a decoder of random numbers."""
    rng, golden = np.random.default_rng(0), load_file(GOLDEN / "whisper" / "model.safetensors")
    own = {name.removeprefix("model.encoder."): array for name, array in golden.items()}

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    found: dict[str, np.ndarray] = {"decoder/embeddings/weight": drawn(VOCABULARY, WIDTH)}
    for part in ("encoder", "decoder"):
        found[f"{part}/num_heads"] = np.asarray(SIZES["heads"], np.int16)
    found["encoder/position_encodings/encodings"] = encoder.positions(PLACES, WIDTH)
    found["decoder/position_encodings/encodings"] = drawn(PLACES, WIDTH)
    for name in ("conv1", "conv2"):
        found |= {f"encoder/{name}/{kind}": own[f"{name}.{kind}"] for kind in ("weight", "bias")}
    for layer in range(LAYERS):
        mine, other = f"layers.{layer}.", f"encoder/layer_{layer}/"
        parts = [own[f"{mine}self_attn.{name}_proj.weight"] for name in "qkv"]
        biases = [own[f"{mine}self_attn.q_proj.bias"], np.zeros(WIDTH), own[f"{mine}self_attn.v_proj.bias"]]
        found[f"{other}self_attention/linear_0/weight"] = np.concatenate(parts)
        found[f"{other}self_attention/linear_0/bias"] = np.concatenate(biases).astype(np.float32)
        for name, module in {
            "self_attention/linear_1": "self_attn.out_proj",
            "ffn/linear_0": "fc1",
            "ffn/linear_1": "fc2",
        }.items():
            found |= {f"{other}{name}/{kind}": own[f"{mine}{module}.{kind}"] for kind in ("weight", "bias")}
        for name, module in {
            "self_attention/layer_norm": "self_attn_layer_norm",
            "ffn/layer_norm": "final_layer_norm",
        }.items():
            found |= {
                f"{other}{name}/{kind}": own[f"{mine}{module}.{published}"]
                for kind, published in (("gamma", "weight"), ("beta", "bias"))
            }
        mine = f"decoder/layer_{layer}/"
        for name, rows in {
            "self_attention/linear_0": 3 * WIDTH,
            "self_attention/linear_1": WIDTH,
            "attention/linear_0": WIDTH,
            "attention/linear_1": 2 * WIDTH,
            "attention/linear_2": WIDTH,
            "ffn/linear_0": HIDDEN,
        }.items():
            found |= {f"{mine}{name}/weight": drawn(rows, WIDTH), f"{mine}{name}/bias": drawn(rows)}
        found |= {f"{mine}ffn/linear_1/weight": drawn(WIDTH, HIDDEN), f"{mine}ffn/linear_1/bias": drawn(WIDTH)}
        for name in ("self_attention", "attention", "ffn"):
            found |= {f"{mine}{name}/layer_norm/{kind}": drawn(WIDTH) for kind in ("gamma", "beta")}
    found |= {
        "encoder/layer_norm/gamma": own["layer_norm.weight"],
        "encoder/layer_norm/beta": own["layer_norm.bias"],
        **{f"decoder/layer_norm/{kind}": drawn(WIDTH) for kind in ("gamma", "beta")},
    }
    return found


def packed(arrays: dict[str, np.ndarray], version: int = 6, kind: str = "WhisperSpec") -> bytes:
    """A file with these arrays."""

    def text(said: str) -> bytes:
        return struct.pack("<H", len(said) + 1) + said.encode() + b"\0"

    found = [struct.pack("<I", version), text(kind), struct.pack("<II", 3, len(arrays))]
    for name, array in arrays.items():
        head = struct.pack(f"<B{array.ndim}IBI", array.ndim, *array.shape, DTYPES[array.dtype], array.nbytes)
        found += [text(name), head, array.tobytes()]
    return b"".join(found) + struct.pack("<I", 0)


def written(folder: Path, content: bytes, tokenizer: Any = None) -> Path:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer or {"added_tokens": ADDED}))
    path = folder / "model.bin"
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return written(tmp_path_factory.mktemp("whisper") / "there", packed(there()))


def test_the_folder_has_the_published_arrays(file, tmp_path):
    sizes = ctranslate2.write(tmp_path / "new" / "out", file, "float32")
    assert sizes == SIZES
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    got = load_file(tmp_path / "new" / "out" / "model.safetensors")
    for name, array in load_file(GOLDEN / "whisper" / "model.safetensors").items():
        close = 1e-6 if name.endswith("embed_positions.weight") else 0  # a table that the library calculates
        np.testing.assert_allclose(got[name], array, atol=close, rtol=0)
    there_too = there()
    keys, values = np.split(there_too["decoder/layer_1/attention/linear_1/weight"], 2)
    np.testing.assert_array_equal(got["model.decoder.layers.1.encoder_attn.k_proj.weight"], keys)
    np.testing.assert_array_equal(got["model.decoder.layers.1.encoder_attn.v_proj.weight"], values)
    assert not any(name.endswith("k_proj.bias") for name in got)
    decoder = {name for name in got if name.startswith("model.decoder.layers.0.")}
    assert len(decoder) == 2 * 7 + 4 + 6  # matrices and biases of both attentions and of the feed-forward, and norms
    reader = published.EncoderWeights(small(), PublishedWeights(tmp_path / "new" / "out", "key"), "key")
    assert reader.read("conv1/b", (slice(None),)).shape == (WIDTH,)


def test_beside_them_are_what_transformers_reads(file, tmp_path):
    ctranslate2.write(tmp_path / "out", file, "bfloat16")
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    wanted = {"d_model": 24, "encoder_layers": 2, "decoder_attention_heads": 3, "vocab_size": 60, "eos_token_id": 58}
    assert {key: said[key] for key in wanted} == wanted
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text())["added_tokens"] == ADDED


def test_half_precision_is_read(tmp_path):
    arrays = {name: array if array.ndim == 0 else array.astype(np.float16) for name, array in there().items()}
    path = written(tmp_path / "there", packed(arrays))
    got = ctranslate2.Content(path).array("encoder/conv1/weight")
    np.testing.assert_array_equal(got, arrays["encoder/conv1/weight"].astype(np.float32))


def _changed(**changes: np.ndarray | None) -> bytes:
    arrays = there()
    for name, array in changes.items():
        arrays.pop(name) if array is None else arrays.update({name: array})
    return packed(arrays)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"RIFF", "of version 6"),
        (packed(there())[:5000], "ends in the middle|no whole file"),
        (packed(there(), version=5), "begins with 5"),
        (packed(there(), kind="TransformerSpec"), "of the kind 'TransformerSpec'"),
        (_changed(**{"encoder/conv1/weight": np.ones((24, 10, 3), np.int8)}), "conv1/weight as int8"),
        (_changed(**{"encoder/conv2/bias": None}), "has no encoder/conv2/bias"),
        (_changed(**{"encoder/num_heads": np.ones(2, np.int16)}), "not as a whole number"),
        (_changed(**{"encoder/position_encodings/encodings": np.ones((16, 24), np.float32)}), "positions"),
    ],
)
def test_another_or_a_damaged_file_is_refused(content, said, tmp_path):
    path = written(tmp_path / "there", content)
    with pytest.raises(UserError, match=said):
        ctranslate2.write(tmp_path / "out", path, "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_tokenizer_of_another_kind_is_refused(tmp_path):
    path = written(tmp_path / "there", packed(there()), {"added_tokens": []})
    with pytest.raises(UserError, match=r"tokenizer\.json: is no tokenizer of a Whisper"):
        ctranslate2.write(tmp_path / "out", path, "float32")


def test_the_command_says_what_to_begin_from(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["from_ctranslate2", str(tmp_path / "out"), "--file", str(file)])
    from_ctranslate2.entry()
    assert f"model.encoder.weights={tmp_path / 'out'}; its sizes: model.encoder.bands=10" in capsys.readouterr().out
    with pytest.raises(UserError, match="is there already"):
        from_ctranslate2.entry()
    monkeypatch.setattr("sys.argv", ["from_ctranslate2", str(tmp_path / "new"), "--file", str(tmp_path / "none")])
    with pytest.raises(UserError, match="--file: there is no"):
        from_ctranslate2.entry()

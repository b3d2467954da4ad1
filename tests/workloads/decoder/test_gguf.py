"""The golden Gemma in the words of GGUF, written as it is published: the same arrays, and a tokenizer of its pieces."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.workloads.decoder.reference import GOLDEN, config_of, weights_of
from trialfleet.errors import UserError
from trialfleet.workloads.decoder import gguf
from trialfleet.workloads.decoder.gguf import Content
from trialfleet.workloads.decoder.tokenizer import Tokenizer, read

# Pieces with their kinds, as llama.cpp's converter says them: 1 a piece, 3 control, 4 a user's, 6 a byte.
PIECES = [("<pad>", 3), ("<eos>", 3), ("<bos>", 3), ("<unk>", 3), ("<start_of_turn>", 3), ("<end_of_turn>", 3)]
PIECES += [("\n", 4), ("  ", 4), ("<s>", 4), ("12", 1), ("▁1", 1), ("on", 1), ("one", 1), ("▁", 1)]
PIECES += [(letter, 1) for letter in dict.fromkeys("12345+=?usermodeln")]
BYTES = [(f"<0x{n:02X}>", 6) for n in range(256)]
MODEL = config_of("gemma3").model


def content(**metadata: Any) -> Content:
    """What a file of the golden model has, with other metadata where it is given; None leaves a key out."""
    arrays = {}
    for path in (GOLDEN / "gemma3").glob("*.safetensors"):
        for name, array in load_file(path).items():
            arrays[gguf.names(name)] = array + 1 if array.ndim == 1 else array
    unused = [(f"<unused{n}>", 3) for n in range(MODEL.vocab_size - len(PIECES))]
    tokens, kinds = zip(*PIECES, *unused, strict=True)
    said = {
        "general.architecture": "gemma3",
        "gemma3.embedding_length": 32,
        "gemma3.block_count": 5,
        "gemma3.feed_forward_length": 40,
        "gemma3.attention.head_count": 4,
        "gemma3.attention.head_count_kv": 2,
        "gemma3.attention.key_length": 8,
        "gemma3.attention.sliding_window": 5,
        "gemma3.attention.layer_norm_rms_epsilon": float(np.float32(1e-6)),
        "gemma3.rope.freq_base": 1e6,
        "gemma3.context_length": 64,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.scores": [-float(n) for n in range(len(tokens))],
        "tokenizer.ggml.token_type": list(kinds),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 3,
        **metadata,
    }
    known = {key: value for key, value in said.items() if value is not None}
    return Content(known, {name: array.shape for name, array in arrays.items()}, arrays.__getitem__)


def test_the_folder_has_the_published_model(tmp_path):
    gguf.write(tmp_path / "new" / "out", MODEL, content(), "float32")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    again, wanted = (weights_of(config_of("gemma3", *words)) for words in ([f"model.weights={tmp_path}/new/out"], []))
    assert again.keys() == wanted.keys()
    for path, leaf in wanted.items():
        np.testing.assert_allclose(again[path], leaf, atol=2e-7, err_msg=path)  # 1 was added and taken away
    said = json.loads((tmp_path / "new/out/config.json").read_text())
    assert (said["bos_token_id"], said["eos_token_id"], said["max_position_embeddings"]) == (2, [1, 5], 64)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("gguf") / "tokenizer.model"
    tokens, kinds = map(list, zip(*PIECES, ("<unused0>", 3), *BYTES, strict=True))
    special = {"bos": 2, "eos": 1, "padding": 0, "unknown": 3}
    path.write_bytes(gguf.sentencepiece_model(tokens, [-float(n) for n in range(len(tokens))], kinds, special))
    return read(str(path))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12+3=?", ["12", "+", "3", "=", "?"]),
        ("one 1", ["one", "▁1"]),  # the likelier piece first
        ("1  2", ["1", "  ", "2"]),
        ("1\n<s>é", ["1", "\n", "<s>", "<0xC3>", "<0xA9>"]),
        ("<start_of_turn>user\n", ["<start_of_turn>", "u", "s", "e", "r", "\n"]),
        ("<unused0>", ["<unused0>"]),
    ],
)
def test_its_tokenizer_has_the_pieces_of_the_file(tokenizer, text, wanted):
    known = [piece for piece, _ in [*PIECES, ("<unused0>", 3), *BYTES]]
    assert tokenizer.encode(text) == [known.index(piece) for piece in wanted]
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("<start_of_turn>", "")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "llama"}, "a model of the family 'llama'"),
        ({"tokenizer.ggml.model": "gpt2"}, "tokenizer is of the kind 'gpt2'"),
        ({"gemma3.embedding_length": 64}, "another model: model.width is 32, and there 64"),
        ({"gemma3.block_count": None}, "does not say gemma3.block_count"),
        ({"tokenizer.ggml.scores": [0.0]}, "80 tokens, 1 scores"),
        ({"tokenizer.ggml.bos_token_id": 80}, "token bos is not among its 80 tokens"),
    ],
)
def test_a_file_of_another_model_or_a_damaged_one_is_refused(tmp_path, metadata, message):
    with pytest.raises(UserError, match=message):
        gguf.write(tmp_path / "out", MODEL, content(**metadata), "float32")
    assert not list(tmp_path.iterdir())


def test_arrays_that_are_missing_or_foreign_are_named(tmp_path):
    whole = content()
    lacking = {name: shape for name, shape in whole.shapes.items() if name != "blk.1.ffn_up.weight"}
    for shapes, message in (
        (lacking, "the file has no blk.1.ffn_up.weight"),
        ({**whole.shapes, "output.weight": (80, 32)}, "the model has no output.weight"),
        ({**whole.shapes, "output_norm.weight": (31,)}, r"has output_norm.weight as \(31,\)"),
    ):
        with pytest.raises(UserError, match=message):
            gguf.write(tmp_path / "out", MODEL, whole._replace(shapes=shapes), "float32")

"""Texts as tokens and back, by a file of each format."""

from io import BytesIO
from pathlib import Path

import pytest
import sentencepiece

from trialfleet.errors import UserError
from trialfleet.workloads.decoder.tokenizer import Tokenizer, read

TINY = "pkg://trialfleet.workloads.decoder/tiny_tokenizer.json"
TEXTS = (
    "3 + 4 = 7",
    " a space before,  two within, one behind ",
    "\n\tlines\n\n",
    "⁶ bytes ↦ é",
    "<s>struck</s> out",
    "",
)
SAID = [f"user\nwhat is {n} + {2 * n}?\nmodel\nit is {3 * n}, <s>no</s>" for n in range(40)]


def trained(folder: Path, **words: object) -> str:
    """A SentencePiece model with Gemma's special tokens and settings, and others where `words` say so."""
    own: dict[str, object] = {
        "model_type": "bpe",
        "vocab_size": 400,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<start_of_turn>", "<end_of_turn>", "\n", "<s>", "</s>"],
        **{f"{name}_id": number for number, name in enumerate(("pad", "eos", "bos", "unk"))},
        **{f"{name}_piece": f"<{name}>" for name in ("pad", "eos", "bos", "unk")},
        "minloglevel": 2,
    }
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(SAID), model_writer=model, **(own | words))
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return str(folder)


@pytest.fixture(scope="module", params=["tokenizer.json", "tokenizer.model"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return read(TINY if request.param == "tokenizer.json" else trained(tmp_path_factory.mktemp("sentencepiece")))


def test_a_text_comes_back_as_it_was(tokenizer):
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(tokenizer.text(text)) == text
        assert tokenizer.decode([*tokenizer.completion(text), 0, 0]) == text


def test_a_turn_opens_and_ends_by_one_token_each(tokenizer):
    (opening,), (end,) = (tokenizer.encode(text) for text in ("<start_of_turn>", "<end_of_turn>"))
    assert tokenizer.end_of_turn == end
    lines = [tokenizer.encode(text) for text in ("user\n3 + 4", "\n", "model\n")]
    assert tokenizer.prompt("3 + 4") == [2, opening, *lines[0], end, *lines[1], opening, *lines[2]]
    assert tokenizer.decode(tokenizer.prompt("3 + 4")) == "user\n3 + 4\nmodel\n"
    assert tokenizer.completion("7")[-1] == end
    assert tokenizer.text("7") == [2, *tokenizer.encode("7")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"user_defined_symbols": ["<start_of_turn>"]}, "knows no <end_of_turn> or <|im_end|>"),
        (
            {"user_defined_symbols": ["<start_of_turn>"], "control_symbols": ["<end_of_turn>"]},
            "writes <end_of_turn> as .* tokens",
        ),
        ({"add_dummy_prefix": True}, "writes <end_of_turn> as 2 tokens"),
    ],
    ids=["none", "control", "prefix"],
)
def test_a_file_that_cannot_write_turns_is_refused(tmp_path, words, message):
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        read(trained(tmp_path, **words))

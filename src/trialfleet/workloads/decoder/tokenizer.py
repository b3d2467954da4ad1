"""Texts as tokens of a language model, by the tokenizer in a local file, and the turns of a conversation.

Two formats are read: `tokenizer.json` of the library tokenizers, and a SentencePiece model, as Gemma's
`tokenizer.model` is one.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import sentencepiece
import tokenizers

from trialfleet.config.decoder import Decoder
from trialfleet.config.location import expanded
from trialfleet.errors import UserError
from trialfleet.workloads.decoder import PAD

FILES = ("tokenizer.json", "tokenizer.model")  # in a folder, the first that is there
TINY = "pkg://trialfleet.workloads.decoder/tiny_tokenizer.json"
PACKAGED = "pkg://"  # as Hydra writes what lies in a package: pkg://package/file


class Turns(NamedTuple):
    """How a family of models writes a conversation: what opens a user's turn, what ends it, what opens the model's."""

    user: str
    end: str
    model: str


GEMMA = Turns("<start_of_turn>user\n", "<end_of_turn>", "\n<start_of_turn>model\n")
CHATML = Turns("<|im_start|>user\n", "<|im_end|>", "\n<|im_start|>assistant\n")  # SmolLM2
# Of each the first that a file knows: in Gemma's the others are words of HTML.
_BEGINNINGS = ("<bos>", "<|begin_of_text|>", "<s>")
_ENDINGS = ("<eos>", "<|endoftext|>", "</s>")


class _Backend(Protocol):
    """What both libraries can do."""

    def size(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, tokens: list[int]) -> str: ...
    def number(self, token: str) -> int | None: ...


class Tokenizer:
    """A tokenizer: see `of`, which reads one.

    Attributes:
        size: of its vocabulary.
        turns: of the conversations that its special tokens were made for.
        end_of_turn: the token that ends a turn.
    """

    def __init__(self, backend: _Backend, name: str, key: str) -> None:
        self._backend = backend
        self.size = backend.size()
        known = [turns for turns in (GEMMA, CHATML) if backend.number(turns.end) is not None]
        if not known:
            ends = " or ".join(turns.end for turns in (GEMMA, CHATML))
            raise UserError(
                f"{key}: {name} knows no {ends}", "give the tokenizer of a model that has been tuned to chat"
            )
        self.turns = known[0]
        self.end_of_turn = _alone(backend, f"{key}: {name}", self.turns.end)
        opening = _alone(backend, f"{key}: {name}", self.turns.user.partition("user")[0])
        self._begin = _first(backend, _BEGINNINGS)
        special = [*self._begin, *_first(backend, _ENDINGS), *_first(backend, ("<pad>",))]
        self._silent = {PAD, self.end_of_turn, opening, *special}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, nothing added."""
        return self._backend.encode(text)

    def prompt(self, text: str) -> list[int]:
        """The tokens of a user's turn and of what opens the model's."""
        turns = self.turns
        return [*self._begin, *self.encode(f"{turns.user}{text}{turns.end}{turns.model}")]

    def completion(self, text: str) -> list[int]:
        """The tokens of what a model says, and the end of its turn."""
        return [*self.encode(text), self.end_of_turn]

    def text(self, text: str) -> list[int]:
        """The tokens of a text that is no conversation."""
        return [*self._begin, *self.encode(text)]

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens; padding, beginnings and ends of texts and turns are left out."""
        return self._backend.decode([int(token) for token in tokens if int(token) not in self._silent])


def _first(backend: _Backend, tokens: Sequence[str]) -> list[int]:
    """The first of some special tokens that there is."""
    return [number for token in tokens if (number := backend.number(token)) is not None][:1]


def _alone(backend: _Backend, what: str, token: str) -> int:
    """A special token's number, if a text that has the token comes out with it, and with nothing besides."""
    written = backend.encode(token)
    if written != [backend.number(token)]:
        raise UserError(
            f"{what} writes {token} as {len(written)} tokens, {written}",
            "give a tokenizer in which it is a special token; in a SentencePiece model, a user-defined symbol with no "
            "space before it (add_dummy_prefix: false)",
        )
    return written[0]


def of(config: Decoder, shapes_alone: bool = False, at: str = "model") -> Tokenizer:
    """The tokenizer of a model.

    Args:
        at: where the model stands in the config, for messages.
        shapes_alone: where the model has none, any will do: a dry run asks for lengths, which no token changes.

    Raises:
        UserError: there is none, it cannot be read, or it has more tokens than the model.
    """
    where = config.tokenizer or config.weights or (TINY if shapes_alone else None)
    if where is None:
        raise UserError(
            f"{at}.tokenizer: null, and {at}.weights, too",
            f"give the folder or file of a tokenizer: {' or '.join(FILES)}",
        )
    found = read(where, f"{at}.tokenizer")
    if found.size > config.vocab_size:
        raise UserError(
            f"{at}.tokenizer: {where} has {found.size} tokens, but {at}.vocab_size is {config.vocab_size}",
            "give the tokenizer that belongs to the model",
        )
    return found


def refuse_no_end(tokenizer: Tokenizer, ends: Sequence[int], key: str, at: str = "model") -> None:
    """Refuse tokens of which none is that with which the model learns to end a text.

    Args:
        ends: the tokens that end one.
        key: of the config, which gives them.
        at: where the model stands in the config.

    Raises:
        UserError: every text would run on to its longest.
    """
    if tokenizer.end_of_turn not in ends:
        raise UserError(
            f"{key}: {list(ends)} do not have {tokenizer.end_of_turn}, with which the tokenizer of {at} ends a text, "
            "so that none would end",
            f"say {key}=[{tokenizer.end_of_turn}]",
        )


@lru_cache(maxsize=4)
def read(where: str, key: str = "model.tokenizer") -> Tokenizer:
    """The tokenizer in a file, a folder or `pkg://package/file`.

    Args:
        key: of the config, for messages.

    Raises:
        UserError: it is not there, or cannot be read, or was not made for conversations.
    """
    path = file_of(where, key)
    try:
        backend = _OfTokenizers(path) if path.suffix == ".json" else _OfSentencePiece(path)
    except Exception as error:  # each library has its own, and tokenizers raises plain Exception
        raise UserError(f"{key}: {path} cannot be read: {error}", "put the published file back") from error
    return Tokenizer(backend, str(path), key)


def file_of(where: str, key: str = "model.tokenizer") -> Path:
    """The file that is meant by a file, a folder or `pkg://package/file`.

    Raises:
        UserError: it is not there.
    """
    if where.startswith(PACKAGED):
        package, _, name = where.removeprefix(PACKAGED).partition("/")
        try:
            path = Path(str(resources.files(package).joinpath(name)))
        except ModuleNotFoundError as error:
            raise UserError(f"{key}: {where}: there is no package {package}", "correct it") from error
    else:
        path = expanded(where)
    if path.is_dir():
        there = [path / name for name in FILES if (path / name).is_file()]
        if not there:
            raise UserError(
                f"{key}: {path} has no {' or '.join(FILES)}",
                f"put the model's tokenizer into it, or give its file by {key}",
            )
        return there[0]
    if not path.is_file():
        raise UserError(f"{key}: there is no {path}", f"give the folder or file of a tokenizer: {' or '.join(FILES)}")
    return path


class _OfTokenizers:
    def __init__(self, path: Path) -> None:
        self._own = tokenizers.Tokenizer.from_file(str(path))

    def size(self) -> int:
        return self._own.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        return self._own.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: list[int]) -> str:
        return self._own.decode(tokens, skip_special_tokens=False)

    def number(self, token: str) -> int | None:
        return self._own.token_to_id(token)


class _OfSentencePiece:
    def __init__(self, path: Path) -> None:
        self._own = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def size(self) -> int:
        return self._own.vocab_size()

    def encode(self, text: str) -> list[int]:
        found: list[int] = self._own.encode(text)
        return found

    def decode(self, tokens: list[int]) -> str:
        text: str = self._own.decode(tokens)
        return text

    def number(self, token: str) -> int | None:
        found = self._own.piece_to_id(token)
        return None if found == self._own.unk_id() and token != self._own.id_to_piece(found) else found

"""Which recordings there are, and what is said in them: LibriSpeech's layout, and lists of files.

LibriSpeech (Panayotov et al. 2015): folders of FLAC files, in each a file `*.trans.txt` with a line for each of them,
`ID TEXT`. A list is JSON lines or CSV with the columns `path` and `text`; paths are relative to the list.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trialfleet.config.location import expanded
from trialfleet.errors import UserError

LISTS = (".jsonl", ".csv")
_TEXTS = "*.trans.txt"
_AUDIO = (".flac", ".wav")
_COLUMNS = ("path", "text")


class Recording(NamedTuple):
    """A file and what is said in it."""

    path: Path
    text: str


def recordings(key: str, source: str) -> list[Recording]:
    """Those of a folder in LibriSpeech's layout, or of a list.

    Args:
        key: of the config, for messages.

    Raises:
        UserError: there are none, or the list is none; it names the line.
    """
    where = expanded(source)
    if not source.strip():
        raise UserError(f"{key}: one of its sources is empty", "take it out, or give a folder or a list of files")
    if where.suffix in LISTS:
        found = list(_of_list(key, where))
    elif os.path.isdir(where):  # noqa: PTH112  # of any name
        found = list(_of_folder(key, where))
    else:
        raise UserError(
            f"{key}: there is no folder {where}",
            f"give a folder in LibriSpeech's layout, with {_TEXTS}, or a list of files, {' or '.join(LISTS)}",
        )
    if not found:
        raise UserError(f"{key}: {where} has no recordings", f"a folder needs {_TEXTS} beside its files, a list lines")
    return found


def _of_folder(key: str, folder: Path) -> Iterator[Recording]:
    """By the transcripts: audio that none names is not used. Whether a file can be read is seen when it is."""
    for texts in sorted(folder.rglob(_TEXTS)):
        for number, line in enumerate(_text(key, texts).split("\n"), 1):
            name, _, text = line.strip().partition(" ")
            if not name:
                continue
            if not text.strip():
                raise UserError(f"{key}: {texts}, line {number}: no text behind {name}", "correct it, or take it out")
            yield Recording(_audio(texts.parent, name), text.strip())


def _audio(folder: Path, name: str) -> Path:
    there = [path for kind in _AUDIO if os.path.isfile(path := folder / f"{name}{kind}")]  # noqa: PTH113  # of any name
    return there[0] if there else folder / f"{name}{_AUDIO[0]}"


def _of_list(key: str, path: Path) -> Iterator[Recording]:
    number = 0
    try:
        for row in _rows(path, _text(key, path)):
            number += 1
            yield _recording(path.parent, row)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_row(key, path, number, f"{type(error).__name__}: {error}") from error
    except csv.Error as error:  # met while the next one is read
        raise _no_row(key, path, number + 1, str(error)) from error


def _rows(path: Path, text: str) -> Iterator[Any]:
    """What a list has of each recording; a line of JSON is read when it is its turn."""
    if path.suffix == ".csv":
        return csv.DictReader(io.StringIO(text), strict=True)
    return (line for line in text.split("\n") if line.strip())


def _recording(folder: Path, row: Any) -> Recording:
    """The recording of a row of CSV, or of a line of JSON.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: it is none; the message says why.
    """
    content = row if isinstance(row, Mapping) else json.loads(row)
    audio, text = (_said(column, content[column]) for column in _COLUMNS)
    if None in content:  # where csv puts what has no column
        raise ValueError("there is more than the columns hold; a text with a comma stands in quotes")
    return Recording(folder / expanded(audio), text)


def _said(column: str, value: Any) -> str:
    if not isinstance(value, str | int | float | None) or isinstance(value, bool):
        raise TypeError(f"{column} is a {type(value).__name__}, and must be a text")
    said = "" if value is None else str(value).strip()
    if not said:
        raise ValueError(f"{column} is empty")
    said.encode()  # JSON can name half a character, which no tokenizer takes
    if "\0" in said:
        raise ValueError(f"{column} has a character of the number 0")
    return said


def _no_row(key: str, path: Path, number: int, why: str) -> UserError:
    columns = " and ".join(_COLUMNS)
    return UserError(f"{key}: {path}, recording {number}: {why}", f"each has a {columns}; correct it, or take it out")


def _text(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some programs write a mark at a file's beginning
    except (OSError, ValueError) as error:  # the latter: it is no UTF-8, or no file can have such a name
        raise UserError(f"{key}: {path} cannot be read: {error}", "give a text file in UTF-8") from error

"""Which recordings there are, and what is said in them: LibriSpeech's layout, and lists of files.

LibriSpeech (Panayotov et al. 2015): folders of FLAC files, in each a file `*.trans.txt` with a line for each of them,
`ID TEXT`. A list is JSON lines or CSV with the columns `path` and `text`; paths are relative to the list.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
    where = Path(source).expanduser()
    if where.suffix in LISTS:
        found = list(_of_list(key, where))
    elif where.is_dir():
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
        for number, line in enumerate(_lines(key, texts), 1):
            name, _, text = line.strip().partition(" ")
            if not name:
                continue
            if not text.strip():
                raise UserError(f"{key}: {texts}, line {number}: no text behind {name}", "correct it, or take it out")
            yield Recording(_audio(texts.parent, name), text.strip())


def _audio(folder: Path, name: str) -> Path:
    there = [path for kind in _AUDIO if (path := folder / f"{name}{kind}").is_file()]
    return there[0] if there else folder / f"{name}{_AUDIO[0]}"


def _of_list(key: str, path: Path) -> Iterator[Recording]:
    lines = _lines(key, path)
    rows: Iterator[Any] = csv.DictReader(lines) if path.suffix == ".csv" else (line for line in lines if line.strip())
    for number, row in enumerate(rows, 1):
        try:
            content = row if isinstance(row, Mapping) else json.loads(row)
            audio, text = (str(content[column]).strip() for column in _COLUMNS)
        except (ValueError, KeyError, TypeError) as error:
            raise _no_row(key, path, number, f"{type(error).__name__}: {error}") from error
        if not audio or not text or content["text"] is None:
            raise _no_row(key, path, number, "one of them is empty")
        yield Recording(path.parent / Path(audio).expanduser(), text)


def _no_row(key: str, path: Path, number: int, why: str) -> UserError:
    columns = " and ".join(_COLUMNS)
    return UserError(f"{key}: {path}, recording {number}: {why}", f"each has a {columns}; correct it, or take it out")


def _lines(key: str, path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: {path} cannot be read: {error}", "give a text file in UTF-8") from error

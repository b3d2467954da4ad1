"""Which actions there are, what they are called, and where their clips lie.

Either as SoccerNet-MVFoul publishes it (Held et al. 2023, arXiv:2304.06617): `SPLIT/annotations.json` with an entry for
each action, and its clips as `SPLIT/action_N/clip_K.mp4`; or a table in CSV with an action in each row.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trialfleet.config.mvfoul import CLASSES
from trialfleet.errors import UserError

ANNOTATIONS = "annotations.json"
SPLITS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}  # the names of their folders
_KIND, _OFFENCE, _SEVERITY, _CLIPS = "Action class", "Offence", "Severity", "Clips"
_SEPARATOR = ";"  # of clips in a table
_OF_OFFENCES = ("1.0", "3.0", "5.0")  # the official severities behind 'No offence'


class Action(NamedTuple):
    """An action that is used.

    Attributes:
        name: its number in the annotations, or what a table calls it.
        clips: its files, the live camera first.
        severity, action: indices in `CLASSES`.
    """

    name: str
    clips: tuple[Path, ...]
    severity: int
    action: int


def of_folder(key: str, folder: Path, split: str, classes: str) -> tuple[list[Action], int]:
    """The actions of a split, and how many are left out since they are of no class.

    Args:
        key: of the config, for messages.
        folder: that of all splits.

    Raises:
        UserError: there are no annotations, or they are none.
    """
    own = _folder_of(key, folder, split)
    path = own / ANNOTATIONS
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))["Actions"]
        found = [
            (str(number), entry, [own / _in_split(clip["Url"]) for clip in entry[_CLIPS]])
            for number, entry in entries.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{key}: {path} cannot be read: {type(error).__name__}: {error}",
            'it must be as SoccerNet-MVFoul\'s: {"Actions": {"0": {"Action class": …, "Clips": [{"Url": …}]}}}',
        ) from error
    return _classified(key, path, found, classes)


def _folder_of(key: str, folder: Path, split: str) -> Path:
    there = {path.name.lower(): path for path in sorted(folder.iterdir()) if (path / ANNOTATIONS).is_file()}
    for name in SPLITS[split]:
        if name in there:
            return there[name]
    raise UserError(
        f"{key}: {folder} has no {SPLITS[split][0]}/{ANNOTATIONS}",
        f"give the folder that has {', '.join(names[0] for names in SPLITS.values())}, each with its {ANNOTATIONS}",
    )


def _in_split(url: str) -> Path:
    """The last two parts of what the annotations say: their first ones are those of somebody else's disk."""
    path = Path(*Path(str(url).replace("\\", "/")).parts[-2:])
    return path if path.suffix else path.with_suffix(".mp4")


def of_table(key: str, path: Path, folder: Path, classes: str) -> tuple[list[Action], int]:
    """As `of_folder`, of a table with the columns Clips, Action class, Offence, Severity and, if there is one, id.

    Clips are files, or folders of clips, separated by `;` and relative to `folder`.

    Raises:
        UserError: it cannot be read, has two actions of one id, or lacks a column or a value; it names the row.
    """
    where = path if path.is_absolute() else folder / path
    try:
        rows = list(csv.DictReader(io.StringIO(where.read_text(encoding="utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{key}: {where} cannot be read: {error}", "give a table in CSV; its path is relative to dataset.data_dir"
        ) from error
    found, rows_of = [], dict[str, int]()
    for number, row in enumerate(rows):
        action = _of_row(f"{key}: {where}, row {number + 1}", number, row, folder)
        if (first := rows_of.setdefault(action[0], number)) != number:
            raise UserError(
                f"{key}: {where}, row {number + 1}: the id {action[0]} is that of row {first + 1}, too",
                "give each action an id of its own, or leave the column out",
            )
        found.append(action)
    return _classified(key, where, found, classes)


def _of_row(at: str, number: int, row: Mapping[Any, Any], folder: Path) -> tuple[str, Mapping[str, str], list[Path]]:
    """An action's name, what is said of it, and its clips.

    Args:
        at: file and row, for messages.
        row: as `csv.DictReader` gives it: what it has beyond the columns is under None, what it lacks is None.
    """
    columns = f"its columns are {_CLIPS} (paths separated by {_SEPARATOR}), {_KIND}, {_OFFENCE}, {_SEVERITY}"
    if None in row:
        raise UserError(f"{at}: it has more values than there are columns", f"{columns}; quote what has commas")
    entry = {name.strip().lower().replace("_", " "): (value or "").strip() for name, value in row.items()}
    if lacking := [name for name in (_CLIPS, _KIND, _OFFENCE, _SEVERITY) if name.lower() not in entry]:
        raise UserError(f"{at}: no column {', '.join(lacking)}", columns)
    parts = [part.strip() for part in entry[_CLIPS.lower()].split(_SEPARATOR)]
    if not any(parts):
        raise UserError(f"{at}: it names no clips", columns)
    named = {name: entry[name.lower()] for name in (_KIND, _OFFENCE, _SEVERITY)}
    clips = [clip for part in parts if part for clip in _clips_at(folder / part)]
    return entry.get("id") or str(number), named, clips


def _clips_at(path: Path) -> Sequence[Path]:
    return sorted(path.glob("clip_*.mp4")) or [path] if os.path.isdir(path) else [path]  # noqa: PTH112  # false of any name


def _classified(
    key: str, path: Path, found: Sequence[tuple[str, Mapping[str, Any], Sequence[Path]]], classes: str
) -> tuple[list[Action], int]:
    actions = []
    for name, entry, clips in found:
        offence, severity, kind = (str(entry.get(field) or "").strip() for field in (_OFFENCE, _SEVERITY, _KIND))
        if severity.isdecimal():
            severity += ".0"  # as published; programs that write tables shorten it
        label = label_of(offence, severity, kind, classes)
        if label is not None and clips:
            actions.append(Action(name, tuple(clips), *label))
    if not actions:
        raise UserError(
            f"{key}: {path}: of {len(found)} actions none is of a class",
            f"{_KIND} must be one of {', '.join(CLASSES[classes].actions)}, {_OFFENCE} and {_SEVERITY} as published",
        )
    return actions, len(found) - len(actions)


def label_of(offence: str, severity: str, kind: str, classes: str) -> tuple[int, int] | None:
    """Severity and action as indices in `CLASSES`; None for what is of no class.

    official: as the challenge counts them. Left out are actions that nobody could name, offences between being one and
    not, and the severities 2.0 and 4.0, which lie between two cards; but a dive is always kept, as an offence without a
    card where its own annotation is none of these.
    """
    actions = {name.lower(): index for index, name in enumerate(CLASSES[classes].actions)}
    if classes == "all":
        names = CLASSES[classes].severities
        action = actions.get(kind.lower() or "none")
        return None if action is None else (names.index(severity) if severity in names else 0, action)
    action = actions.get(kind.lower())
    if action is None:
        return None
    dive = kind.lower() == "dive"
    if offence.lower() == "no offence":
        return 0, action
    if dive:
        return 1 + (_OF_OFFENCES.index(severity) if severity in _OF_OFFENCES else 0), action
    if offence.lower() != "offence" or severity not in _OF_OFFENCES:
        return None
    return 1 + _OF_OFFENCES.index(severity), action


def in_words(severity: int, action: int, classes: str) -> dict[str, str]:
    """The fields of an annotation for indices in `CLASSES`."""
    names = CLASSES[classes]
    kind = "" if names.actions[action] == "none" else names.actions[action]
    if severity == 0:
        return {_KIND: kind, _OFFENCE: "No offence", _SEVERITY: ""}
    degree = names.severities[severity] if classes == "all" else _OF_OFFENCES[severity - 1]
    return {_KIND: kind, _OFFENCE: "Offence", _SEVERITY: degree}


def predictions(
    split: str, names: Sequence[str], severities: np.ndarray, actions: np.ndarray, classes: str
) -> Mapping[str, Any]:
    """What the challenge's evaluation reads: for each action of a split what is said of it."""
    said: Iterator[tuple[str, dict[str, str]]] = (
        (name, in_words(int(severity), int(action), classes))
        for name, severity, action in zip(names, severities, actions, strict=True)
    )
    return {"Set": SPLITS[split][0], "Actions": dict(said)}

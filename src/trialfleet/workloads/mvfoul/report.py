"""What an evaluation leaves for people and for the challenge: pictures, tables, predictions."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trialfleet.config.mvfoul import CLASSES
from trialfleet.training.workload import Rows
from trialfleet.workloads.mvfoul import annotations, pictures, scores
from trialfleet.workloads.mvfoul.clips import QUESTIONS, FoulClips

_WORST, _FRAMES = 8, 6  # clips that are shown, and frames of each


def files(source: FoulClips, split: str, rows: Rows, tables: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """By name: confusions, a table of the classes, what the challenge's evaluation reads, and the worst clips.

    Args:
        rows: with `<question>` and `<question>_said`, the true and the predicted class.
        tables: the confusion matrix of each question.
    """
    names = dict(zip(QUESTIONS, CLASSES[source.classes], strict=True))
    classes = [
        {"question": question, **row}
        for question, table in tables.items()
        for row in scores.by_class(table, names[question])
    ]
    return {
        **{
            f"confusion-{question}.png": pictures.confusion(table, names[question], question)
            for question, table in tables.items()
        },
        "classes.csv": _as_csv(classes),
        "predictions.json": _predictions(source, split, rows),
        "worst.png": _worst(source, rows, names),
    }


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _predictions(source: FoulClips, split: str, rows: Rows) -> bytes:
    """In the order of the annotations."""
    order = np.argsort(rows["id"], kind="stable")
    actions = [source.actions[int(row)].name for row in rows["id"][order]]
    severities, kinds = (rows[f"{question}_said"][order] for question in QUESTIONS)
    content = annotations.predictions(split, actions, severities, kinds, source.classes)
    return (json.dumps(content, indent=1) + "\n").encode()


def _worst(source: FoulClips, rows: Rows, names: Mapping[str, Sequence[str]]) -> bytes:
    """A contact sheet of the actions with the largest losses: a view of each, what it is, and what was said."""
    strips = []
    for index in np.argsort(-rows["loss"], kind="stable")[:_WORST]:
        action = source.actions[int(rows["id"][index])]
        true, said = (
            ", ".join(names[question][int(rows[f"{question}{ending}"][index])] for question in QUESTIONS)
            for ending in ("", "_said")
        )
        caption = f"{action.name}: {true}; said: {said}; loss {float(rows['loss'][index]):.2f}"
        views = (source.clip(path) for path in reversed(action.clips))  # a replay shows more than the live camera
        strips.append(pictures.Strip(caption, next((view for view in views if view is not None), None)))
    return pictures.contact_sheet(strips, _FRAMES)

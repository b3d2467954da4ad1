"""Studies side by side: what was asked of each, how it stands, and what came of it."""

import os
from collections.abc import Sequence
from typing import Any

from trialfleet.review.studies import Study
from trialfleet.review.tables import best_text, number
from trialfleet.sweep.study import study_record


def differing(studies: Sequence[Study]) -> dict[str, list[Any]]:
    """The settings that are not the same in all of them, each with its value in each study; None where it is absent."""
    keys = dict.fromkeys(key for study in studies for key in study.record.identity)
    found = {}
    for key in keys:
        values = [study.record.identity.get(key) for study in studies]
        if any(repr(value) != repr(values[0]) for value in values[1:]):
            found[key] = values
    return found


def outcomes(studies: Sequence[Study]) -> dict[str, list[Any]]:
    """How each stands, by what is told of it."""
    return {
        "state": [study.state for study in studies],
        "trials": [study.finished for study in studies],
        "complete": [study.counts["COMPLETE"] for study in studies],
        "pruned": [study.counts["PRUNED"] for study in studies],
        "failed": [study.counts["FAIL"] for study in studies],
        "best": [_best_values(study) for study in studies],
        "best trial": [[row.number for row in study.front] for study in studies],
        "trials to the best": [_place(study) for study in studies],
        "device_hours": [study.used.get("device_hours") for study in studies],
        "wall_hours": [study.used.get("wall_hours") for study in studies],
        "code": [study.record.code.get("digest") for study in studies],
    }


def _best_values(study: Study) -> Any:
    front = [row.values for row in study.front if row.values]
    return front[0][0] if len(study.metrics) == 1 and front else front or None


def _place(study: Study) -> int | None:
    """How many trials had ended when the best one had; None of a front."""
    if len(study.front) != 1 or study.front[0].ended is None:
        return None
    best = study.front[0].ended
    return sum(row.ended is not None and row.ended <= best for row in study.rows)


def lines(studies: Sequence[Study]) -> list[dict[str, str]]:
    """The same as rows of a table with a column for each study."""
    names = column_names(studies)
    rows = []
    for what, values in outcomes(studies).items():
        if what == "best":
            texts = [best_text(study) for study in studies]
        elif what == "best trial":
            texts = [", ".join(map(str, value[:5])) + (", …" if len(value) > 5 else "") for value in values]
        else:
            texts = [number(value) for value in values]
        rows.append({"": what.replace("_", "-"), **dict(zip(names, texts, strict=True))})
    for key, values in differing(studies).items():
        texts = ["(not there)" if value is None else study_record.shown(key, value) for value in values]
        rows.append({"": key, **dict(zip(names, texts, strict=True))})
    return rows


def column_names(studies: Sequence[Study]) -> list[str]:
    """The studies' names; by their folders where two have the same, and numbered where one is named twice."""
    told = told_apart(studies)
    if len(set(told)) == len(told):
        return told
    return [
        name if told.count(name) == 1 else f"{name} ({told[:place].count(name) + 1})" for place, name in enumerate(told)
    ]


def told_apart(studies: Sequence[Study]) -> list[str]:
    """The studies' names; of those that have the same, being copies, what differs of their folders' paths."""
    names = [study.name for study in studies]
    alike = [study.folder.parent for study in studies if names.count(study.name) > 1]
    base = os.path.commonpath(alike) if alike else ""
    return [
        name if names.count(name) == 1 else str(study.folder.relative_to(base))
        for name, study in zip(names, studies, strict=True)
    ]

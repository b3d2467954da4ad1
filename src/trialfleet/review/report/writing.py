"""A report as a file: of one study, or of several side by side."""

import os
from collections.abc import Sequence
from pathlib import Path

import trialfleet
from trialfleet.errors import UserError
from trialfleet.review import fields
from trialfleet.review.report import comparing, page
from trialfleet.review.report.sections import Sections
from trialfleet.review.report.view import View
from trialfleet.review.report.wording import moment
from trialfleet.review.studies import Study
from trialfleet.trial import secrets

TRIALS = "trials.csv"  # in the folder of a report's parts


def report(study: Study, now: float | None = None, driven: bool = True, parts: Path | None = None) -> str:
    """The report of a study, as HTML.

    Args:
        now: Unix seconds at which it is seen; the present by default.
        driven: False if the driver that holds the study is about to leave it.
        parts: a folder for its figures as pictures and its trials as a table, too; none by default.

    Raises:
        UserError: the parts cannot be written.
    """
    view = View(study, now, driven)
    made = Sections(view)
    sections = made.all()
    if parts is not None:
        _write_parts(made, parts)
    return page.page(f"{study.name}: report", made.head(), sections, made.figures, _foot(view.now))


def comparison(studies: Sequence[Study], now: float | None = None) -> str:
    """Several studies side by side, as HTML."""
    views = [View(study, now) for study in studies]
    made = comparing.Comparison(views)
    sections = made.all()
    title = " and ".join(made.names)
    return page.page(f"{title}: report", made.head(), sections, made.figures, _foot(views[0].now))


def write(html: str, path: Path) -> None:
    """Put a report in place, whole: who reads it meanwhile sees the one before.

    Raises:
        UserError: it cannot be written.
    """
    try:
        _put(html, path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}", "name another place with --output") from error


def _write_parts(made: Sections, folder: Path) -> None:
    from trialfleet.review.report import pictures  # asked for by few, and matplotlib takes its time

    try:
        pictures.write(made, folder)
        table = fields.as_csv([fields.trial_fields(made.study, row) for row in made.study.rows])
        _put(secrets.masked(table), folder / TRIALS)  # errors are in it
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}", "name another place with --parts") from error


def _put(text: str, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", errors="replace")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _foot(now: float) -> str:
    made = f"Made by trialfleet {trialfleet.__version__}, {moment(now)}, of the study's files alone."
    return f"{made} It loads nothing from elsewhere."

"""A report as a file: of one study, or of several side by side."""

import os
from collections.abc import Sequence
from pathlib import Path

import trialfleet
from trialfleet.errors import UserError
from trialfleet.review.report import comparing, page
from trialfleet.review.report.sections import Sections, moment
from trialfleet.review.report.view import View
from trialfleet.review.studies import Study


def report(study: Study, now: float | None = None, driven: bool = True) -> str:
    """The report of a study, as HTML.

    Args:
        now: Unix seconds at which it is seen; the present by default.
        driven: False if the driver that holds the study is about to leave it.
    """
    view = View(study, now, driven)
    made = Sections(view)
    sections = made.all()
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(html, encoding="utf-8", errors="replace")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: {error.strerror or error}", "name another place with --output") from error


def _foot(now: float) -> str:
    made = f"Made by trialfleet {trialfleet.__version__}, {moment(now)}, of the study's files alone."
    return f"{made} It loads nothing from elsewhere."

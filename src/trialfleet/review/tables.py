"""Tables that fit the terminal: what matters first, and what has no room is counted and left to --json and --csv."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trialfleet.review.fields import at
from trialfleet.review.studies import Study
from trialfleet.sweep.study import study_record
from trialfleet.sweep.study.index import TrialRow
from trialfleet.sweep.study.study_record import SPACE
from trialfleet.sweep.ui.follow_up import follow_up
from trialfleet.sweep.ui.screen import cost, short_names

GAP = 2  # blanks between two columns
WIDEST = 28  # characters of a cell, but for the last column
LEAST = 16  # of the last column, if there is to be one; a third of the terminal if its texts are as long

STYLES = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red", "RUNNING": "cyan", "WAITING": "dim"}
STYLES |= {"running": "cyan", "finished": "green", "stopped": "yellow"}

Rows = Sequence[Mapping[str, str]]


def console() -> Console:
    return Console(highlight=False, markup=False)  # what users wrote is never markup


def show(rows: Rows, names: Sequence[str], last: str = "", out: Console | None = None) -> None:
    """Print a table of the columns that have room, in their order.

    Args:
        rows: a text for each column of `names`; one that is missing is empty.
        names: of the columns, what matters most first.
        last: of one more, for texts of any length, which gets what room is left.
    """
    terminal = console() if out is None else out
    names = [name for name in names if any(row.get(name) for row in rows)]  # a column without an entry says nothing
    widths = {name: min(WIDEST, max([len(name), *(len(row.get(name, "")) for row in rows)])) for name in names}
    longest = max((len(row.get(last, "")) for row in rows), default=0) if last else 0
    kept: list[str] = []
    room = terminal.width
    for name, width in widths.items():
        reserved = max(LEAST, min(longest, terminal.width // 3)) if longest else 0
        if width + GAP + reserved > room and kept:
            break
        kept.append(name)
        room -= width + GAP
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="dim", pad_edge=False)
    for name in kept:
        table.add_column(name, no_wrap=True, overflow="ellipsis", width=widths[name])
    with_last = longest > 0 and room >= LEAST
    if with_last:
        table.add_column(last, no_wrap=True, overflow="ellipsis", max_width=room - GAP)
    for row in rows:
        cells = [_cell(row.get(name, "")) for name in kept]
        table.add_row(*cells, *([row.get(last, "")] if with_last else []))
    terminal.print(table)
    if left := len(names) - len(kept):
        terminal.print(Text(f"{left} more column{'s' if left > 1 else ''}: a wider terminal, --csv or --json", "dim"))


def _cell(text: str) -> Text:
    return Text(text, STYLES.get(text, ""))


# -------------------------------------------------------------------- values for people


def number(value: Any) -> str:
    """A value; floats to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds: 1:02:03, 2:03."""
    if seconds is None:
        return ""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


# -------------------------------------------------------------------- studies


def studies(found: Sequence[Study], names: Sequence[str]) -> None:
    """A line a study.

    Args:
        names: that tell them apart.
    """
    rows = []
    for study, name in zip(found, names, strict=True):
        total = "?" if study.total is None else str(study.total)
        failed = study.counts["FAIL"]
        rows.append(
            {
                "study": name,
                "state": study.state,
                "trials": f"{study.finished}/{total}",
                "best": best_text(study),
                "failed": str(failed) if failed else "",
                "device-hours": number(study.used.get("device_hours")),
                "created": study.record.created[:16].replace("T", " "),
            }
        )
    show(rows, ["study", "state", "trials", "best", "failed", "created", "device-hours"])


def best_text(study: Study) -> str:
    """The best value, or how many trials are on the front."""
    if len(study.metrics) > 1:
        return f"{len(study.front)} on the front" if study.front else ""
    return next((f"{study.metrics[0]}={number(row.values[0])}" for row in study.front if row.values), "")


def trials(study: Study, rows: Sequence[TrialRow]) -> None:
    """A line a trial: how it stands, its objectives, its parameters; what went wrong last."""
    params = list(dict.fromkeys(name for row in rows for name in row.params))
    short = short_names(params)
    lines = []
    for row in rows:
        line = {
            "trial": f"{row.number}{' ★' if row.number in study.best_numbers else ''}",
            "state": row.state,
            "time": duration(row.seconds),
            "step": number(row.step),
            "attempt": "" if row.attempt == 1 else str(row.attempt),
            "node": row.node,
            "note": note(study, row),
        }
        values = row.values if row.values is not None else [row.metrics.get(name) for name in study.metrics]
        line |= {name: number(value) for name, value in zip(study.metrics, values, strict=False)}
        line |= {short[name]: number(value) for name, value in row.params.items()}
        lines.append(line)
    several = ["attempt"] if any(row.attempt > 1 for row in rows) else []
    show(lines, ["trial", "state", *study.metrics, *short.values(), "time", "step", *several, "node"], "note")


def note(study: Study, row: TrialRow) -> str:
    """What is to be said of a trial in words."""
    if row.error is not None:
        return row.error
    if row.retry_of is not None:
        return f"trial {row.retry_of} again"
    return "beyond a bound" if row.state == "COMPLETE" and not study.keeps_bounds(row) else ""


def overview(study: Study) -> None:
    """What there is to know of one study, but for its single trials."""
    out, told = console(), study.command
    total = "?" if study.total is None else study.total
    counts = ", ".join(f"{count} {state.lower()}" for state, count in sorted(study.counts.items()))
    driver = study.driver
    lines = [
        ("state", f"{study.state}: {study.finished} of {total} trials have ended ({counts or 'none began'})"),
        ("driver", "none" if driver is None else f"{driver.who}, last heard of {driver.silent:.0f} s ago"),
        *(("to", f"{way} {metric}") for metric, way in zip(study.metrics, study.directions, strict=False)),
        *(("over", f"{name} in {study_record.shown(SPACE + name, text)}") for name, text in study.space.items()),
        *(("within", f"{metric} {bound}") for metric, bound in (told.constraints if told else {}).items()),
        ("cost", cost(study.finished, study.used) if study.used else ""),
        ("code", f"{study.record.code.get('commit', 'no commit')}, digest {study.record.code.get('digest', '?')}"),
        ("storage", "a journal in its folder" if study.record.storage == "null" else study.record.storage),
        ("MLflow", "{uri}, experiment {experiment}".format(**told.tracking) if told and told.tracking else ""),
        ("folder", str(study.folder)),
        ("created", study.record.created),
        *((what, how or "") for what, how in follow_up(study.folder, len(study.front)).items()),
        ("resume", told.resume if told else ""),
    ]
    out.print(Text(study.name, "bold"))
    for name, text in lines:
        if text:
            out.print(Text.assemble((f"  {name:<8} ", "dim"), text), soft_wrap=True)
    if study.front:
        out.print()
        best(study, study.front)


def best(study: Study, rows: Sequence[TrialRow]) -> None:
    """Trials with all of their parameters, a blank line between two."""
    out = console()
    for row in rows:
        if row is not rows[0]:
            out.print()
        values = "  ".join(
            f"{name}={number(value)}" for name, value in zip(study.metrics, row.values or (), strict=False)
        )
        out.print(Text.assemble((f"trial {row.number}", "bold green"), f"  {values}"))
        for name, value in row.params.items():
            out.print(f"    {name} = {value}", soft_wrap=True)


def one_trial(study: Study, row: TrialRow) -> None:
    """All that the index knows of a trial."""
    out = console()
    out.print(Text.assemble((f"trial {row.number}", "bold"), " of ", study.name, "  ", _cell(row.state)))
    values = dict(zip(study.metrics, row.values or (), strict=False))
    lines = [
        *((name, number(value)) for name, value in values.items()),
        *((name, str(value)) for name, value in row.params.items()),
        *((f"last {name}", number(value)) for name, value in row.metrics.items()),
        ("step", number(row.step)),
        ("attempt", str(row.attempt)),
        ("started", at(row.started)),
        ("ended", at(row.ended)),
        ("took", duration(row.seconds)),
        *((f"of it {name}", f"{number(seconds)} s") for name, seconds in row.parts.items()),
        ("job", f"{row.job} {row.node}".strip()),
        ("note", note(study, row)),
        ("folder", str(study.folder / "trials" / f"{row.number:05d}")),
    ]
    for name, text in lines:
        if text:
            out.print(Text.assemble((f"  {name}: ", "dim"), text), soft_wrap=True)

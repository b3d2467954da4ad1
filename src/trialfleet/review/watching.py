"""A study watched from any shell: what its driver's terminal shows, read from its files."""

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trialfleet.review.studies import Study, load, under_way
from trialfleet.review.tables import STYLES, best_text, duration, note, number, short_names
from trialfleet.sweep.study.index import ENDED, TrialRow

EVERY = 2.0  # seconds between two looks
SHOWN = 20  # trials under way in the table


def watch(study: Study, out: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the study until its driver has gone; where nobody looks at a terminal, a line for each trial that ends.

    Args:
        sleep: waits for so many seconds.
    """
    if out.is_terminal:
        with Live(console=out, auto_refresh=False, transient=True) as live:
            while study.driver is not None:
                live.update(picture(study), refresh=True)
                sleep(EVERY)
                study = load(study.folder)
    else:
        told = {row.number for row in study.rows if row.state in ENDED}
        while True:
            for row in study.rows:
                if row.state in ENDED and row.number not in told:
                    told.add(row.number)
                    print(line(study, row), file=out.file, flush=True)
            if study.driver is None:
                break
            sleep(EVERY)
            study = load(study.folder)
    out.print(headline(study), soft_wrap=True)
    if study.state != "finished" and study.command is not None:
        out.print(f"no driver is at work; resume:  {study.command.resume}", soft_wrap=True)


def line(study: Study, row: TrialRow) -> str:
    """A trial that has ended, in one line."""
    values = dict(zip(study.metrics, row.values or (), strict=False))
    said = "  ".join(f"{name}={number(value)}" for name, value in (values or row.params).items())
    return "  ".join(
        part
        for part in (f"trial {row.number:>4}", f"{row.state:<9}", said, note(study, row), duration(row.seconds))
        if part
    )


def headline(study: Study) -> Text:
    """How many trials have ended, how the others stand, and the best so far."""
    total = "?" if study.total is None else study.total
    counts = [f"{study.finished}/{total} done"]
    counts += [
        f"{study.counts[state]} {state.lower()}"
        for state in ("RUNNING", "WAITING", "PRUNED", "FAIL")
        if study.counts[state]
    ]
    text = Text.assemble((study.name, "bold"), "  ", ", ".join(counts))
    if study.front:
        where = f" (trial {study.front[0].number})" if len(study.metrics) == 1 else ""
        text.append(f"   best {best_text(study)}{where}", "green")
    return text


def picture(study: Study) -> Group:
    """The headline, and a table of the trials that are under way."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    begun = under_way(study)
    short = short_names(list(dict.fromkeys(name for row in begun for name in row.metrics)))
    others = [name for name in short if name not in study.metrics][:2]
    for column in ("trial", "job", "step", *study.metrics, *(short[name] for name in others), "time", "node"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    now = time.time()
    for row in begun[:SHOWN]:
        state = row.state.lower() + (f" (attempt {row.attempt})" if row.attempt > 1 else "")
        since = None if row.started is None else max(0.0, now - row.started)
        named = [number(row.metrics.get(name)) for name in (*study.metrics, *others)]
        cells = [str(row.number), state, number(row.step), *named, duration(since), row.node]
        table.add_row(*cells, style=STYLES.get(row.state, ""))
    more = [Text(f"… and {len(begun) - SHOWN} more", "dim")] if len(begun) > SHOWN else []
    return Group(headline(study), table, *more)

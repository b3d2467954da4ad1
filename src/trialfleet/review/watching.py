"""A study watched from any shell: what its driver's terminal shows, read from its files."""

import time
from collections import Counter
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from trialfleet.review.studies import Study, load, under_way
from trialfleet.review.tables import duration, note, number
from trialfleet.sweep.study.index import ENDED, RUNNING, TrialRow
from trialfleet.sweep.study.progress import cause
from trialfleet.sweep.ui.follow_up import follow_up
from trialfleet.sweep.ui.screen import StudyView, TrialView, cost, outcomes, screen, status

EVERY = 2.0  # seconds between two looks
SHARE = 9  # times what a look took, at least: of thousands of trials it may take a second
TELL_EVERY = 60.0  # seconds between two lines on how the study stands, where nobody looks at a terminal
LATEST = 20  # ended trials whose mean time stands for those to come
OTHERS = 3  # metrics of a trial besides its objectives


def watch(study: Study, out: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the study until its driver has gone; where nobody looks at a terminal, lines: one a trial, and one a minute.

    Args:
        sleep: waits for so many seconds.
    """
    took = 0.0
    if out.is_terminal:
        with Live(console=out, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
            while study.driver is not None:
                live.update(screen(view(study), *out.size), refresh=True)
                sleep(max(EVERY, SHARE * took))
                study, took = _looked(study)
    else:
        told = {row.number for row in study.rows if row.state in ENDED}
        next_word = time.monotonic() + TELL_EVERY
        while True:
            for row in study.rows:
                if row.state in ENDED and row.number not in told:
                    told.add(row.number)
                    print(line(study, row), file=out.file, flush=True)
            if study.driver is None:
                break
            if time.monotonic() >= next_word:
                next_word = time.monotonic() + TELL_EVERY
                print(f"study {study.name}: {status(view(study))}", file=out.file, flush=True)
            sleep(max(EVERY, SHARE * took))
            study, took = _looked(study)
    for text in closing(study):
        out.print(text, soft_wrap=True)
    if study.state != "finished" and study.command is not None:
        out.print(f"no driver is at work; resume:  {study.command.resume}", soft_wrap=True)


def _looked(study: Study) -> tuple[Study, float]:
    """The study anew, and the seconds that it took to read it."""
    began = time.monotonic()
    study = load(study.folder)
    _ = study.rows
    return study, time.monotonic() - began


def line(study: Study, row: TrialRow) -> str:
    """A trial that has ended, in one line."""
    values = dict(zip(study.metrics, row.values or (), strict=False))
    said = "  ".join(f"{name}={number(value)}" for name, value in (values or row.params).items())
    return "  ".join(
        part
        for part in (f"trial {row.number:>4}", f"{row.state:<9}", said, note(study, row), duration(row.seconds))
        if part
    )


def closing(study: Study) -> list[Text]:
    """How the study stands once its driver has gone: what came of it, what it cost, and what to do with it."""
    total = "?" if study.total is None else study.total
    states, causes = _ended(study)
    lines = [Text.assemble((study.name, "bold"), f"  {study.finished}/{total} done  {outcomes(states, causes)}")]
    for row in study.front[:10]:
        values = zip(study.metrics, row.values or (), strict=False)
        said = "  ".join(f"{name}={number(value)}" for name, value in values)
        lines.append(Text(f"best {said} (trial {row.number})", "green"))
    if study.used:
        lines.append(Text(f"  cost:    {cost(study.finished, study.used)}"))
    steps = follow_up(study.folder, len(study.front))
    return lines + [Text(f"  {what + ':':<8} {how}") for what, how in steps.items() if how is not None]


def view(study: Study) -> StudyView:
    """The study as its driver would show it."""
    now = time.time()
    states, causes = _ended(study)
    begun, first = under_way(study), next(iter(study.front), None)
    ages = [now - row.ended for row in study.front if row.ended is not None]
    took = [row.seconds for row in sorted(study.rows, key=_end)[-LATEST:] if row.seconds is not None]
    return StudyView(
        name=study.name,
        total=study.total,
        states=states,
        causes=causes,
        metrics=study.metrics,
        trials=[_trial(study, row, now) for row in begun],
        best=None if first is None else first.values,
        best_trial=None if first is None else first.number,
        best_age=max(0.0, min(ages)) if ages else None,
        front=len(study.front),
        slots=None if study.command is None else study.command.n_jobs,
        mean_seconds=sum(took) / len(took) if took else None,
    )


def _trial(study: Study, row: TrialRow, now: float) -> TrialView:
    others = [name for name in row.metrics if name not in study.metrics][:OTHERS]
    return TrialView(
        number=row.number,
        state=row.state.lower(),
        runs=row.state == RUNNING,
        step=row.step,
        steps=row.steps,
        values=[row.metrics.get(name) for name in study.metrics],
        others={name: row.metrics[name] for name in others},
        seconds=None if row.started is None else max(0.0, now - row.started),
        node=row.node,
        note=f"attempt {row.attempt}" if row.attempt > 1 else "",
    )


def _ended(study: Study) -> tuple[dict[str, int], Counter[str]]:
    """Ended trials by state, and failures by the types of their errors."""
    states = {state: study.counts[state] for state in ENDED if study.counts[state]}
    return states, Counter(cause(row.error) for row in study.rows if row.error is not None)


def _end(row: TrialRow) -> float:
    return row.ended or 0.0

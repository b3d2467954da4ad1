"""What is shown of a study that is under way, by its driver and by whoever watches it from another shell.

A `StudyView` is the study at one moment; `screen` draws it. Each line is cut to the terminal's width and never wrapped,
columns keep their widths from one look to the next, and there are never more lines than the terminal has: what has no
room is counted.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.text import Text

BAR = 30  # characters of the study's bar, at most
TRIAL_BAR = 12  # of a trial's
SHOWN = 20  # running trials, at most
NUMBER = 10  # characters of a value
GAP = 2  # between columns
RATE = 3  # seconds that a trial must have run before its own pace counts
STYLES = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


@dataclass(frozen=True)
class TrialView:
    """A trial that has begun and not ended.

    Attributes:
        state: of its job, in a word or some: running, pending, Priority.
        runs: whether it runs.
        step, steps: the last that was reported, and how many there will be.
        values: the newest of the objectives; None of one that was not reported yet.
        others: the newest values of other metrics.
        note: what is out of the ordinary: another attempt, a verdict.
    """

    number: int
    state: str = "running"
    runs: bool = True
    step: int | None = None
    steps: int | None = None
    values: Sequence[float | None] = ()
    others: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    node: str = ""
    note: str = ""

    def seconds_left(self, mean: float | None) -> float | None:
        """By its own pace where it says how many steps there will be, else by what others took."""
        if self.runs and self.step and self.steps and self.seconds and self.seconds >= RATE:
            return self.seconds * max(0, self.steps - self.step) / self.step
        return None if mean is None else max(0.0, mean - (self.seconds or 0.0))


@dataclass(frozen=True)
class StudyView:
    """A study at one moment.

    Attributes:
        total: trials that it is to have; None if nobody knows.
        states: ended trials by state.
        causes: failures by the types of their errors.
        metrics: names of the objectives.
        best: the values of the best trial; None while there is none.
        best_trial: its number.
        best_age: seconds since it came; None if nobody knows.
        front: trials on the Pareto front, of several objectives.
        slots: trials that may be under way at a time; None if nobody knows.
        trials: those under way, by number.
        mean_seconds: of trials that have ended.
        starts: whether more trials are started.
        messages: to be read below all.
    """

    name: str
    total: int | None
    states: Mapping[str, int]
    causes: Mapping[str, int]
    metrics: Sequence[str]
    trials: Sequence[TrialView]
    best: Sequence[float] | None = None
    best_trial: int | None = None
    best_age: float | None = None
    front: int = 0
    slots: int | None = None
    mean_seconds: float | None = None
    starts: bool = True
    messages: Sequence[str] = ()

    @property
    def done(self) -> int:
        return sum(self.states.values())

    @property
    def running(self) -> int:
        return sum(trial.runs for trial in self.trials)

    def seconds_left(self) -> float | None:
        """Until the last trial ends, if those to come take as long as the mean, and slots are always filled."""
        mean = self.mean_seconds
        if mean is None:
            lengths = [
                trial.seconds + rest
                for trial in self.trials
                if trial.seconds is not None and (rest := trial.seconds_left(None)) is not None
            ]
            mean = sum(lengths) / len(lengths) if lengths else None
        to_come = max(0, (self.total or 0) - self.done - len(self.trials)) if self.starts else 0
        left = [rest for trial in self.trials if (rest := trial.seconds_left(mean)) is not None]
        if mean is None or self.total is None or (to_come == 0 and not left):
            return None
        places = max(1, self.slots or len(self.trials), len(left))
        ends = sorted([*left, *[0.0] * (places - len(left))])
        rounds, more = divmod(to_come, places)
        return max(end + (rounds + (place < more)) * mean for place, end in enumerate(ends))


def screen(view: StudyView, width: int, height: int) -> Text:
    """The study, in at most so many lines of so many characters."""
    head = [_bar_line(view, width), *_facts(view, width)]
    below = [Text(message, "yellow") for message in view.messages if message]
    room = max(0, min(SHOWN, height - len(head) - sum(_lines(text, width) for text in below) - 3))
    table = _table(view, width, room)
    return Text("\n").join([*(_cut(line, width) for line in [*head, *table]), *below])


def status(view: StudyView) -> str:
    """How the study stands, in one line: for logs."""
    parts = [f"{view.done}/{_total(view)} done"]
    parts += [f"{view.running} running", f"{len(view.trials) - view.running} waiting"]
    parts += [text for text in (outcomes(view.states, view.causes), best(view)) if text]
    left = view.seconds_left()
    return ", ".join(parts) + ("" if left is None else f", about {duration(left)} left")


def best(view: StudyView) -> str:
    """The best so far, in words; empty while there is none."""
    if view.best is None:
        return ""
    if len(view.metrics) > 1:
        return f"{view.front} on the Pareto front"
    age = "" if view.best_age is None else f", {duration(view.best_age)} ago"
    return f"best {view.metrics[0]}={number(view.best[0])} (trial {view.best_trial}{age})"


def outcomes(states: Mapping[str, int], causes: Mapping[str, int]) -> str:
    """How trials ended, and what failed of what: `7 complete, 2 failed (ValueError 2)`."""
    words = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    order = [*words, *sorted(states.keys() - words.keys())]  # failures last, since their causes follow
    parts = [f"{states[state]} {words.get(state, state_name(state))}" for state in order if states.get(state)]
    common = Counter(causes).most_common()
    shown = [f"{name} {count}" for name, count in common[:3]]
    more = sum(count for _, count in common[3:])
    why = ", ".join([*shown, *([f"others {more}"] if more else [])])
    return ", ".join(parts) + (f" ({why})" if why else "")


# -------------------------------------------------------------------- its parts


def _bar_line(view: StudyView, width: int) -> Text:
    left = view.seconds_left()
    count = f" {view.done}/{_total(view)} done"
    time_left = "" if left is None else f"  about {duration(left)} left"
    bar = max(4, min(BAR, width - len(count) - len(time_left) - 2))
    name = view.name if len(view.name) + bar + len(count) + len(time_left) + 2 <= width else ""
    line = Text.assemble((name, "bold"), "  " if name else "")
    line.append_text(_bar(view.done, view.total or max(1, view.done), bar, "green"))
    return line.append(count, "bold").append(time_left, "dim")


def _facts(view: StudyView, width: int) -> list[Text]:
    waiting = len(view.trials) - view.running
    facts = []
    if said := best(view):
        facts.append(Text(said, "green"))
    of = "" if view.slots is None else f" of {view.slots}"
    words = f"slots  {len(view.trials)}{of} in use: {view.running} running" + (
        f", {waiting} waiting" if waiting else ""
    )
    why = Counter(trial.state for trial in view.trials if not trial.runs)
    reasons = [f"{count} {state}" for state, count in why.most_common(2) if state not in ("pending", "waiting")]
    facts.append(Text(words + (f" ({', '.join(reasons)})" if reasons else "")))
    if view.done:
        bad = any(view.states.get(state) for state in view.states if state not in ("COMPLETE", "PRUNED"))
        facts.append(Text(f"ended  {outcomes(view.states, view.causes)}", "red" if bad else ""))
    return facts


@dataclass(frozen=True)
class Column:
    """One of the table, with a text for each trial that is shown."""

    title: str
    size: int  # characters
    cells: Sequence[Text]


def _table(view: StudyView, width: int, room: int) -> list[Text]:
    """The trials under way, the columns that have room, what matters first."""
    trials = view.trials
    if not trials or room == 0:
        return []
    shown = trials if len(trials) <= room else trials[: room - 1]
    lines = _rows(_columns(view, shown), width, len(shown)) if shown else []
    if len(shown) < len(trials):
        hidden = trials[len(shown) :]
        run = sum(trial.runs for trial in hidden)
        lines.append(Text(f"… and {len(hidden)} more: {run} running, {len(hidden) - run} waiting", "dim"))
    return lines


def _rows(columns: Sequence[Column], width: int, count: int) -> list[Text]:
    """A header, and a line for each trial."""
    kept: list[Column] = []
    left = width
    for column in columns:
        if column.size <= left or not kept:
            kept.append(column)
            left -= column.size + GAP
    lines = [Text((" " * GAP).join(column.title[: column.size].ljust(column.size) for column in kept).rstrip(), "dim")]
    for index in range(count):
        line = Text()
        for column in kept:
            cell = column.cells[index]
            cell.truncate(column.size, overflow="ellipsis", pad=True)
            line.append_text(cell).append(" " * GAP)
        line.rstrip()
        lines.append(line)
    return lines


def _columns(view: StudyView, shown: Sequence[TrialView]) -> list[Column]:
    """What matters most first. Widths are those of what may come, so that they stay."""
    widest = max(5, len(str(max(view.total or 0, *(trial.number for trial in view.trials)))))
    counts = max(9, *(len(f"{trial.step}/{trial.steps}") for trial in shown))
    columns = [
        Column("trial", widest, [Text(str(trial.number).rjust(widest)) for trial in shown]),
        Column("progress", TRIAL_BAR + 1 + counts, [_progress(trial, counts) for trial in shown]),
    ]
    for place, metric in enumerate(view.metrics):
        values = [trial.values[place] if place < len(trial.values) else None for trial in shown]
        columns.append(_column(metric, max(NUMBER, min(16, len(metric))), [number(value) for value in values]))
    columns.append(_column("time", 7, [duration(trial.seconds) for trial in shown]))
    nodes = max(len(trial.node) for trial in shown)
    if nodes:
        columns.append(_column("node", min(16, max(6, nodes)), [trial.node for trial in shown]))
    if any(trial.note for trial in shown):
        columns.append(_column("note", 14, [trial.note for trial in shown]))
    for name in dict.fromkeys(name for trial in shown for name in trial.others):
        values = [trial.others.get(name) for trial in shown]
        columns.append(_column(name, max(NUMBER, min(24, len(name))), [number(value) for value in values]))
    return columns


def _column(title: str, size: int, cells: Sequence[str]) -> Column:
    return Column(title, size, [Text(cell) for cell in cells])


def _progress(trial: TrialView, counts: int) -> Text:
    if not trial.runs:
        return Text(trial.state, "dim")
    if trial.step is None:
        return Text("starting" if trial.state == "running" else trial.state, "dim")
    if not trial.steps:
        return Text(f"step {trial.step}")
    line = _bar(trial.step, trial.steps, TRIAL_BAR, "cyan")
    return line.append(f" {trial.step}/{trial.steps}".rjust(counts + 1))


def _bar(done: int, total: int, width: int, style: str) -> Text:
    """Halves of characters are shown, too. Full only when all is done."""
    halves = min(2 * width, math.floor(2 * width * max(0, done) / max(1, total)))
    full, half = divmod(halves, 2)
    line = Text("━" * full + "╸" * half, style)
    return line.append("─" * (width - full - half), "dim")


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line


def _lines(text: Text, width: int) -> int:
    return max(1, math.ceil(text.cell_len / max(1, width)))


def _total(view: StudyView) -> str:
    return "?" if view.total is None else str(view.total)


# -------------------------------------------------------------------- values for people


def number(value: float | None) -> str:
    """To four digits; empty if there is none."""
    return "" if value is None else f"{value:.4g}"


def state_name(state: str) -> str:
    """A state as people read it."""
    return state.lower().replace("_", " ")


def duration(seconds: float | None) -> str:
    """Days, hours, minutes and seconds as people write them: 2 d 3:04, 1:02:03, 2:03."""
    if seconds is None:
        return ""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours}:{minutes:02}"
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def cost(trials: int, used: Mapping[str, float]) -> str:
    """What a study took, in words.

    Args:
        used: wall_hours and device_hours.
    """
    spent = [f"{trials} trial{'' if trials == 1 else 's'}"]
    if (wall := used.get("wall_hours")) is not None:
        spent.append(f"{duration(round(wall * 3600, 3))} of drivers at work")
    if (devices := used.get("device_hours")) is not None:
        spent.append(f"{devices:.3g} device-hours")
    return ", ".join(spent)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Dotted keys by what tells them apart: as few of their last parts as do."""
    shortened = {}
    for name in names:
        parts = name.lstrip("+").split(".")
        own = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [other for other in names if other != name]
        shortened[name] = next(
            (text for text in own if not any(f".{other}".endswith(f".{text}") for other in others)), name
        )
    return shortened

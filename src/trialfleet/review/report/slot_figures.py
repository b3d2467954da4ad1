"""Who ran where and when: a line for each place that a trial can have."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from trialfleet.review.report.axes import cut, plain
from trialfleet.review.report.drawing import SCALE, STATE_COLORS, STATE_WORDS, Figure, Trace, numbers, points
from trialfleet.review.report.runs import LOST, Slot, slots
from trialfleet.review.report.view import View
from trialfleet.review.tables import duration

FEW = 500  # runs that are bars of their own; of more, how busy each place was is shown
PLACES = 64  # lines; of more, those of a node are one, and neighbouring nodes
MOMENTS = 160
LABELS = 24  # beside the lines


def timeline(view: View) -> Figure | None:
    """None before the first run."""
    if not view.runs:
        return None
    places = slots(view.runs)
    begin = min(run.start for run in view.runs)
    span = max(max(run.end for run in view.runs) - begin, 1.0)
    unit, seconds = next((unit for unit in (("hours", 3600), ("minutes", 60)) if span > 2 * unit[1]), ("seconds", 1))
    lost = sum(run.state == LOST for run in view.runs)
    if len(view.runs) <= FEW and len(places) <= PLACES:
        groups = [[place] for place in places]
        names = [_name(place, places) for place in places]
        data = _bars(groups, begin, seconds)
        note = "What is empty was idle."
    else:
        groups, names = _grouped(places)
        data = [_busy(groups, names, begin, span, seconds), *_losses(groups, begin, seconds)]
        note = "The stronger the colour, the busier; what is empty was idle."
    if lost:
        note += f" {lost} runs were lost."
    every = math.ceil(len(names) / LABELS)
    shown = range(0, len(names), every)
    layout = {
        "xaxis": {
            "title": {"text": f"{unit} since {datetime.fromtimestamp(begin, UTC):%Y-%m-%d %H:%M} UTC"},
            "range": numbers([-0.01 * span / seconds, 1.01 * span / seconds]),
        },
        "yaxis": {
            "tickvals": list(shown),
            "ticktext": [plain(cut(names[place], 16)) for place in shown],
            "range": [len(names) - 0.5, -0.5],
            "showgrid": False,
        },
        "barmode": "overlay",
        "bargap": 0.15,
    }
    height = int(min(560, max(180, 110 + 18 * len(names))))
    said = f"{len(view.runs)} runs in {len(places)} places over {duration(span)}"
    return Figure("slots", data, layout, height, said, note)


def _name(slot: Slot, places: Sequence[Slot]) -> str:
    node = slot.node or "this machine"
    several = any(other.node == slot.node and other.place > 0 for other in places)
    return f"{node} · {slot.place + 1}" if several else node


def _bars(groups: Sequence[Sequence[Slot]], begin: float, unit: int) -> list[Trace]:
    traces = []
    for state, color in STATE_COLORS.items():
        runs = [
            (at, run) for at, group in enumerate(groups) for slot in group for run in slot.runs if run.state == state
        ]
        if runs:
            texts = [
                f"trial {run.trial}, run {plain(run.label)}: {STATE_WORDS[state]}<br>{duration(run.seconds)}"
                + (f"<br>{plain(run.reason)}" if run.reason else "")
                for _, run in runs
            ]
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": STATE_WORDS[state],
                    "y": [at for at, _ in runs],
                    "base": numbers([(run.start - begin) / unit for _, run in runs]),
                    "x": numbers([run.seconds / unit for _, run in runs]),
                    "width": 0.8,
                    "marker": {"color": color, "line": {"width": 0.5, "color": "rgba(255,255,255,0.6)"}},
                    "text": texts,
                    "textposition": "none",
                    "hoverinfo": "text",
                }
            )
    return traces


def _grouped(places: Sequence[Slot]) -> tuple[list[list[Slot]], list[str]]:
    """Places that share a line: none if they are few, else those of a node, or of neighbouring nodes."""
    if len(places) <= PLACES:
        return [[place] for place in places], [_name(place, places) for place in places]
    by_node: dict[str, list[Slot]] = {}
    for place in places:
        by_node.setdefault(place.node, []).append(place)
    nodes = list(by_node)
    size = math.ceil(len(nodes) / PLACES)
    groups, names = [], []
    for start in range(0, len(nodes), size):
        several = nodes[start : start + size]
        groups.append([place for node in several for place in by_node[node]])
        first, last = several[0] or "this machine", several[-1] or "this machine"
        names.append(first if first == last else f"{first} to {last}")
    return groups, names


def _busy(groups: Sequence[Sequence[Slot]], names: Sequence[str], begin: float, span: float, unit: int) -> Trace:
    edges = np.linspace(0.0, span, MOMENTS + 1)
    table = []
    for group in groups:
        starts = np.array([run.start - begin for slot in group for run in slot.runs])
        ends = np.array([run.end - begin for slot in group for run in slot.runs])
        until = np.clip(edges[:, None] - starts, 0.0, ends - starts).sum(axis=1)  # busy seconds before each edge
        table.append(np.diff(until) / (span / MOMENTS) / len(group))
    busy = np.round(np.clip(np.array(table), 0.0, 1.0), 3)
    texts = [
        [f"{plain(name)}: {share:.0%} busy" if share else "" for share in row]
        for name, row in zip(names, busy, strict=True)
    ]
    return {
        "type": "heatmap",
        "x": numbers(edges / unit),
        "y": list(range(len(groups))),
        "z": [[share or None for share in row] for row in busy.tolist()],
        "text": texts,
        "hoverinfo": "text",
        "colorscale": SCALE,
        "showscale": False,
        "zmin": 0,
        "zmax": 1.1,
    }


def _losses(groups: Sequence[Sequence[Slot]], begin: float, unit: int) -> list[Trace]:
    lost = [(at, run) for at, group in enumerate(groups) for slot in group for run in slot.runs if run.state == LOST]
    if not lost:
        return []
    texts = [f"trial {run.trial}, run {plain(run.label)}: {plain(run.reason)}" for _, run in lost]
    x, y = numbers([(run.end - begin) / unit for _, run in lost]), [at for at, _ in lost]
    marker = {"symbol": "x-thin", "size": 6, "line": {"width": 1.5, "color": STATE_COLORS["FAIL"]}}
    return [points("lost", x, y, STATE_COLORS["FAIL"], marker=marker, text=texts, hoverinfo="text")]

"""How the study went: its history by trials and by the budget spent, its learning curves, its Pareto front."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trialfleet.review.report.axes import Axis, metric_axis, plain
from trialfleet.review.report.curves import Curve
from trialfleet.review.report.drawing import (
    BEST,
    COMPLETE,
    OTHER,
    PRUNED,
    STATE_COLORS,
    STATE_WORDS,
    Figure,
    Trace,
    along,
    areas,
    density,
    line,
    numbers,
    points,
)
from trialfleet.review.report.summaries import Bands, bands, cells, counts
from trialfleet.review.report.view import Floats, View
from trialfleet.review.tables import number
from trialfleet.sweep.study.index import ENDED, TrialRow

FEW = 600  # trials that are points; of more, quantiles and counts are shown
FEW_CURVES = 30
BINS = 60
BEST_CURVES = 5

# -------------------------------------------------------------------- history


def history(view: View, by_hours: bool) -> Figure:
    """What each trial came to, and the best so far, in the order in which trials ended.

    Args:
        by_hours: along the hours of devices spent, instead of the number of trials.
    """
    ended, metric = view.ended, view.study.metrics[0]
    x = ended.hours if by_hours else np.arange(1.0, len(ended.rows) + 1)
    title = "device-hours spent" if by_hours else "trials ended"
    across = Axis(title, "linear", 0.0, float(x[-1])) if by_hours else Axis(title, "linear", 0.5, len(x) + 0.5)
    up = view.objective_axis(0)
    y = up.places(ended.values.tolist())
    data = _all_trials(view, x, y, across, up)
    data += _best_so_far(view, x, across, up)
    data += _states(ended.rows, x, across)
    layout = {
        "xaxis": along(across, anchor="y2"),
        "yaxis": along(up, domain=[0.24, 1]),
        "yaxis2": {"domain": [0, 0.16], "title": {"text": "ended"}, "tick0": 0, "dtick": _step(data)},
        "barmode": "stack",
        "bargap": 0.05,
    }
    out = int(np.sum(np.isfinite(y) & ((y < up.low - 1e-12) | (y > up.high + 1e-12))))
    out += int(np.sum(np.isinf(ended.values)))
    note = f"{out} of the values lie beyond the picture, or are not finite." if out else ""
    said = f"{metric} of {len(view.complete)} complete trials, and the best so far, by {title}"
    return Figure("history-hours" if by_hours else "history", data, layout, 380, said, note)


def _all_trials(view: View, x: Floats, y: Floats, across: Axis, up: Axis) -> list[Trace]:
    known = np.isfinite(y)
    if known.sum() > FEW:
        return areas(bands(x, y, across.edges(BINS)), COMPLETE, up, "trials")
    rows = [row for row, there in zip(view.ended.rows, known, strict=True) if there]
    texts = [described(view, row) for row in rows]
    marker = {"size": 6, "opacity": 0.65}
    return [
        points("trial", numbers(x[known]), numbers(y[known]), COMPLETE, marker=marker, text=texts, hoverinfo="text")
    ]


def _best_so_far(view: View, x: Floats, across: Axis, up: Axis) -> list[Trace]:
    ended = view.ended
    if not ended.best:
        return []
    at = [float(x[place]) for place in ended.best]
    values = up.places([float(ended.values[place]) for place in ended.best]).tolist()
    texts = [described(view, ended.rows[place]) for place in ended.best]
    mode: dict[str, Any] = {"mode": "lines+markers", "marker": {"size": 5}, "line": {"shape": "hv"}}
    steps = line("best so far", numbers([*at, x[-1]]), numbers([*values, values[-1]]), BEST, **mode)
    return [{**steps, "text": [*texts, texts[-1]], "hoverinfo": "text"}]


def _states(rows: Sequence[TrialRow], x: Floats, across: Axis) -> list[Trace]:
    """How many ended how, in a strip below."""
    edges = across.edges(min(BINS, max(1, len(rows))))
    if not len(rows):
        return []
    bins = cells(x, edges)
    traces = []
    several = len({row.state for row in rows}) > 1
    for state in ENDED:
        here = np.array([row.state == state for row in rows])
        found = np.bincount(bins[here & (bins >= 0)], minlength=len(edges) - 1)
        if found.sum():
            traces.append(
                {
                    "type": "bar",
                    "name": STATE_WORDS[state],
                    "x": numbers((edges[1:] + edges[:-1]) / 2),
                    "width": numbers(np.diff(edges) * 0.95),
                    "y": found.tolist(),
                    "yaxis": "y2",
                    "marker": {"color": STATE_COLORS[state]},
                    "hovertemplate": "%{y} " + STATE_WORDS[state] + "<extra></extra>",
                    "showlegend": several,
                }
            )
    return traces


def _step(data: Sequence[Trace]) -> int:
    """Between the marks of an axis of counts, as many as the bars come to together: whole numbers, three at most."""
    bars = [np.array(trace["y"]) for trace in data if trace["type"] == "bar"]
    highest = int(np.sum(bars, axis=0).max()) if bars else 1
    return max(1, math.ceil(highest / 2))


def described(view: View, row: TrialRow) -> str:
    """A trial in a few lines, for whoever points at it."""
    values = zip(view.study.metrics, row.values or (), strict=False)
    lines = [f"trial {row.number}", *(f"{name} = {number(value)}" for name, value in values)]
    lines += [f"{view.short.get(name, name)} = {number(value)}" for name, value in list(row.params.items())[:8]]
    return "<br>".join(plain(text[:60]) for text in lines)


# -------------------------------------------------------------------- learning curves


def learning_curves(view: View, metric: str) -> Figure:
    """What trials reported, step by step; the best ones by themselves, and where the pruned ones ended."""
    found = [curve for curve in view.curves[metric] if np.isfinite(curve.values).any()]
    way = dict(zip(view.study.metrics, view.study.directions, strict=True)).get(metric)
    ends = np.concatenate([curve.values for curve in found]) if found else np.empty(0)
    up = metric_axis(metric, ends, _best_report(found, way))
    last = max((float(curve.steps[-1]) for curve in found), default=1.0)
    first = min((float(curve.steps[0]) for curve in found), default=0.0)
    across = Axis("step", "linear", first, last)
    others = [curve for curve in found if curve.state != "PRUNED"]
    pruned = [curve for curve in found if curve.state == "PRUNED"]
    best = {row.number: row for row in _best_rows(view)}
    data: list[Trace] = []
    if len(found) <= FEW_CURVES:
        plain_ones = [curve for curve in others if curve.number not in best]
        data += _single(plain_ones, up, COMPLETE, "complete, running or failed", 1.3, 0.6)
        data += _single(pruned, up, PRUNED, "pruned", 1.3, 0.9, "dot")
    else:
        if others:
            data += areas(_by_step(others, across, up), COMPLETE, up, "trials")
        if pruned:
            middle = _by_step(pruned, across, up)
            x, y = numbers(middle.middles), numbers(middle.quantiles[2])
            data.append(line("median of pruned", x, y, PRUNED, 2, line={"dash": "dot"}, hoverinfo="skip"))
    data += _pruned_ends(pruned, across, up)
    of_best = [curve for curve in found if curve.number in best]
    data += _single(of_best, up, BEST, "the best" if len(best) == 1 else f"the best {len(best)}", 1.8, 0.9)
    each = "one of them ended" if len(pruned) <= FEW_CURVES else "some of them ended, the larger the more"
    note = f"{len(pruned)} trials were pruned: each cross is where {each}." if pruned else ""
    said = f"{metric} by step, of {len(found)} trials"
    layout = {"xaxis": along(across), "yaxis": along(up)}
    return Figure(f"curves-{list(view.curves).index(metric)}", data, layout, 380, said, note)


def _best_rows(view: View) -> list[TrialRow]:
    if len(view.study.metrics) > 1:
        return view.study.front[:BEST_CURVES]
    return view.study.ranked()[:BEST_CURVES] if view.study.front else []


def _best_report(found: Sequence[Curve], way: str | None) -> float | None:
    finite = [curve.values[np.isfinite(curve.values)] for curve in found if way and curve.state == "COMPLETE"]
    values = [float(one.min() if way == "minimize" else one.max()) for one in finite if len(one)]
    return min(values, default=None) if way == "minimize" else max(values, default=None)


def _single(
    found: Sequence[Curve], up: Axis, color: str, name: str, width: float, opacity: float, dash: str = "solid"
) -> list[Trace]:
    """Curves one by one, as one line with gaps."""
    if not found:
        return []
    x: list[float] = []
    y: list[float] = []
    texts: list[str] = []
    for curve in found:
        x += [*curve.steps.tolist(), math.nan]
        y += [*up.places(curve.values.tolist()).tolist(), math.nan]
        texts += [
            *(
                f"trial {curve.number}, step {step:g}: {value:.4g}"
                for step, value in zip(curve.steps, curve.values, strict=True)
            ),
            "",
        ]
    more: dict[str, Any] = {"opacity": opacity, "text": texts, "hoverinfo": "text", "line": {"dash": dash}}
    if all(len(curve.steps) == 1 for curve in found):
        more |= {"mode": "markers", "marker": {"color": color, "size": 6}}
    return [line(name, numbers(x), numbers(y), color, width, **more)]


def _by_step(found: Sequence[Curve], across: Axis, up: Axis) -> Bands:
    """Quantiles at each step of what trials had last reported there, as long as they went on."""
    steps = np.unique(np.concatenate([curve.steps for curve in found]))
    if len(steps) > BINS:
        steps = across.edges(BINS)
    table = np.full((len(found), len(steps)), np.nan)
    for place, curve in enumerate(found):
        at = np.searchsorted(curve.steps, steps, side="right") - 1
        here = (at >= 0) & (steps <= curve.steps[-1] + 1e-9)
        table[place, here] = curve.values[at[here]]
    places = up.places(table.ravel().tolist()) if up.kind == "category" else _coordinates(table, up)
    kept = np.sum(np.isfinite(places), axis=0) > 0
    quantiles = np.nanquantile(places[:, kept], (0.1, 0.25, 0.5, 0.75, 0.9), axis=0) if kept.any() else np.empty((5, 0))
    return Bands(steps[kept], quantiles, np.sum(np.isfinite(places), axis=0)[kept])


def _coordinates(table: Floats, axis: Axis) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log10(table) if axis.kind == "log" else table.copy()
    found[~np.isfinite(found)] = np.nan
    return found


def _pruned_ends(pruned: Sequence[Curve], across: Axis, up: Axis) -> list[Trace]:
    if not pruned:
        return []
    x = np.array([curve.steps[-1] for curve in pruned])
    y = np.clip(up.places([float(curve.values[-1]) for curve in pruned]), up.low, up.high)
    across_edges, up_edges = across.edges(24), up.edges(16)
    table = counts(x, y, across_edges, up_edges)
    rows, columns = np.nonzero(table)
    many = table[rows, columns]
    if len(pruned) <= FEW_CURVES:
        known = np.isfinite(y)
        at_x, at_y, size = x[known], y[known], np.full(int(known.sum()), 8.0)
        texts = [f"trial {curve.number} was pruned here" for curve, there in zip(pruned, known, strict=True) if there]
    else:
        at_x, at_y = (across_edges[columns] + across_edges[columns + 1]) / 2, (up_edges[rows] + up_edges[rows + 1]) / 2
        size = 5 + 9 * np.sqrt(many / max(1, many.max() if len(many) else 1))
        texts = [f"{count} trials were pruned here" for count in many]
    marker = {"symbol": "x-thin", "size": numbers(size), "line": {"width": 1.5, "color": PRUNED}}
    return [
        points("where they ended", numbers(at_x), numbers(at_y), PRUNED, marker=marker, text=texts, hoverinfo="text")
    ]


# -------------------------------------------------------------------- several objectives


def pareto(view: View, across: int, up: int) -> Figure:
    """Two objectives against each other, and the trials that no other one beats in all of them."""
    study = view.study
    x_axis, y_axis = view.objective_axis(across), view.objective_axis(up)
    x = x_axis.places(view.values[:, across].tolist())
    y = y_axis.places(view.values[:, up].tolist())
    front = view.good
    data: list[Trace] = []
    if (~front).sum() > FEW:
        edges = x_axis.edges(BINS), y_axis.edges(40)
        data.append(density(*edges, counts(x[~front], y[~front], *edges), "trials"))
    else:
        rows = [row for row, there in zip(view.complete, front, strict=True) if not there]
        texts = [described(view, row) for row in rows]
        marker = {"size": 6, "opacity": 0.6}
        data.append(
            points("trial", numbers(x[~front]), numbers(y[~front]), OTHER, marker=marker, text=texts, hoverinfo="text")
        )
    order = np.lexsort((y[front], x[front]))
    members = [row for row, there in zip(view.complete, front, strict=True) if there]
    texts = [described(view, members[place]) for place in order]
    mode: dict[str, Any] = {
        "mode": "lines+markers" if len(study.metrics) == 2 else "markers",
        "marker": {"size": 8, "color": BEST},
    }
    shape = {"shape": "hv" if study.directions[up] == "minimize" else "vh", "width": 1.2}
    if study.directions[across] == "maximize":
        shape["shape"] = "vh" if shape["shape"] == "hv" else "hv"
    front_x, front_y = numbers(x[front][order]), numbers(y[front][order])
    data.append(
        {**line("Pareto front", front_x, front_y, BEST, line=shape, **mode), "text": texts, "hoverinfo": "text"}
    )
    names = [f"{study.metrics[place]} ({study.directions[place]})" for place in (across, up)]
    layout = {"xaxis": along(x_axis, names[0]), "yaxis": along(y_axis, names[1])}
    said = f"{study.metrics[up]} against {study.metrics[across]}: {len(members)} trials are on the front"
    return Figure(f"front-{across}-{up}", data, layout, 420, said)


# -------------------------------------------------------------------- several studies


def race(views: Sequence[View], names: Sequence[str], colors: Sequence[str], by_hours: bool) -> Figure:
    """The best so far of several studies."""
    found = [view.ended.values[view.ended.best] for view in views]
    every = np.concatenate([*found, np.empty(0)])
    up = metric_axis(views[0].study.metrics[0], every)
    if len(every):  # all of them: there are few
        places = up.places(every.tolist())
        up = Axis(up.name, up.kind, float(np.nanmin(places)), float(np.nanmax(places)))
    title = "device-hours spent" if by_hours else "trials ended"
    data, most = [], 0.0
    for view, name, color in zip(views, names, colors, strict=True):
        ended = view.ended
        x = ended.hours if by_hours else np.arange(1.0, len(ended.rows) + 1)
        most = max(most, float(x[-1]) if len(x) else 0.0)
        if ended.best:
            at = [float(x[place]) for place in ended.best]
            values = up.places([float(ended.values[place]) for place in ended.best]).tolist()
            texts = [f"{plain(name)}<br>{described(view, ended.rows[place])}" for place in ended.best]
            steps = line(name, numbers([*at, float(x[-1])]), numbers([*values, values[-1]]), color)
            data.append(
                steps
                | {"mode": "lines+markers", "marker": {"size": 5}, "text": [*texts, texts[-1]], "hoverinfo": "text"}
            )
            data[-1]["line"] = {**data[-1]["line"], "shape": "hv"}
    across = Axis(title, "linear", 0.0, most or 1.0)
    said = f"the best {views[0].study.metrics[0]} so far of {len(views)} studies, by {title}"
    layout = {"xaxis": along(across), "yaxis": along(up, f"best {up.name}")}
    return Figure("race-hours" if by_hours else "race", data, layout, 380, said)


def spread(views: Sequence[View], names: Sequence[str], colors: Sequence[str]) -> Figure:
    """The complete trials of several studies: quartiles, and 10 and 90 %."""
    values = [view.values[:, 0] for view in views]
    up = metric_axis(views[0].study.metrics[0], np.concatenate([*values, np.empty(0)]))
    data: list[Trace] = []
    for at, (name, color, found) in enumerate(zip(names, colors, values, strict=True)):
        places = up.places(found.tolist())
        places = places[np.isfinite(places)]
        if len(places):
            low, first, middle, third, high = (
                [value] for value in numbers(np.quantile(places, (0.1, 0.25, 0.5, 0.75, 0.9)))
            )
            box = {"q1": first, "median": middle, "q3": third, "lowerfence": low, "upperfence": high}
            data.append(
                {"type": "box", "name": plain(name), "x": [at], "marker": {"color": color}, "showlegend": False, **box}
            )
    texts = [plain(name[:24]) for name in names]
    layout = {
        "xaxis": {"tickvals": list(range(len(names))), "ticktext": texts},
        "yaxis": along(up),
    }
    said = f"{views[0].study.metrics[0]} of the complete trials of {len(views)} studies: 10, 25, 50, 75 and 90 %"
    return Figure("spread", data, layout, 340, said)

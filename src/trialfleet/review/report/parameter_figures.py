"""What parameters do: slices, parallel coordinates, and a map of the two that matter most."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trialfleet.review.report.axes import Axis, cut, plain
from trialfleet.review.report.drawing import (
    BEST,
    COMPLETE,
    OTHER,
    Figure,
    Trace,
    along,
    areas,
    density,
    line,
    numbers,
    points,
    shaded,
    star,
)
from trialfleet.review.report.progress_figures import described
from trialfleet.review.report.summaries import bands, cells, counts
from trialfleet.review.report.view import View

FEW = 300  # trials that are points
FEW_LINES = 120  # trials that are lines of their own through parallel axes
SLICES = 12  # parameters that have a picture
AXES = 8  # parameters in parallel coordinates
GRID = 40  # cells along an axis of the map
WITHOUT = -0.12  # where a line goes through the axis of a parameter that its trial does not have

# -------------------------------------------------------------------- slices


def slices(view: View, objective: int) -> list[Figure]:
    """An objective against each parameter, the most important first."""
    return [_slice(view, objective, place, axis) for place, axis in enumerate(view.axes[:SLICES])]


def _slice(view: View, objective: int, place: int, axis: Axis) -> Figure:
    up = view.objective_axis(objective)
    x = axis.places([row.params.get(axis.name) for row in view.complete])
    y = up.places(view.values[:, objective].tolist())
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() > FEW:
        across = axis.edges(30)
        data: list[Trace] = [density(across, up.edges(24), counts(x, y, across, up.edges(24)), "trials")]
        middle = bands(x, y, axis.edges(12))
        median = areas(middle, COMPLETE, up, "trials")[-1]
        data.append({**median, "line": {"color": OTHER, "width": 2}, "mode": "lines+markers", "marker": {"size": 4}})
    else:
        rows = [row for row, there in zip(view.complete, known, strict=True) if there]
        texts = [described(view, row) for row in rows]
        marker = {"size": 6, "opacity": 0.65}
        shown_x = x[known] + _jitter(axis, [row.number for row in rows])
        data = [
            points("trial", numbers(shown_x), numbers(y[known]), COMPLETE, marker=marker, text=texts, hoverinfo="text")
        ]
    data += _best_star(view, objective, axis, up)
    layout = {"xaxis": along(axis, view.short.get(axis.name, axis.name)), "yaxis": along(up), "showlegend": False}
    without = len(view.complete) - int(np.sum(np.isfinite(x)))
    note = f"{without} trials do not have it." if without else ""
    said = f"{view.study.metrics[objective]} against {axis.name}"
    return Figure(f"slice-{objective}-{place}", data, layout, 260, said, note)


def _jitter(axis: Axis, seeds: list[int]) -> NDArray[np.float64]:
    """Beside a category's middle, so that points do not hide each other; each trial's own, and always the same."""
    if axis.kind != "category":
        return np.zeros(len(seeds))
    return np.array([((seed * 0.618034) % 1.0 - 0.5) * 0.5 for seed in seeds])


def _best_star(view: View, objective: int, axis: Axis, up: Axis) -> list[Trace]:
    best = view.best_of(objective)
    if best is None or best.values is None:
        return []
    x, y = axis.places([best.params.get(axis.name)])[0], up.places([best.values[objective]])[0]
    return [star("best", x, y, f"the best: trial {best.number}")] if np.isfinite(x) and np.isfinite(y) else []


# -------------------------------------------------------------------- parallel coordinates


def parallel(view: View) -> Figure:
    """Each trial's way through its parameters to its objectives: the best ones over all others."""
    axes = view.axes[:AXES]
    columns = [axis.share(axis.places([row.params.get(axis.name) for row in view.complete])) for axis in axes]
    for place in range(min(2, len(view.study.metrics))):
        axis = view.objective_axis(place)
        column = axis.share(axis.places(view.values[:, place].tolist()))
        columns.append(np.clip(column, -0.03, 1.03))
        axes.append(axis)
    table = np.array(columns).T.reshape(len(view.complete), len(axes))
    table = np.where(np.isnan(table), WITHOUT, table)  # a place for what a trial does not have
    good = view.good
    several = len(view.study.metrics) > 1
    best = f"the best {int(good.sum())}" if good.sum() > 1 else "the best"
    named = ("on the Pareto front" if several else best, "the others")
    if len(table) <= FEW_LINES:
        data = _ways(table[~good], OTHER, 1.0, 0.55, named[1]) + _ways(table[good], BEST, 2.0, 0.85, named[0])
    else:
        stops = [_stops(axis) for axis in axes]
        data = _streams(table[~good], stops, OTHER, 0.55, named[1])
        data += _streams(table[good], stops, BEST, 0.85, named[0])
    layout = {
        "xaxis": {
            "tickvals": list(range(len(axes))),
            "ticktext": [plain(cut(view.short.get(axis.name, axis.name), 18)) for axis in axes],
            "range": [-0.15, len(axes) - 0.85],
            "showgrid": True,
            "ticklabeloverflow": "allow",
        },
        "yaxis": {"visible": False, "range": [-0.2, 1.12]},
        "annotations": [note for place, axis in enumerate(axes) for note in _ends_of(place, axis)],
    }
    missing = bool(np.any(table <= WITHOUT))
    note = "A line at the very bottom: the trial does not have that parameter." if missing else ""
    said = f"parallel coordinates of {len(table)} complete trials over {len(axes)} axes"
    return Figure("parallel", data, layout, 420, said, note)


def _ends_of(place: int, axis: Axis) -> list[dict[str, object]]:
    """What the ends of one of the axes are; a category is written where it is."""
    if axis.kind == "category" and len(axis.categories) <= 6:
        shares = axis.share(np.arange(len(axis.categories), dtype=float)).tolist()
        marks = list(zip(shares, axis.categories, strict=True))
    else:
        marks = [(0.0, axis.shown(axis.low)), (1.0, axis.shown(axis.high))]
    common = {
        "x": place,
        "showarrow": False,
        "xanchor": "center",
        "font": {"size": 10},
    }
    return [{**common, "y": share, "text": plain(cut(text, 10))} for share, text in marks]


def _ways(table: NDArray[np.float64], color: str, width: float, opacity: float, name: str) -> list[Trace]:
    if not len(table):
        return []
    gap = np.full((len(table), 1), np.nan)
    y = np.hstack([table, gap]).ravel()
    x = np.tile([*range(table.shape[1]), np.nan], len(table))
    return [line(name, numbers(x), numbers(y), color, width, opacity=opacity, hoverinfo="skip")]


@dataclass(frozen=True)
class Stops:
    """Where streams go through an axis, in parts of its length; the first bin is that of trials without a value."""

    edges: NDArray[np.float64]
    middles: NDArray[np.float64]


def _stops(axis: Axis) -> Stops:
    inner = axis.share(axis.edges(16))
    return Stops(np.array([-0.2, -0.06, *inner[1:-1], 1.06]), np.array([WITHOUT, *(inner[1:] + inner[:-1]) / 2]))


def _streams(table: NDArray[np.float64], stops: list[Stops], color: str, opacity: float, name: str) -> list[Trace]:
    """Trials that go from one bin to the same next one, as one line: the more there are, the wider and darker."""
    classes: dict[int, tuple[list[float], list[float]]] = {}
    for place, (left, right) in enumerate(pairwise(stops)):
        from_bins, to_bins = cells(table[:, place], left.edges), cells(table[:, place + 1], right.edges)
        inside = (from_bins >= 0) & (to_bins >= 0)
        keys, found = np.unique(np.stack([from_bins[inside], to_bins[inside]]), axis=1, return_counts=True)
        most = max(1, int(found.max())) if len(found) else 1
        for (start, end), count in zip(keys.T, found, strict=True):
            x, y = classes.setdefault(int(np.ceil(5 * count / most)), ([], []))
            x += [place, place + 1, np.nan]
            y += [left.middles[start], right.middles[end], np.nan]
    traces = []
    for size in sorted(classes):
        x, y = classes[size]
        shade = shaded(color, round(opacity * (0.12 + 0.88 * (size / 5) ** 1.5), 3))
        more = {"hoverinfo": "skip", "showlegend": size == max(classes), "legendgroup": name}
        traces.append(line(name, numbers(x), numbers(y), shade, 0.6 + 1.1 * size, **more))
    return traces


# -------------------------------------------------------------------- a map


def landscape(view: View, objective: int) -> Figure | None:
    """The objective over the two most important parameters; None where there are no two, or too few trials."""
    if len(view.axes) < 2 or len(view.complete) < 5:
        return None
    across, up = view.axes[:2]
    value = view.objective_axis(objective)
    x = across.places([row.params.get(across.name) for row in view.complete])
    y = up.places([row.params.get(up.name) for row in view.complete])
    z = np.clip(value.places(view.values[:, objective].tolist()), value.low, value.high)
    known = np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    if known.sum() < 5:
        return None
    edges = across.edges(GRID), up.edges(GRID)
    surface, texts = _smoothed(x[known], y[known], z[known], edges, (across, up), value)
    less = view.study.directions[objective] == "minimize"
    smooth = across.kind != "category" and up.kind != "category"
    middles = [(one[1:] + one[:-1]) / 2 for one in edges]
    trace: Trace = {
        "type": "contour" if smooth else "heatmap",
        "x": numbers(middles[0]),
        "y": numbers(middles[1]),
        "z": [numbers(row) for row in surface],
        "text": texts,
        "hoverinfo": "text",
        "colorscale": "Viridis",
        "reversescale": less,
        "colorbar": {"thickness": 10, "outlinewidth": 0, **_bar_ticks(value)},
        **(
            {"contours": {"showlines": True}, "line": {"width": 0.5, "color": "rgba(128,128,128,0.6)"}, "ncontours": 14}
            if smooth
            else {}
        ),
    }
    data = [trace]
    if known.sum() <= FEW:
        rows = [row for row, there in zip(view.complete, known, strict=True) if there]
        marker = {"size": 5, "color": "rgba(20,20,20,0.55)", "line": {"width": 0.7, "color": "rgba(255,255,255,0.8)"}}
        told = [described(view, row) for row in rows]
        data.append(
            points("trial", numbers(x[known]), numbers(y[known]), OTHER, marker=marker, text=told, hoverinfo="text")
        )
    best = view.best_of(objective)
    if best is not None:
        at = [axis.places([best.params.get(axis.name)])[0] for axis in (across, up)]
        if np.isfinite(at).all():
            data.append(star("best", float(at[0]), float(at[1]), f"the best: trial {best.number}"))
    names = [view.short.get(axis.name, axis.name) for axis in (across, up)]
    layout = {"xaxis": along(across, names[0]), "yaxis": along(up, names[1]), "showlegend": False}
    said = f"{view.study.metrics[objective]} over {across.name} and {up.name}"
    note = "The mean of the trials around each point; empty where none is near."
    return Figure(f"landscape-{objective}", data, layout, 400, said, note)


def _smoothed(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    edges: tuple[NDArray[np.float64], NDArray[np.float64]],
    axes: tuple[Axis, Axis],
    value: Axis,
) -> tuple[NDArray[np.float64], list[list[str]]]:
    """Means by cell, each with its neighbours by a Gaussian kernel (Nadaraya-Watson); NaN where there are no trials.

    Rows go up, columns across. Between categories nothing is smoothed.
    """
    from scipy.ndimage import gaussian_filter

    table = counts(x, y, *edges)
    columns, rows = cells(x, edges[0]), cells(y, edges[1])
    sums = np.zeros(table.shape)
    inside = (columns >= 0) & (rows >= 0)
    np.add.at(sums, (rows[inside], columns[inside]), z[inside])
    width = 2.2 if len(x) < FEW else 1.2
    widths = [0.0 if len(edges[place]) - 1 < GRID else width for place in (1, 0)]
    weights = gaussian_filter(table.astype(float), widths, mode="constant")
    totals = gaussian_filter(sums, widths, mode="constant")
    with np.errstate(divide="ignore", invalid="ignore"):
        surface = np.where(weights > 2e-3, totals / weights, np.nan)
    texts = [
        [
            "" if np.isnan(mean) else f"{value.shown(mean)}<br>{count} trials in this cell"
            for mean, count in zip(*row, strict=True)
        ]
        for row in zip(surface, table, strict=True)
    ]
    return surface, texts


def _bar_ticks(axis: Axis) -> dict[str, object]:
    return axis.ticks() if axis.kind == "log" else {}

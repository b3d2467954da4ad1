"""Figures as plotly's JSON, and the few kinds of lines and areas that they are made of.

They are made as plain dictionaries: plotly's classes of them take seconds to import and to check a report's worth.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialfleet.review.report.axes import Axis, cut, plain
from trialfleet.review.report.summaries import Bands

Trace = dict[str, Any]

# Seen on white and on black, and told apart by people who see red and green alike.
COMPLETE, BEST, PRUNED, FAILED, RUNNING, OTHER = "#4a90d9", "#12a37f", "#e3a008", "#d9534f", "#9b6dd6", "#8b929c"
STATE_COLORS = {"COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": FAILED, "LOST": "#b5589f", "RUNNING": RUNNING}
STATE_WORDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "LOST": "lost", "RUNNING": "running"}
# Of counts: the same on a light page and on a dark one.
SCALE = [[0.0, "rgba(74,144,217,0.06)"], [0.4, "rgba(74,144,217,0.4)"], [1.0, "rgba(74,144,217,1)"]]


@dataclass(frozen=True)
class Figure:
    """One picture.

    Attributes:
        name: of the picture in the page.
        data, layout: plotly's; what is the same in all of them the page adds.
        height: in pixels.
        said: what it shows, for whoever cannot see it.
        note: what is to be known when looking at it; below the picture.
    """

    name: str
    data: list[Trace]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 340
    said: str = ""
    note: str = ""


def numbers(values: Iterable[Any]) -> list[Any]:
    """Numbers as the page holds them: six digits; None of what is no finite number."""
    return [None if not math.isfinite(value) else float(f"{value:.6g}") for value in map(float, values)]


def along(axis: Axis, title: str | None = None, **more: Any) -> dict[str, Any]:
    """The axis as plotly has it."""
    low, high = axis.ends
    margin = 0.0 if axis.kind == "category" else (high - low) * 0.04
    return {
        "title": {"text": plain(cut(axis.name if title is None else title, 44))},
        "range": numbers([low - margin, high + margin]),
        **axis.ticks(),
        **more,
    }


def line(name: str, x: Sequence[Any], y: Sequence[Any], color: str, width: float = 2, **more: Any) -> Trace:
    drawn = {"color": color, "width": width, **more.pop("line", {})}
    return {"type": "scatter", "mode": "lines", "name": plain(name), "x": x, "y": y, "line": drawn, **more}


def points(name: str, x: Sequence[Any], y: Sequence[Any], color: str, **more: Any) -> Trace:
    """Args:
    more: `marker` is added to the marker.
    """
    marker = {"color": color, "size": 7, **more.pop("marker", {})}
    return {"type": "scatter", "mode": "markers", "name": plain(name), "x": x, "y": y, "marker": marker, **more}


def star(name: str, x: float, y: float, text: str) -> Trace:
    """The best trial."""
    marker = {"symbol": "star", "size": 14, "line": {"width": 1, "color": "rgba(255,255,255,0.9)"}}
    return points(name, numbers([x]), numbers([y]), BEST, marker=marker, text=[plain(text)], hoverinfo="text")


def areas(found: Bands, color: str, axis: Axis, what: str) -> list[Trace]:
    """Quantiles as two areas and a line: 10 to 90 %, 25 to 75 %, the median.

    Args:
        axis: of the values, which are in its coordinates; for what is said of a point.
        what: is counted.
    """
    x = numbers(found.middles)
    texts = [
        f"median {axis.shown(row[2])}, 80 % between {axis.shown(row[0])} and {axis.shown(row[4])} ({count} {what})"
        for row, count in zip(found.quantiles.T, found.counts, strict=True)
    ]
    traces = []
    for low, high, shade, name in ((0, 4, 0.14, "10 to 90 %"), (1, 3, 0.22, "25 to 75 %")):
        edge = {"width": 0, "shape": "linear"}
        common = {"hoverinfo": "skip", "legendgroup": name}
        traces.append(line(name, x, numbers(found.quantiles[low]), color, 0, line=edge, showlegend=False, **common))
        fill = {"fill": "tonexty", "fillcolor": shaded(color, shade)}
        traces.append(line(name, x, numbers(found.quantiles[high]), color, 0, line=edge, **fill, **common))
        traces[-1]["line"] = {**edge, "color": color}
    middle = line("median", x, numbers(found.quantiles[2]), color, 2, text=texts, hoverinfo="text")
    return [*traces, middle]


def density(across: NDArray[np.float64], up: NDArray[np.float64], table: NDArray[np.int64], what: str) -> Trace:
    """Counts by cell; shades go by their logarithm, so that a single trial is seen beside thousands.

    Args:
        across, up: edges of the cells.
    """
    with np.errstate(divide="ignore"):
        shades = np.where(table > 0, np.log10(np.maximum(table, 1)) + 0.3, np.nan)
    return {
        "type": "heatmap",
        "x": numbers(across),
        "y": numbers(up),
        "z": [numbers(row) for row in shades],
        "text": [[f"{count} {what}" if count else "" for count in row] for row in table.tolist()],
        "hoverinfo": "text",
        "hoverongaps": False,
        "colorscale": SCALE,
        "showscale": False,
        "zmin": 0,
    }


def shaded(color: str, share: float) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"

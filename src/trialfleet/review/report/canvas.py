"""A figure's JSON drawn by matplotlib, for pictures: the few kinds of traces that `drawing` and its users make."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trialfleet.review.report.drawing import Figure, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINT = 0.72  # points of a picture of 100 dots per inch in a pixel of the page
GRID, FRAME, SOFT = "#e4e7eb", "#c6ccd4", "#5b6470"
SHAPES = {"hv": "steps-post", "vh": "steps-pre"}
LEVELS = 14
MANY, LONG = 5, 6  # ticks and characters of one, from which on they are written aslant


def draw(axes: "Sequence[Axes]", figure: Figure) -> None:
    """Draw a figure.

    Args:
        axes: one, or two if the figure has a second y axis, which is the lower one.
    """
    bottoms: dict[int, NDArray[np.float64]] = {}
    edge: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None  # the line that an area goes down to
    for trace in figure.data:
        place = 1 if trace.get("yaxis") == "y2" else 0
        axis = axes[place]
        match trace["type"]:
            case "scatter":
                edge = _scatter(axis, trace, edge)
            case "bar":
                stacked = figure.layout.get("barmode") == "stack"
                bottoms[place] = _bars(axis, trace, bottoms.get(place) if stacked else None)
            case _:
                _cells(axis, trace)
    for place, axis in enumerate(axes):
        _dress(axis, figure.layout, "yaxis2" if place else "yaxis", lowest=place == len(axes) - 1)
    for note in figure.layout.get("annotations", ()):
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
        axes[0].text(note["x"], note["y"], words(note["text"]), ha="center", va="center", fontsize=7.5, bbox=box)
    entries = [axis.get_legend_handles_labels() for axis in axes]
    handles, labels = [one for found, _ in entries for one in found], [one for _, found in entries for one in found]
    if len(handles) > 1 and figure.layout.get("showlegend", True):
        anchor = (0.0, 1.0)
        axes[0].legend(
            handles, labels, frameon=False, fontsize=8, borderaxespad=0.2, loc="lower left", bbox_to_anchor=anchor,
            ncols=len(handles),
        )  # fmt: skip


def words(text: object) -> str:
    """A text as it was, before `axes.plain`."""
    return html.unescape(str(text))


def _scatter(
    axis: "Axes", trace: Trace, edge: tuple[NDArray[np.float64], NDArray[np.float64]] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = _floats(trace["x"]), _floats(trace["y"])
    drawn, mode = trace.get("line", {}), trace["mode"]
    label = words(trace.get("name", "")) if trace.get("showlegend", True) else ""
    alpha = trace.get("opacity")
    if trace.get("fill") == "tonexty" and edge is not None:
        color, share = _color(trace["fillcolor"])
        axis.fill_between(x, edge[1], y, color=color, alpha=share, linewidth=0, label=label)
    elif "lines" in mode and drawn.get("width", 2):
        color, share = _color(drawn.get("color"))
        style = ":" if drawn.get("dash") == "dot" else "-"
        width = drawn.get("width", 2) * POINT
        shape = SHAPES.get(drawn.get("shape", ""), "default")
        axis.plot(
            x, y, style, color=color, alpha=share * (1 if alpha is None else alpha), linewidth=width, drawstyle=shape,
            label=label,
        )  # fmt: skip
        label = ""
    if "markers" in mode:
        _markers(axis, x, y, trace.get("marker", {}), drawn.get("color"), label)
    return x, y


def _markers(
    axis: "Axes", x: NDArray[np.float64], y: NDArray[np.float64], marker: Mapping[str, Any], other: Any, label: str
) -> None:
    around = marker.get("line", {})
    thin = marker.get("symbol") == "x-thin"
    color, share = _color(around.get("color") if thin else marker.get("color", other))
    sizes = (_floats(marker["size"]) if isinstance(marker.get("size"), list) else float(marker.get("size", 6))) * POINT
    more: dict[str, Any] = {"linewidths": around.get("width", 0) * POINT}
    if not thin:
        more["edgecolors"] = _color(around["color"])[0] if around.get("color") else "none"
    symbol = "x" if thin else "*" if marker.get("symbol") == "star" else "o"
    star = 1.6 if symbol == "*" else 1.0
    axis.scatter(
        x, y, s=(sizes * star) ** 2, marker=symbol, color=color, alpha=share * marker.get("opacity", 1.0), label=label,
        zorder=3, **more,
    )  # fmt: skip


def _bars(axis: "Axes", trace: Trace, bottom: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The upper ends of the bars, for those that stand on them."""
    x, y = _floats(trace["x"]), _floats(trace["y"])
    label = words(trace.get("name", "")) if trace.get("showlegend", True) else ""
    color = trace["marker"]["color"]
    if trace.get("orientation") == "h":
        axis.barh(y, x, trace.get("width", 0.8), left=_floats(trace["base"]), color=color, label=label, linewidth=0)
        return y
    bottom = np.zeros(len(y)) if bottom is None else bottom
    axis.bar(x, y, _floats(trace["width"]), bottom=bottom, color=color, label=label, linewidth=0)
    return bottom + y


def _cells(axis: "Axes", trace: Trace) -> None:
    """A heat map, or levels of one."""
    from matplotlib.colors import LinearSegmentedColormap

    x, y = _floats(trace["x"]), _floats(trace["y"])
    z = np.ma.masked_invalid(np.array([_floats(row) for row in trace["z"]]))
    if z.count() == 0:
        return
    scale = trace["colorscale"]
    named = isinstance(scale, str)
    colors: Any = f"{scale.lower()}{'_r' if trace.get('reversescale') else ''}" if named else None
    if not named:
        stops = [(at, (*(part / 255 for part in _rgb(text)), _color(text)[1])) for at, text in scale]
        colors = LinearSegmentedColormap.from_list("counts", stops)
    if trace["type"] == "contour" and z.min() < z.max():
        levels = np.linspace(float(z.min()), float(z.max()), LEVELS)
        shown: Any = axis.contourf(x, y, z, levels=levels, cmap=colors)
        axis.contour(x, y, z, levels=levels, colors="#808080", linewidths=0.35, alpha=0.6)
    else:
        edges = _edges(x, z.shape[1]), _edges(y, z.shape[0])
        shown = axis.pcolormesh(*edges, z, cmap=colors, vmin=trace.get("zmin"), vmax=trace.get("zmax"))
    if trace.get("showscale", True):
        bar = axis.figure.colorbar(shown, ax=axis, fraction=0.04, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, length=0)
        ticks = trace.get("colorbar", {})
        if "tickvals" in ticks:
            inside = [at for at, value in enumerate(ticks["tickvals"]) if z.min() <= value <= z.max()]
            bar.set_ticks([ticks["tickvals"][at] for at in inside])
            bar.set_ticklabels([words(ticks["ticktext"][at]) for at in inside])


def _dress(axis: "Axes", layout: Mapping[str, Any], up: str, lowest: bool) -> None:
    """Titles, ticks and ends of the axes, as the layout has them."""
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, length=0, colors=SOFT)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FRAME)
    for name, one in (("xaxis", layout.get("xaxis", {})), (up, layout.get(up, {}))):
        across = name == "xaxis"
        own = axis.xaxis if across else axis.yaxis
        own.grid(one.get("showgrid", True), color=GRID, linewidth=0.6)
        ends = one.get("range", ())
        if len(ends) == 2 and all(end is not None and math.isfinite(end) for end in ends):
            (axis.set_xlim if across else axis.set_ylim)(*ends)
        if not one.get("visible", True):
            own.set_visible(False)
            axis.spines["bottom" if across else "left"].set_visible(False)
        elif "tickvals" in one:
            texts = [words(text) for text in one["ticktext"]]
            own.set_ticks(one["tickvals"], texts)
            if across and len(texts) > MANY and max(map(len, texts)) > LONG:
                axis.tick_params(axis="x", labelrotation=20)
        elif one.get("nticks"):
            axis.locator_params(axis="x" if across else "y", nbins=one["nticks"], integer=True)
        title = words(one.get("title", {}).get("text", ""))
        if across and not lowest:
            axis.tick_params(labelbottom=False)
        elif title:
            (axis.set_xlabel if across else axis.set_ylabel)(title, fontsize=8.5, color=SOFT)


def _edges(places: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The ends of `count` cells: the places themselves, or halfway between them where they are middles."""
    if len(places) == count + 1:
        return places
    step = np.diff(places) / 2 if count > 1 else np.array([0.5])
    return np.concatenate([places[:1] - step[:1], (places[1:] + places[:-1]) / 2, places[-1:] + step[-1:]])


def _floats(values: Sequence[Any]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def _rgb(text: str) -> list[float]:
    return [float(part) for part in text[text.index("(") + 1 :].rstrip(")").split(",")[:3]]


def _color(text: Any) -> tuple[Any, float]:
    """A colour as matplotlib has it, and how much of it covers what is below."""
    if not isinstance(text, str) or not text.startswith("rgba("):
        return text or SOFT, 1.0
    return tuple(part / 255 for part in _rgb(text)), float(text.rstrip(")").rpartition(",")[2])

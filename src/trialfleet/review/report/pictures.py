"""The figures of a report as small PNG files, for places that show pictures and run no scripts: MLflow's artifacts.

A picture says by itself which study it is of, how that stood, and what is to be seen.
"""

import os
import re
import sys
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trialfleet.review.report import canvas
from trialfleet.review.report.account import FAILED as FAILED_HOURS
from trialfleet.review.report.account import FAULTS
from trialfleet.review.report.axes import cut, plain
from trialfleet.review.report.drawing import COMPLETE, FAILED, Figure, Trace, numbers
from trialfleet.review.report.sections import Sections
from trialfleet.review.report.view import View
from trialfleet.review.report.wording import hours_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

FOLDER = "figures"  # in the folder that pictures are asked into, and in MLflow
WIDTH = 1000  # pixels
DOTS = 100  # per inch
NAME = re.compile(r"\d-[\w.-]+\.png")  # of a picture of ours
BARS = 20  # of importances
STYLE = {"text.usetex": False, "text.parse_math": False, "axes.unicode_minus": False, "font.family": "DejaVu Sans"}


@dataclass(frozen=True)
class Picture:
    """One file: figures beside each other under a title.

    Attributes:
        name: of the file; in the order of the names they are to be seen.
        columns: of figures.
    """

    name: str
    title: str
    figures: Sequence[Figure]
    columns: int = 1


def import_matplotlib() -> None:
    """Import what takes most of the time of a small study's pictures, before they are to be drawn."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401


def write(made: Sections, folder: Path) -> list[Path]:
    """Write the pictures of a report into `folder`/figures, and remove older ones that it has no more.

    A picture that cannot be drawn is left out, with a word on stderr: nobody is to go without the others for it.

    Args:
        made: the report's sections, after `all`.

    Raises:
        OSError: they cannot be written.
    """
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    under = f"{cut(made.study.name, 60)} · {made.standing()}"
    written = []
    for picture in pictures(made):
        path = target / f"{picture.name}.png"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            _draw(picture, under, temporary)
            temporary.replace(path)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever matplotlib thinks of a study's numbers
            print(f"{path} could not be drawn: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        finally:
            temporary.unlink(missing_ok=True)
        written.append(path)
    for path in target.glob("*.png"):
        if NAME.fullmatch(path.name) and path not in written:
            path.unlink()
    return written


def pictures(made: Sections) -> list[Picture]:
    """What there is to be seen of a study, what matters most first."""
    view, metrics = made.view, made.view.study.metrics
    by_kind: dict[str, list[Figure]] = {}
    for figure in made.figures:
        by_kind.setdefault(figure.name.partition("-")[0], []).append(figure)

    def of_objective(kind: str, place: int) -> list[Figure]:
        """The maps or slices of one objective."""
        return [one for one in by_kind.get(kind, ()) if one.name.split("-")[1] == str(place)]

    found = [Picture("1-pareto-front", "The Pareto front", by_kind.get("front", []), 1)]
    found.append(Picture("2-history", f"{metrics[0]} as the study went on", by_kind.get("history", []), 2))
    for figure, metric in zip(
        by_kind.get("curves", ()), (name for name, had in view.curves.items() if had), strict=True
    ):
        found.append(Picture(f"3-curves-{_slug(metric)}", f"Learning curves: {metric}", [figure]))
    found.append(Picture("4-importance", "What each parameter explains of the differences", _importances(view), 1))
    found.append(Picture("5-parallel", "All parameters of complete trials together", by_kind.get("parallel", [])))
    for place, metric in enumerate(metrics):
        name = f"-{_slug(metric)}" if len(metrics) > 1 else ""
        maps = of_objective("landscape", place)
        over = " and ".join(view.short.get(axis.name, axis.name) for axis in view.axes[:2])
        found.append(Picture(f"6-map{name}", f"{metric} over {over}", maps))
        slices = of_objective("slice", place)
        found.append(Picture(f"7-parameters{name}", f"{metric} against each parameter", slices, min(3, len(slices))))
    found.append(Picture("8-places", "Who ran where", by_kind.get("slots", [])))
    found.append(Picture("9-hours", "Where the device-hours went", _hours(view)))
    return [picture for picture in found if picture.figures]


def _importances(view: View) -> list[Figure]:
    """What the page has as bars of its own."""
    several = len(view.study.metrics) > 1
    return [
        _bars(f"importance-{place}", list(shares.items())[:BARS], [f"{share:.0%}" for share in shares.values()],
              view.study.metrics[place] if several else "")
        for place, shares in enumerate(view.importances)
    ]  # fmt: skip


def _hours(view: View) -> list[Figure]:
    spent = view.account.spent
    return [_bars("hours", list(spent.items()), [hours_text(one) for one in spent.values()], "")] if spent else []


def _bars(name: str, entries: Sequence[tuple[str, float]], texts: Iterable[str], title: str) -> Figure:
    bad = {entry for entry, _ in entries} & {FAILED_HOURS, FAULTS}
    lengths = [length for _, length in entries]
    data: list[Trace] = [
        {"type": "bar", "orientation": "h", "y": [place], "x": numbers([length]), "base": [0.0], "width": 0.7,
         "marker": {"color": FAILED if entry in bad else COMPLETE}, "showlegend": False}
        for place, (entry, length) in enumerate(entries)
    ]  # fmt: skip
    labels = [f"{cut(entry, 34)}  {said}" for (entry, _), said in zip(entries, texts, strict=False)]
    layout = {
        "xaxis": {"visible": False, "range": numbers([0.0, (max(lengths) or 1.0) * 1.02]), "title": {"text": title}},
        "yaxis": {
            "tickvals": list(range(len(entries))),
            "ticktext": [plain(label) for label in labels],
            "range": [len(entries) - 0.4, -0.6],
            "showgrid": False,
        },
    }
    return Figure(name, data, layout, 70 + 24 * len(entries), note=title and f"For {title}.")


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("._")[:60] or "metric"


def _draw(picture: Picture, under: str, path: Path) -> None:
    """Args:
    under: what is said below the title.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Sheet

    columns = picture.columns
    rows = -(-len(picture.figures) // columns)
    heights = [max(one.height for one in picture.figures[row * columns : (row + 1) * columns]) for row in range(rows)]
    title = textwrap.wrap(picture.title, 90) or [""]
    # Whatever a person's matplotlibrc says; names may be in letters that the font lacks, of which it warns.
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]  # it takes names of its own alone
        height = sum(heights) + 62 + 16 * len(title)
        mpl.rcParams["figure.constrained_layout.w_pad"] = 0.1
        sheet = Sheet(figsize=(WIDTH / DOTS, height / DOTS), dpi=DOTS, layout="constrained", facecolor="white")
        ratios = [(height - sum(heights)) / sum(heights), 1.0]
        (head,), (body,) = sheet.subfigures(2, 1, squeeze=False, height_ratios=ratios)
        head.text(0.012, 0.9, "\n".join(title), fontsize=12, fontweight="bold", va="top")
        head.text(0.012, 0.08, under, fontsize=8, color=canvas.SOFT, va="bottom")
        cells = body.subfigures(rows, columns, squeeze=False, height_ratios=heights)
        for place, figure in enumerate(picture.figures):
            cell = cells[place // columns][place % columns]
            canvas.draw(_axes(cell, figure), figure)
            if figure.note:
                across = WIDTH // columns // 6
                cell.supxlabel(textwrap.fill(figure.note, across), fontsize=7.5, color=canvas.SOFT, x=0.01, ha="left")
        sheet.savefig(path, format="png", dpi=DOTS)


def _axes(cell: "SubFigure", figure: Figure) -> "list[Axes]":
    """One system of axes, or two above each other where the figure has a second one."""
    lower = figure.layout.get("yaxis2")
    if lower is None:
        return [cell.subplots()]
    upper = figure.layout["yaxis"]["domain"]
    ratios = [upper[1] - upper[0], lower["domain"][1] - lower["domain"][0]]
    return list(cell.subplots(2, 1, sharex=True, height_ratios=ratios))

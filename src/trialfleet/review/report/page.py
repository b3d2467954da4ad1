"""The HTML of a page: its frame, and the pieces that sections are made of. Every text is escaped where it is put in."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

from trialfleet.review.report.drawing import Figure

LONG = 24  # characters of a cell, from which on it may have several lines
PARTED = re.compile(r"(?<=[^\W\d_][._/:=])(?=\w)")  # where names have a seam, and numbers none
SEAM = "\u200b"  # where a text may be broken that can have no marks
# A table that is wider than the page has no columns there, but a block for each row. Which page is too narrow for it is
# told from its texts, and rounded up to one of these widths, in pixels.
FOLDS = (420, 520, 640, 800, 1000, 1250, 1500)
CHARACTER, COLUMN, EDGES = 9, 14, 80  # pixels, rather too many: of a character, between columns, beside a table
Html = str  # text in which everything that is not ours has been escaped


def text(value: object) -> Html:
    return escape(str(value), quote=True)


def name(value: object) -> Html:
    """A text that goes on in the next line behind one of its dots, slashes and underscores, where it has to."""
    return "<wbr>".join(map(text, PARTED.split(str(value))))


def figure(one: Figure, caption: str = "") -> Html:
    """A place for a figure, which the page's script draws."""
    below = " ".join(part for part in (caption, one.note) if part)
    said = f"<figcaption>{text(below)}</figcaption>" if below else ""
    return (
        f'<figure><div class="plot" role="img" aria-label="{text(one.said)}" data-figure="{text(one.name)}" '
        f'style="height:{one.height}px"></div>{said}</figure>'
    )


def grid(figures: Iterable[Figure], captions: Mapping[str, str] | None = None, small: bool = False) -> Html:
    """Figures beside each other, as many as there is room for."""
    known = captions or {}
    inside = "".join(figure(one, known.get(one.name, "")) for one in figures)
    return f'<div class="grid{" small" if small else ""}">{inside}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numeric: Sequence[int] = (), marked: int = -1) -> Html:
    """Args:
    numeric: columns that are aligned to the right.
    marked: row that stands out.
    """

    texts = [[str(cell) for cell in row] for row in rows]
    fold = _fold(head, texts)

    def line(cells: Sequence[str], tag: str, mark: str = "") -> Html:
        inside = ""
        for place, cell in enumerate(cells):
            kind = " class=number" if place in numeric else " class=long" if len(cell) > LONG else ""
            said = f' data-of="{text(SEAM.join(PARTED.split(head[place])))}"' if fold and tag == "td" else ""
            shown = text(cell) if " " in cell else name(cell)
            inside += f"<{tag}{kind}{said}>{shown}</{tag}>"
        return f"<tr{mark}>{inside}</tr>"

    body = "".join(line(row, "td", " class=best" if place == marked else "") for place, row in enumerate(texts))
    kind = f' class="fold-{fold}"' if fold else ""
    return f'<div class="scroll"><table{kind}><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def _fold(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The width from which down a page is too narrow for a table; 0 of one that is never too wide."""
    if len(head) < 3:  # its texts have several lines
        return 0
    widths = [max(map(len, PARTED.split(title)), default=0) for title in head]
    for row in rows:
        widths = [max(known, min(LONG, len(cell))) for known, cell in zip(widths, row, strict=True)]
    wanted = sum(width * CHARACTER + COLUMN for width in widths) + EDGES
    return next((fold for fold in FOLDS if wanted <= fold), FOLDS[-1])


def _folding(inside: Html) -> str:
    """The style of folded tables, for each width that tables of the page fold at."""
    rules = _own("page.folded.css")
    return "".join(
        f"@media (max-width: {fold}px) {{\n{rules.replace('.folded', f'.fold-{fold}')}}}\n"
        for fold in FOLDS
        if f'class="fold-{fold}"' in inside
    )


def pairs(entries: Iterable[tuple[str, object]]) -> Html:
    """What is known of something, a line each; what is empty is left out."""
    lines = (
        f"<tr><th>{name(what)}</th><td>{text(value)}</td></tr>" for what, value in entries if value not in ("", None)
    )
    return f'<div class="scroll"><table class="pairs"><tbody>{"".join(lines)}</tbody></table></div>'


def bars(entries: Sequence[tuple[str, float, str, str]]) -> Html:
    """Lengths beside their names.

    Args:
        entries: name, length, what is written behind it, and its kind: bad, good, soft, or nothing.
    """
    longest = max((length for _, length, _, _ in entries), default=0.0) or 1.0
    lines = (
        f'<span>{name(what)}</span><span class="track"><i class="{text(kind)}" '
        f'style="width:{100 * length / longest:.2f}%"></i></span><span class="value">{text(said)}</span>'
        for what, length, said, kind in entries
    )
    return f'<div class="bars">{"".join(lines)}</div>'


def tiles(entries: Iterable[tuple[str, str]]) -> Html:
    inside = "".join(
        f'<div class="tile"><b>{text(value)}</b><span>{name(what)}</span></div>' for what, value in entries
    )
    return f'<div class="tiles">{inside}</div>'


def paragraph(sentence: str, kind: str = "") -> Html:
    return f"<p{f' class={kind}' if kind else ''}>{text(sentence)}</p>" if sentence else ""


def link(address: str, said: str) -> Html:
    """A line that leads elsewhere, if the address is one of the web."""
    if not address.startswith(("http://", "https://")):
        return ""
    return f'<p><a href="{text(address)}" rel="noreferrer">{text(said)}</a></p>'


def section(place: str, title: str, *inside: Html) -> Html:
    return f'<section id="{text(place)}"><h2>{text(title)}</h2>{"".join(inside)}</section>'


# -------------------------------------------------------------------- the whole page


def page(
    title: str, head: Html, sections: Sequence[tuple[str, str, Html]], figures: Sequence[Figure], foot: str
) -> str:
    """The file.

    Args:
        sections: name, title for the list of them, and what is in it.
        figures: those that have a place in the sections.

    Its scripts are named by their digests and nothing may be loaded from elsewhere: whatever a name or a log would
    smuggle in neither runs nor reaches anybody.
    """
    scripts = [_plotly(), _own("page.js")] if figures else []  # the first is text, until the second needs it
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    links = "".join(f'<a href="#{text(place)}">{text(shown)}</a>' for place, shown, _ in sections)
    inside = "\n".join(found for _, _, found in sections)
    data = {one.name: {"data": one.data, "layout": one.layout, "height": one.height} for one in figures}
    drawn = f'<script type="application/json" id="figures">{_json(data)}</script>' if figures else ""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title><style>{_own('page.css')}{_folding(inside)}</style></head><body>",
            f"<header>{head}</header><nav>{links}</nav><main>",
            inside,
            f"</main><footer>{text(foot)}</footer>{drawn}",
            *(f'<script type="text/plain" id="plotly">{script}</script>' for script in scripts[:1]),
            *(f"<script>{script}</script>" for script in scripts[1:]),
            "</body></html>\n",
        ]
    )


def _json(value: object) -> str:
    """JSON that ends no script and no comment of the page's."""
    found = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return found.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _own(name: str) -> str:
    return (resources.files("trialfleet.review.report") / name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())

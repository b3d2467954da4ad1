"""The HTML of a page: its frame, and the pieces that sections are made of. Every text is escaped where it is put in."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

from trialfleet.review.report.drawing import Figure

LONG = 24  # characters of a cell, from which on it may have several lines
Html = str  # text in which everything that is not ours has been escaped


def text(value: object) -> Html:
    return escape(str(value), quote=True)


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

    def line(cells: Sequence[object], tag: str, mark: str = "") -> Html:
        inside = ""
        for place, cell in enumerate(cells):
            kind = " class=number" if place in numeric else " class=long" if len(str(cell)) > LONG else ""
            inside += f"<{tag}{kind}>{text(cell)}</{tag}>"
        return f"<tr{mark}>{inside}</tr>"

    body = "".join(line(row, "td", " class=best" if place == marked else "") for place, row in enumerate(rows))
    return f'<div class="scroll"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def pairs(entries: Iterable[tuple[str, object]]) -> Html:
    """What is known of something, a line each; what is empty is left out."""
    lines = (
        f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in entries if value not in ("", None)
    )
    return f'<div class="scroll"><table class="pairs"><tbody>{"".join(lines)}</tbody></table></div>'


def bars(entries: Sequence[tuple[str, float, str, str]]) -> Html:
    """Lengths beside their names.

    Args:
        entries: name, length, what is written behind it, and its kind: bad, good, soft, or nothing.
    """
    longest = max((length for _, length, _, _ in entries), default=0.0) or 1.0
    lines = (
        f'<span>{text(name)}</span><span class="track"><i class="{text(kind)}" '
        f'style="width:{100 * length / longest:.2f}%"></i></span><span class="value">{text(said)}</span>'
        for name, length, said, kind in entries
    )
    return f'<div class="bars">{"".join(lines)}</div>'


def tiles(entries: Iterable[tuple[str, str]]) -> Html:
    inside = "".join(
        f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>' for name, value in entries
    )
    return f'<div class="tiles">{inside}</div>'


def paragraph(sentence: str, kind: str = "") -> Html:
    return f"<p{f' class={kind}' if kind else ''}>{text(sentence)}</p>" if sentence else ""


def link(address: str, said: str) -> Html:
    """A line that leads elsewhere, if the address is one of the web."""
    if not address.startswith(("http://", "https://")):
        return ""
    return f'<p><a href="{text(address)}" rel="noreferrer">{text(said)}</a></p>'


def section(name: str, title: str, *inside: Html) -> Html:
    return f'<section id="{text(name)}"><h2>{text(title)}</h2>{"".join(inside)}</section>'


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
    links = "".join(f'<a href="#{text(name)}">{text(shown)}</a>' for name, shown, _ in sections)
    data = {one.name: {"data": one.data, "layout": one.layout, "height": one.height} for one in figures}
    drawn = f'<script type="application/json" id="figures">{_json(data)}</script>' if figures else ""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title><style>{_own('page.css')}</style></head><body>",
            f"<header>{head}</header><nav>{links}</nav><main>",
            *(inside for _, _, inside in sections),
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

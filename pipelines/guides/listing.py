"""What a guide's table says, for people: as text, and as a page of the documentation."""

import shlex
from collections.abc import Iterator

from pipelines.guides.table import Guide, Meaning
from pipelines.guides.translate import translate
from trialfleet.errors import UserError


def as_text(guide: Guide) -> str:
    """Each group, key and flag, one a line."""
    rows = [*_rows(guide), *((f"--{flag}", key) for flag, key in guide.flags.items())]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {what}" for name, what in rows)


def left_out(guide: Guide) -> dict[str, str]:
    """The keys and members without a meaning here: whether they are warned of or refused."""
    found = {}
    meanings = [*((f"{group}={member}", one) for group, all_ in guide.groups.items() for member, one in all_.items())]
    for name, meaning in [*meanings, *guide.keys.items()]:
        if meaning.warn or meaning.refuse:
            found[name] = "warned" if meaning.warn else "refused"
    return found


def as_page(guide: Guide) -> str:
    """Tables in Markdown: each line of the guide and what it becomes, then each key."""
    lines = ["| the guide's line | here |", "|---|---|"]
    lines += [_row(f"`{line}`", _translated(guide, line)) for line in guide.lines]
    keys = ["| the guide's | here |", "|---|---|"]
    keys += [_row(f"`{name}`", what) for name, what in _rows(guide)]
    return "\n".join([*lines, "", *keys])


def _row(*cells: str) -> str:
    """A row of a table in Markdown, in which a bar would begin another cell."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _translated(guide: Guide, line: str) -> str:
    try:
        command = translate(guide, shlex.split(line))
    except UserError as error:
        return f"refused: {error.message}"
    notes = "".join(f"<br>{warning}" for warning in command.warnings)
    return f"`{command}`{notes}"


def _rows(guide: Guide) -> Iterator[tuple[str, str]]:
    for group, members in guide.groups.items():
        for member, meaning in members.items():
            yield f"{group}={member}", _what(meaning)
    for key, meaning in guide.keys.items():
        yield key, _what(meaning)


def _what(meaning: Meaning) -> str:
    but = f", but for {', '.join(meaning.same)}" if meaning.same else ""
    if meaning.refuse:
        return f"refused{but}: {meaning.refuse}"
    if meaning.warn:
        return f"left out{but}: {meaning.warn}"
    if meaning.factor_of:
        return " and ".join([*(meaning.to or ()), f"a factor of {meaning.factor_of}"])
    if meaning.says:
        own = f"{' '.join(meaning.to)}, and " if meaning.to else ""
        return f"{own}the guide's {' '.join(meaning.says)}"
    words = " ".join(meaning.to or ()) or "(the default here)"
    pairs = {**meaning.values, **meaning.parts}
    values = ", ".join(f"{old} → {new}" for old, new in pairs.items() if old != new)
    return f"{words} ({values})" if values else words

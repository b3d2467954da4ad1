"""Pages of the site that are made from the code when it is built; they lie in docs/reference, which git ignores."""

from pathlib import Path
from typing import Any

import conf_reference
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from pipelines.guides import listing, table

TITLES = {
    "asr": "Guide: speech recognition",
    "grpo": "Guide: reinforcement fine-tuning of Gemma 3",
    "mvfoul": "Guide: multi-view foul recognition",
}


def pages() -> dict[str, str]:
    """Each page's name and its text in Markdown."""
    return {"conf": conf_reference.as_markdown(), **{f"guide_{name}": _guide(name) for name in table.GUIDES}}


def _guide(name: str) -> str:
    return f"# {TITLES[name]}\n\n{listing.as_page(table.load(name))}\n"


def write(app: Sphinx) -> None:
    """Write the pages that are not as they should be; others keep their time, so that Sphinx need not read them."""
    if without := conf_reference.undocumented():
        raise ExtensionError(f"no comment says what these keys mean: {', '.join(without)}")
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    made = {folder / f"{name}.md": text for name, text in pages().items()}
    for old in set(folder.glob("*.md")) - set(made):
        old.unlink()
    for path, text in made.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The README and the documentation's pages as tests read them: what a reader would type."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def commands_of(page: Path) -> list[str]:
    """The lines of a page's command blocks, continuation lines joined, comments cut."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [re.split(r"\s+#\s", line)[0] for line in re.sub(r"\\\n\s*", "", "\n".join(blocks)).splitlines()]
    return [line.strip() for line in lines if line.strip()]

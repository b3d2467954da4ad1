"""The documentation's site builds without a warning: each page has its place in it, and each link leads somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .pages import DOCS, ROOT

# What a browser fetches by itself, from elsewhere than beside the page.
LOADED = re.compile(r'<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)="(?:https?:)?//')

# A key with its default, type and meaning; and the members of one kind, side by side.
ROWS = (
    "| `scheduler.warmup_steps` | `null` | integer or null ≥ 0; traced | The number of these steps itself; "
    "null: by warmup_ratio. |",
    "| `seed` | `0` | integer ≥ 0; host |",
    "| `hydra.sweeper.n_trials` | `8` |",
    "`optimizer=adamw`, `optimizer=asr_default`, `optimizer=asr_production`, `optimizer=grpo`, "
    "`optimizer=grpo_base_tiny`, `optimizer=grpo_tiny`, `optimizer=mvfoul`, `optimizer=mvfoul_aggressive`",
    "`0.002`; asr_default: `5e-05`; asr_production: `3e-05`; grpo: `3e-06`; grpo_base_tiny: `0.004`",
)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    line = next(line for line in makefile.splitlines() if "-m sphinx" in line)
    assert "--fail-on-warning" in line
    words = line.replace("$(RUN)", sys.executable).replace("docs/_build/html", str(tmp_path)).split()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {page.relative_to(tmp_path).with_suffix(".md") for page in tmp_path.rglob("*.html")}
    assert {page.relative_to(DOCS) for page in DOCS.glob("*.md")} <= built
    for page in tmp_path.rglob("*.html"):
        assert LOADED.search(page.read_text()) is None, page.name

    # The reference of all keys, made from the files that they are read from; a key without a word fails the build.
    reference = (DOCS / "reference" / "conf.md").read_text()
    for line in ROWS:
        assert line in reference

"""What the documents say can be done can be done: each command runs, each public name has its section."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trialfleet

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def commands(page: str) -> list[str]:
    """The lines of the page's command blocks, continuation lines joined, comments cut."""
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


OWN_APP = [line for line in commands("own_app.md") if line.startswith("python ") and "submitit_slurm" not in line]


def test_each_public_name_has_a_section() -> None:
    sections = re.findall(r"^## (\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(trialfleet.__all__)


def test_links_lead_somewhere() -> None:
    for page in [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.slow
@pytest.mark.parametrize("line", OWN_APP)
def test_a_command_for_an_application_of_ones_own(tmp_path: Path, line: str) -> None:
    app = shutil.copytree(ROOT / "examples" / "plain", tmp_path / "app")
    words = [sys.executable, *shlex.split(line)[1:], "hydra.sweeper.n_trials=2", "epochs=3"]
    done = subprocess.run(words, cwd=app, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    said = "nothing was started" if "dry_run" in line else "2 of 2 trials"
    assert said in done.stdout


def test_there_are_commands() -> None:
    assert len(OWN_APP) >= 3

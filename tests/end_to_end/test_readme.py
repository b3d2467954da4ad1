"""The README is short, and the targets of make that it names are there; its commands are run with those of docs/."""

import subprocess
import sys

import pytest

from .pages import ROOT, commands_of


def test_it_fits_a_few_screens_and_has_commands() -> None:
    page = ROOT / "README.md"
    assert len(page.read_text().splitlines()) <= 140
    assert len(commands_of(page)) >= 10


@pytest.mark.parametrize(
    "target", ["sweep", "sweep-slurm", "train", "dashboard", "doctor", "cluster-up", "cluster-down", "test", "docs"]
)
def test_a_target_of_make_is_there(target: str) -> None:
    done = subprocess.run(
        ["make", "-n", "-C", str(ROOT), target, f"PYTHON={sys.executable}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

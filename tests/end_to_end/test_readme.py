"""Every command of the README runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["+experiment=quick_test", "hydra.sweeper.n_trials=1"]


def commands_of(page: Path) -> list[str]:
    """The `python -m` commands of a page's code blocks, continuation lines joined, comments cut."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("python -m ")]


COMMANDS = commands_of(ROOT / "README.md")
LOCAL = [line for line in COMMANDS if "submitit_slurm" not in line]


def test_there_are_commands() -> None:
    assert len(LOCAL) >= 10


@pytest.mark.slow
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("line", LOCAL)
def test_a_command_of_the_readme(run: Run, line: str) -> None:
    words = shlex.split(line)[2:]
    if words[0] == "pipelines.sweep":
        words += QUICK
    elif words[0] == "pipelines.train" and not {"--cfg", "--info"} & set(words):
        words += [] if "+experiment=quick_test" in words else ["+experiment=quick_test"]
    run(*words)


@pytest.mark.parametrize(
    "target", ["sweep", "sweep-slurm", "train", "dashboard", "doctor", "cluster-up", "cluster-down", "test"]
)
def test_a_target_of_make_is_there(target: str) -> None:
    done = subprocess.run(
        ["make", "-n", "-C", str(ROOT), target, f"PYTHON={sys.executable}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

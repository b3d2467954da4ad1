"""Every command of docs/own_workload.md runs, and what it shows of the example is what stands there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from .conftest import Run
from .pages import DOCS, ROOT, commands_of

PAGE = DOCS / "own_workload.md"
EXAMPLE = ROOT / "examples" / "digits_mlp"
COMMANDS = [line for line in commands_of(PAGE) if line.startswith("python -m ")]


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 6


def test_the_page_shows_lines_of_the_example() -> None:
    code = (EXAMPLE / "digits_mlp.py").read_text()
    shown = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(shown) == 4
    assert [block for block in shown if block not in code] == []


def test_the_example_has_forty_lines_at_most() -> None:
    lines = [line for line in (EXAMPLE / "digits_mlp.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 40


@pytest.mark.slow
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page(run_quickly: Run, here: Path, line: str) -> None:
    shutil.copytree(EXAMPLE, here, dirs_exist_ok=True)
    words = [*shlex.split(line)[2:], "training.max_steps=8"]
    if words[0] == "pipelines.sweep":
        shown = run_quickly(*words, "hydra.sweeper.n_trials=1").stdout
        assert "study 'digits_mlp': 1 of 1 trials (1 complete)" in shown
        assert [path.name for path in (here / "sweeps").iterdir()] == ["digits_mlp"]
    else:
        shown = run_quickly(*words).stdout
        assert ("val/accuracy (maximize)" if "--dry-run" in words else "val/accuracy=0.") in shown


@pytest.mark.slow
def test_a_fault_is_refused_before_a_sweep_makes_anything(run_quickly: Run, here: Path) -> None:
    shutil.copytree(EXAMPLE, here, dirs_exist_ok=True)
    file = here / "digits_mlp.py"
    file.write_text(file.read_text().replace('{"accuracy": right', '{"acuracy": right'))
    line = next(line for line in COMMANDS if "pipelines.sweep" in line)
    shown = run_quickly(*shlex.split(line)[2:], code=2).stdout
    assert "DigitsMlp.eval_step: the metric 'val/acuracy' is not declared; did you mean 'val/accuracy'?" in shown
    assert not (here / "sweeps").exists()

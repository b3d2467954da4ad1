"""The command that a study prints for its resumption is run as it is printed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.tasks.forked import QuickStudy
from tests.tasks.studies import PROJECT

# What is easily taken for markup by a terminal, for a word's end by a shell, or for the grammar's own by Hydra.
TYPED = {
    "numbers": "[1,2,3]",
    "markup": "'[bold]red[/] [link=x]'",
    "quotes": '"it\'s here"',
    "spaces": "'a  b   c'",
    "dollar": "'cost: \\$HOME'",
    "mapping": "{a:1,b:[x,y]}",
    "empty": "''",
    "brackets": "'a[0]=b'",
}


def test_the_printed_command_resumes_the_study(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study("hydra.sweeper.n_trials=1", *(f"+{name}={text}" for name, text in TYPED.items()))
    said = study.run("++study.fresh=true")
    command = next(line for line in said.splitlines() if line.lstrip().startswith("resume:")).split(":", 1)[1]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PATH": path}
    done = subprocess.run(["sh", "-c", command], cwd=study.place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert study.numbers() == [0, 1]  # twice as many, and not a fresh study
    first, second = (
        yaml.safe_load((study.trial(number).run_dir("1.0") / ".hydra" / "config.yaml").read_text()) for number in (0, 1)
    )
    assert {name: first[name] for name in TYPED} == {name: second[name] for name in TYPED}
    assert first["markup"] == "[bold]red[/] [link=x]"

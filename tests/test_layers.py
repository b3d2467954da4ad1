"""Which part may import which, and what a trial's process must not load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "trialfleet"

ABOVE_TRIAL = ("config", "sweep", "tracking", "training", "worker", "workloads")

# part → what no file in it may import, at the top or inside of a function
FORBIDDEN = {
    "trial": ["jax", "optuna", "mlflow", *(f"trialfleet.{part}" for part in ABOVE_TRIAL)],
    "worker": ["jax", "optuna", "mlflow", "trialfleet.sweep", "trialfleet.tracking", "trialfleet.training"],
    "sweep": ["jax", "jaxlib", "optax", "orbax", "trialfleet.training", "trialfleet.workloads"],
    "training": ["optuna", "mlflow", "submitit", "trialfleet.sweep", "trialfleet.workloads"],
    "workloads": ["optuna", "mlflow", "submitit", "trialfleet.sweep"],
    "tracking": ["jax", "optuna", "trialfleet.sweep", "trialfleet.training", "trialfleet.workloads"],
    "config": ["jax", "optuna", "mlflow", "trialfleet.sweep", "trialfleet.training", "trialfleet.workloads"],
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_imports_nothing_above_it(part: str) -> None:
    files = list((SOURCE / part).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            for forbidden in FORBIDDEN[part]:
                assert not f"{name}.".startswith(f"{forbidden}."), f"{path} imports {name}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("trialfleet.worker.main", ["optuna", "mlflow", "jax", "pandas"]),
        ("trialfleet.sweep.sweeper", ["optuna", "mlflow", "jax", "submitit"]),
        ("trialfleet.config", ["optuna", "mlflow", "jax"]),
        ("trialfleet.training.loop", ["optuna", "mlflow", "submitit"]),
        ("trialfleet.sweep.session", ["jax", "mlflow"]),
    ],
)
def test_importing_a_module_loads_no_more_than_it_needs(module: str, absent: list[str]) -> None:
    code = f"import {module}, sys; print(*(name for name in {absent!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []

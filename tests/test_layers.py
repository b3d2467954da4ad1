"""Which part may import which, what a trial's process must not load, and which names no part may name."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "trialfleet"

PARTS = (
    "commands",
    "compat",
    "config",
    "doctor",
    "review",
    "sweep",
    "tracking",
    "training",
    "trial",
    "worker",
    "workloads",
)
ABOVE_TRIAL = ("commands", "config", "doctor", "review", "sweep", "tracking", "training", "worker", "workloads")

# part → what no file in it may import, at the top or inside of a function
FORBIDDEN = {
    "compat": [f"trialfleet.{part}" for part in PARTS if part != "compat"],  # of ours, errors alone
    "commands": ["jax", "trialfleet.training", "trialfleet.workloads"],
    "doctor": ["jax", "mlflow", "trialfleet.commands", "trialfleet.training", "trialfleet.workloads"],
    "review": ["jax", "mlflow", "trialfleet.commands", "trialfleet.training", "trialfleet.workloads"],
    "trial": ["jax", "optuna", "mlflow", *(f"trialfleet.{part}" for part in ABOVE_TRIAL)],
    "worker": ["jax", "optuna", "mlflow", "trialfleet.sweep", "trialfleet.tracking", "trialfleet.training"],
    "sweep": ["jax", "jaxlib", "optax", "orbax", "trialfleet.review", "trialfleet.training", "trialfleet.workloads"],
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
        ("trialfleet.commands.study", ["optuna", "mlflow", "jax", "pandas"]),
    ],
)
def test_importing_a_module_loads_no_more_than_it_needs(module: str, absent: list[str]) -> None:
    code = f"import {module}, sys; print(*(name for name in {absent!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# ---------------------------------------------------------------- private names of libraries

LIBRARIES = ("optuna", "hydra", "hydra_plugins", "submitit", "mlflow")
# Private by their look alone: methods of named tuples, and Hydra's keys and arguments, which are documented.
NOT_PRIVATE = {"_replace", "_fields", "_asdict", "_target_", "_partial_", "_execution_whitelist_"}
# Not of these libraries: file → names, each with its reason in the file.
OF_OTHERS = {
    "worker/ending.py": {"_exit", "_run_exitfuncs"},  # the standard library's
    "worker/fork_server.py": {"_exit"},
    "trial/submission.py": {"_checked"},  # the class's own, of an object that its own constructor made
}
_PRIVATE_PATH = re.compile(rf"\b(?:{'|'.join(LIBRARIES)})(?:\.\w+)*\._\w[\w.]*")
_PRIVATE_IMPORT = re.compile(rf"^\s*from (?:{'|'.join(LIBRARIES)})\b.* import .*?\b(_\w+)", re.MULTILINE)


def private_names(tree: ast.AST) -> Iterator[str]:
    """Private names of other people's: imported, read of any object but one's own, or named in a text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if any(part.startswith("_") for part in node.module.split(".")):
                yield node.module
            yield from (alias.name for alias in node.names if _looks_private(alias.name))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if "._" in alias.name)
        elif isinstance(node, ast.Attribute) and _looks_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            texts = [word.value for word in node.args if isinstance(word, ast.Constant)]  # getattr(thing, "_name")
            yield from (text for text in texts if isinstance(text, str) and _looks_private(text))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # a program's name, or a program
            yield from _PRIVATE_PATH.findall(node.value)
            yield from _PRIVATE_IMPORT.findall(node.value)


def _looks_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NOT_PRIVATE


def test_only_compat_uses_private_names_of_libraries() -> None:
    found = {}
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith("compat/"):
            found[name] = set(private_names(ast.parse(path.read_text()))) - OF_OTHERS.get(name, set())
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("study._storage", "_storage"),
        ("thing.study._storage.x()", "_storage"),
        ("from optuna.storages._rdb import models", "optuna.storages._rdb"),
        ("from submitit.slurm.slurm import _parse_node_list", "_parse_node_list"),
        ("import hydra._internal.utils", "hydra._internal.utils"),
        ("getattr(storage, '_backend', None)", "_backend"),
        ("command = ['-m', 'submitit.local._local']", "submitit.local._local"),
        ("PROGRAM = 'from mlflow.store.db.utils import engine, _initialize_tables'", "_initialize_tables"),
    ],
)
def test_a_private_name_is_found_wherever_it_stands(code: str, name: str) -> None:
    assert list(private_names(ast.parse(code))) == [name]


@pytest.mark.parametrize("library", ["optuna", "hydra", "submitit", "mlflow"])
def test_compat_has_a_file_and_a_test_for_each_library(library: str) -> None:
    assert "SEEN = (" in (SOURCE / "compat" / f"{library}.py").read_text()
    assert (ROOT / "tests" / "compat" / f"test_{library}.py").is_file()


# ---------------------------------------------------------------- what stands beside src/

# The packages beside src/, named as such: in an import, as a folder, or as the beginning of a dotted path.
BESIDE = re.compile(r"\bpipelines\b|^jobs$|\bjobs/|(?<![\w.])jobs\.[a-z]")


def test_src_names_nothing_that_stands_beside_it() -> None:
    """The package works without our scripts: a command is named as it was typed, or by who typed it."""
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = [*imports(path), *(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))]
        for name in names:
            assert not (isinstance(name, str) and BESIDE.search(name)), f"{path}: {name!r}"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("python -m pipelines.train workload=x", True),
        ("jobs", True),
        ("see jobs/sweep.sbatch", True),
        ("jobs.slurm_cluster", True),
        ("python -m jobs.slurm_cluster up", True),
        ("all jobs. They run", False),
        ("the launcher takes no more jobs now", False),
    ],
)
def test_such_a_name_is_told_from_the_word(text: str, named: bool) -> None:
    assert (BESIDE.search(text) is not None) is named

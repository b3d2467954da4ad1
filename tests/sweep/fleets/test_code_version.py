"""A study's code is what its jobs may import from the project, and nothing else."""

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from trialfleet.sweep.fleets import code_version
from trialfleet.sweep.fleets.code_version import source_files

PROJECT = {
    "src/library/__init__.py": "",
    "src/library/model.py": "def build():\n    from plain_module import value\n",
    "conf/config.yaml": "# see others.thing\nmodel:\n  _target_: named_in_conf.models.Net\nname: a.others\n",
    "plain_module.py": "value = 1\n",
    "named_in_conf/__init__.py": "",
    "named_in_conf/models.py": "import os, listed.deep, listed_last\nclass Net: ...\n",
    "listed/__init__.py": "",
    "listed_last.py": "",
    "own_task/__init__.py": "",
    "own_task/train.py": "def task(config):\n    from helpers.deep import more\n    return 1.0\n",
    "own_task/conf/extra.yaml": "x: 1\n",
    "own_task/notes.txt": "no code\n",
    "helpers/deep.py": "COMMAND = ['-m', 'programs.run']  # not others.thing\n",
    "programs/__init__.py": "",
    "programs/run.py": "",
    "others/__init__.py": "",
    "others/thing.py": "",
    "data/numbers.yaml": "x: 1\n",
    ".hidden/__init__.py": "",
}
LIBRARY = {"src", "conf", "plain_module.py", "named_in_conf", "listed", "listed_last.py"}  # whatever the task is
TASK = {"own_task", "helpers", "programs"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of somebody's, importable as it is where its commands are typed."""
    folder = tmp_path / "project"
    write(folder, PROJECT)
    monkeypatch.syspath_prepend(str(folder))
    known = set(sys.modules)
    yield folder
    for name in set(sys.modules) - known:
        del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def parts(project: Path, task: Callable[[DictConfig], Any]) -> set[str]:
    return {path.relative_to(project).parts[0] for path in source_files(project, task)}


def test_what_a_task_imports_is_its_studys_code(project: Path) -> None:
    """Imported anywhere, named by a config or started as a program, by the task or by what it imports."""
    task = importlib.import_module("own_task.train").task
    assert parts(project, task) == LIBRARY | TASK
    files = source_files(project, task)
    assert files == sorted(files)
    assert project / "own_task/conf/extra.yaml" in files
    assert project / "own_task/notes.txt" not in files


def test_a_task_may_be_wrapped(project: Path) -> None:
    task = importlib.import_module("own_task.train").task
    assert parts(project, partial(task)) == LIBRARY | TASK


def test_a_task_from_elsewhere_takes_no_more_than_it_imports(project: Path, tmp_path: Path) -> None:
    """A package of the project's goes before any other in a job: not where the user has one of the same name."""
    mine = {
        "app.py": "import helpers.deep\nimport others.thing\ndef task(config):\n    return 1.0\n",
        "others/__init__.py": "",
        "others/thing.py": "",
    }
    write(tmp_path / "mine", mine)
    sys.path.insert(0, str(tmp_path / "mine"))
    importlib.invalidate_caches()
    assert parts(project, importlib.import_module("app").task) == LIBRARY | {"helpers", "programs"}


def test_a_task_without_a_file_takes_the_library(project: Path) -> None:
    def task(config: DictConfig) -> float:
        return 1.0

    task.__module__ = "made_in_a_notebook"
    assert parts(project, task) == LIBRARY


def test_the_digest_changes_with_what_jobs_import_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_version, "project_directory", lambda: project)
    task = importlib.import_module("own_task.train").task
    before = code_version.code_version(task)
    (project / "others" / "thing.py").write_text("changed = 1\n")
    assert code_version.code_version(task) == before
    (project / "programs" / "run.py").write_text("changed = 1\n")
    assert code_version.code_version(task) != before

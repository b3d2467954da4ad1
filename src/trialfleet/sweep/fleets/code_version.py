"""Which code a study ran: git's commit and a digest of the files themselves.

A job imports from the project whatever lies in src/, and what the task imports besides: the packages and modules
beside src/. Those are found by what the task's own package mentions, and by what that mentions in turn. So a change
of what no job runs, a test say, is no change of the study's code; and a package of the project's that the task does
not use is not put before one of the same name that the user has elsewhere.
"""

import hashlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.types import TaskFunction

from trialfleet.config.location import project_directory

_ALWAYS = ("src", "conf")
_SUFFIXES = (".py", ".yaml")
# How a file mentions a package or a module. A mention too many, in a docstring say, costs a few files in the copy.
_COMMENT = re.compile(r"(?:^|[ \t])#.*", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+(\w+)|import[ \t]+(.+))", re.MULTILINE)
_IMPORTED = re.compile(r"(?:^|,)[ \t]*(\w+)")  # each of `import a.b, c`
_QUOTED = re.compile(r"[\"'](\w+)\.[A-Za-z_]")  # imported, or started as a program, by its name
_DOTTED = re.compile(r"(?<![\w./])(\w+)\.[A-Za-z_]")  # the path of a class, in a config


def code_version(task_function: TaskFunction) -> dict[str, str]:
    """`digest` of the files that the task's jobs may import, and git's `commit` with a + if files differ from it."""
    project = project_directory()
    digest, parts = hashlib.sha256(), set()
    for path in source_files(project, task_function):
        name = path.relative_to(project)
        digest.update(str(name).encode() + b"\0" + path.read_bytes() + b"\0")
        parts.add(name.parts[0])
    version = {"digest": digest.hexdigest()[:16]}
    commit = _git(project, "rev-parse", "HEAD")
    if commit:
        version["commit"] = commit + ("+" if _git(project, "status", "--porcelain", *sorted(parts)) else "")
    return version


def source_files(project: Path, task_function: TaskFunction) -> list[Path]:
    """The files that a trial's outcome may depend on, in a fixed order."""
    importable = _importable(project)
    files = {path for name in _ALWAYS for path in _files(project / name)}
    waiting = _mentioned(files, importable) | _parts_of_task(_file_of(task_function), importable)
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        more = set(_files(importable[name]))
        files |= more
        waiting |= _mentioned(more, importable) - found
    return sorted(files)


def _importable(project: Path) -> dict[str, Path]:
    """What Python can import that lies beside src/: folders with modules in them, and single modules, by name."""
    parts = [path for path in project.iterdir() if path.name not in _ALWAYS and not path.name.startswith(".")]
    folders = {path.name: path for path in parts if path.is_dir() and any(path.glob("*.py"))}
    return {path.stem: path for path in parts if path.suffix == ".py"} | folders  # as Python prefers them


def _parts_of_task(file: Path | None, importable: Mapping[str, Path]) -> set[str]:
    """The part that the task is defined in; of a task from elsewhere, the parts that it imports."""
    if file is None:
        return set()
    own = {name for name, part in importable.items() if file.is_relative_to(part)}
    return own or {name for name in _mentioned({file}, importable) if _is_found_in(importable[name], name)}


def _is_found_in(part: Path, name: str) -> bool:
    """Whether it is this part that Python imports by the name, and not one that the user has elsewhere."""
    spec = find_spec(name)
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    return any(place is not None and Path(place).resolve().is_relative_to(part) for place in places)


def _file_of(task_function: TaskFunction) -> Path | None:
    """The file of the task's module; None where there is none, as in a notebook."""
    task: Any = task_function
    while isinstance(task, partial):
        task = task.func
    file = getattr(sys.modules.get(inspect.unwrap(task).__module__), "__file__", None)
    return None if file is None else Path(file).resolve()


def _mentioned(files: set[Path], importable: Mapping[str, Path]) -> set[str]:
    """Which of the importable parts the files mention."""
    return importable.keys() & {name for path in files for name in _names_in(path)}


def _names_in(path: Path) -> Iterator[str]:
    text = _COMMENT.sub("", path.read_text(errors="replace"))
    if path.suffix == ".yaml":
        yield from _DOTTED.findall(text)
        return
    yield from _QUOTED.findall(text)
    for source, modules in _IMPORT.findall(text):
        yield from [source] if source else _IMPORTED.findall(modules)


def _files(part: Path) -> Iterator[Path]:
    if part.is_file():
        yield part
    for path in part.rglob("*"):
        if path.suffix in _SUFFIXES and path.is_file():
            yield path


def _git(project: Path, *command: str) -> str:
    if not (project / ".git").exists():
        return ""
    done = subprocess.run(["git", "-C", str(project), *command], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""

"""Which files are an application's own code, that its jobs may import or read.

From the file that defines the task function: what the nearest pyproject.toml lists (`[tool.trialfleet] code`), else
what git knows of the repository, else the folder of that file; and the modules that are loaded. What was installed is
no code of the application's: it does not change while jobs wait.
"""

# ruff: noqa: PTH113, PTH114, PTH118, PTH120, PTH202
# (There may be thousands of files: as strings they take a tenth of the time.)

import inspect
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from itertools import chain
from pathlib import Path

from hydra.types import TaskFunction

from trialfleet.errors import UserError
from trialfleet.sweep.sweeper_settings import CodeSettings

_INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class AppCode:
    """An application's files.

    Attributes:
        root: the folder that holds them all; None for an application that has no file: nothing is copied.
        files: paths relative to `root`, in a fixed order.
        import_roots: folders, relative to `root`, that jobs must import from, the first ones first.
        script: the file that defines the task function.
    """

    root: Path | None
    files: Sequence[Path] = ()
    import_roots: Sequence[Path] = ()
    script: Path | None = None

    def inside(self, config_source: str | None) -> Path | None:
        """Where a folder of Hydra's search path lies in `root`; None if it is elsewhere, or no folder (`pkg://…`)."""
        return None if self.root is None else _inside(self.root, config_source)


def find(task_function: TaskFunction, settings: CodeSettings, config_sources: Sequence[str | None] = ()) -> AppCode:
    """The code of the application that a task function belongs to.

    Args:
        config_sources: where its configs are, as Hydra's search path has it: jobs compose theirs from there.

    Raises:
        UserError: there is more of it than the settings allow, or pyproject.toml is wrong.
    """
    defined = _defined(task_function)
    if defined is None:
        return AppCode(None)
    file, module = defined
    root, listed = _root(file)
    try:
        if listed is not None:
            found = _in_folders(root, listed, settings)
        elif root == _top_folder(file) and not (root / ".git").exists():
            found = _in_folders(root, ["."], settings)
        else:
            found = _known_to_git(root, settings)
        # Whatever is left out, the file of the task function is code, what it has imported, and its configs.
        needed = chain([file.relative_to(root)], _loaded(root), _configs(root, config_sources))
        files = _within_limits(root, chain(found, needed), settings)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be copied for the jobs: {error.strerror}", _FIX) from error
    return AppCode(root, files, _import_roots(root, file, module), file)


_FIX = (
    "leave it out with hydra.sweeper.code.exclude=[NAME,…], list the folders that jobs import in pyproject.toml as "
    '[tool.trialfleet] code = ["src"], or raise hydra.sweeper.code.max_mb and .max_files'
)


def _defined(task_function: TaskFunction) -> tuple[Path, str] | None:
    """The file that defines the task function, and the name of its module; None if there is none to copy."""
    function = inspect.unwrap(task_function)
    owner = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    try:
        file = Path(inspect.getfile(owner)).resolve()
    except (TypeError, OSError):
        return None
    if not file.is_file() or any(part in _INSTALLED for part in file.parts):
        return None
    return file, str(getattr(owner, "__module__", "__main__"))


def _root(file: Path) -> tuple[Path, list[str] | None]:
    """The folder of the application's code; with the folders that its pyproject.toml lists, if it does.

    Raises:
        UserError: git refuses to say.
    """
    for folder in file.parents:
        listed = _listed(folder / "pyproject.toml")
        if listed is not None:
            return folder, listed
    repository = next((folder for folder in file.parents if (folder / ".git").exists()), None)
    if repository is None or shutil.which("git") is None:
        return _top_folder(file), None
    top = git(file.parent, "rev-parse", "--show-toplevel")
    if not top:
        said = subprocess.run(["git", "-C", str(repository), "status"], capture_output=True, text=True).stderr
        raise UserError(
            f"{repository}: git does not say which files are the application's: {said.strip()}",
            'do as git says, or list the folders of the code in pyproject.toml as [tool.trialfleet] code = ["src"]',
        )
    ignored = git(file.parent, "check-ignore", str(file))  # somebody's home folder may be a repository
    return (_top_folder(file) if ignored else Path(top).resolve()), None


def _top_folder(file: Path) -> Path:
    """The folder of a script; of a module, which may have been started by `python -m`, the one that has its package."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    started = getattr(main, "__file__", None)
    if spec is not None and started is not None and Path(started).resolve() == file:
        return file.parents[str(spec.name).count(".")]
    folder = file.parent
    while (folder / "__init__.py").exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _listed(pyproject: Path) -> list[str] | None:
    """`code` in the table `tool.trialfleet` of a pyproject.toml; None if it does not say.

    Raises:
        UserError: the file cannot be read, or names what is no folder.
    """
    try:
        text = pyproject.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    if "trialfleet" not in text:
        return None
    try:
        folders = tomllib.loads(text).get("tool", {}).get("trialfleet", {}).get("code")
    except ValueError as error:
        raise UserError(f"{pyproject}: is no TOML ({error})", "correct it") from None
    if folders is None:
        return None
    if not isinstance(folders, list) or not all((pyproject.parent / str(folder)).is_dir() for folder in folders):
        raise UserError(
            f"{pyproject}: tool.trialfleet.code is {folders!r}, and must list folders beside it", "correct it there"
        )
    return [str(folder) for folder in folders]


def _in_folders(root: Path, folders: Sequence[str], settings: CodeSettings) -> Iterator[Path]:
    """Files below these folders by the settings' patterns, environments and what starts with a dot left out."""
    for folder in folders:
        for path, inner, names in os.walk(root / folder):
            here = Path(path)
            inner[:] = sorted(
                name
                for name in inner
                if not _matches(name, settings.exclude)
                and not (here / name / "pyvenv.cfg").exists()
                and not (here / name / "study.yaml").exists()  # a study, wherever its folder is
            )
            for name in sorted(names):
                if _matches(name, settings.include) and not _matches(name, settings.exclude):
                    yield (here / name).relative_to(root)


def _known_to_git(root: Path, settings: CodeSettings) -> Iterator[Path]:
    """What git tracks, and what it might (new files, say) by the settings' patterns; submodules, too."""
    for path in _git_lists(root, "--cached"):
        if (root / path).is_symlink() and (root / path).is_dir():
            yield from _in_folders(root, [str(path)], settings)
        elif (root / path).is_dir():  # a submodule; one that is not checked out has no files
            if (root / path / ".git").exists():
                yield from (path / inner for inner in _known_to_git(root / path, settings))
        elif not _left_out(path, settings):
            yield path
    for path in _git_lists(root, "--others", "--exclude-standard"):
        if _matches(path.name, settings.include) and not _left_out(path, settings) and not _of_study(root, path):
            yield path


def _loaded(root: Path) -> Iterator[Path]:
    """Files of the modules that are loaded from `root`: git may ignore what was compiled or generated."""
    real_folder = cache(os.path.realpath)  # thousands of modules lie in a few hundred folders
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            continue
        folder, name = os.path.split(file)
        path = os.path.join(real_folder(folder), name)
        if os.path.islink(path):
            path = os.path.realpath(path)
        if path.startswith(f"{root}{os.sep}") and os.path.isfile(path) and not _is_installed(Path(path), root):
            yield Path(path).relative_to(root)


def _inside(root: Path, config_source: str | None) -> Path | None:
    text = (config_source or "").removeprefix("file://")  # Hydra writes a folder with it, and without
    if not text or "://" in text:
        return None
    folder = Path(text).resolve()
    return folder.relative_to(root) if folder.is_relative_to(root) else None


def _configs(root: Path, config_sources: Sequence[str | None]) -> Iterator[Path]:
    """Config files, whatever the folders of their groups are called; the application's folder itself holds more."""
    for source in config_sources:
        inside = _inside(root, source)
        if inside is None or inside == Path() or _is_installed(root / inside, root):
            continue
        for path, inner, names in os.walk(root / inside):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            yield from ((Path(path) / name).relative_to(root) for name in sorted(names) if name.endswith(".yaml"))


def _git_lists(root: Path, *which: str) -> list[Path]:
    return sorted(Path(name) for name in git(root, "ls-files", "-z", *which).split("\0") if name)


def _left_out(path: Path, settings: CodeSettings) -> bool:
    return any(_matches(part, settings.exclude) for part in path.parts)


def _of_study(root: Path, path: Path) -> bool:
    return any((root / parent / "study.yaml").exists() for parent in path.parents)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _within_limits(root: Path, found: Iterator[Path], settings: CodeSettings) -> list[Path]:
    sizes: dict[Path, int] = {}
    for path in found:
        there = os.path.join(root, path)
        if path not in sizes and os.path.isfile(there):  # git may list what was deleted
            sizes[path] = os.path.getsize(there)
        if len(sizes) > settings.max_files:
            raise UserError(f"{root}: has more than {settings.max_files} files to copy for the jobs", _FIX)
    total = sum(sizes.values()) / 2**20
    if total > settings.max_mb:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        shown = ", ".join(f"{path} ({sizes[path] / 2**20:.1f} MB)" for path in largest)
        raise UserError(
            f"{root}: {total:.0f} MB would be copied for the jobs, more than hydra.sweeper.code.max_mb="
            f"{settings.max_mb:g}; the largest: {shown}",
            _FIX,
        )
    return sorted(sizes)


def _import_roots(root: Path, file: Path, module: str) -> list[Path]:
    """Where jobs must find what this process imports from `root`: as sys.path has it, and the task's own package."""
    package = sys.modules.get(__name__.partition(".")[0])
    ours = Path(str(package.__file__)).resolve().parents[1] if package is not None else root
    of_task = file.parents[module.count(".")] if module != "__main__" else None
    entries = [Path(entry or ".").resolve() for entry in sys.path]
    found = (of_task, *entries, *_roots_of_loaded(), ours)
    inside = [entry for entry in found if entry is not None and entry.is_relative_to(root)]
    kept = [entry for entry in dict.fromkeys(inside) if not _is_installed(entry, root)]
    before = entries[: entries.index(_STANDARD)] if _STANDARD in entries else entries
    for entry in kept:
        if entry not in before:  # here it is searched after Python's own modules, in jobs before them
            _refuse_standard_names(entry)
    return [entry.relative_to(root) for entry in kept]


_STANDARD = Path(os.__file__).resolve().parent


def _is_installed(folder: Path, root: Path) -> bool:
    """Whether it belongs to Python or its packages: an environment may lie in the application's folder."""
    if any(part in _INSTALLED for part in folder.parts):
        return True
    environments = {os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix)}
    return any(Path(env).is_relative_to(root) and folder.is_relative_to(env) for env in environments)


def _refuse_standard_names(folder: Path) -> None:
    """Raises:
    UserError: a module in the folder has the name of one of Python's own, and would take its place in jobs.
    """
    for path in sorted(folder.iterdir()):
        module = path.suffix == ".py" or (path / "__init__.py").is_file()
        if module and path.stem in sys.stdlib_module_names:
            raise UserError(
                f"{path}: jobs would import it in the place of Python's own module {path.stem}", "rename it"
            )


def _roots_of_loaded() -> list[Path]:
    """Where modules that are loaded lie: those of an editable install need not be in sys.path."""
    roots = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." not in name and name != "__main__" and isinstance(file, str):
            path = os.path.realpath(file)
            roots.append(os.path.dirname(os.path.dirname(path) if hasattr(module, "__path__") else path))
    return [Path(root) for root in dict.fromkeys(roots)]


def git(folder: Path, *command: str) -> str:
    """What git says; empty where there is no git, or no repository."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, errors="replace")
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

"""Which code a study ran: git's commit and a digest of the files themselves.

What a project's jobs import is written in its pyproject.toml, as `code` in the table `tool.trialfleet`: folders
beside that file. So a change of what no job runs, a test say, is no change of a study's code.
"""

import hashlib
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

from trialfleet.config.location import project_directory
from trialfleet.errors import UserError

_FOLDERS = ("src", "conf")  # of a project that does not say
_SUFFIXES = (".py", ".yaml")


def code_version() -> dict[str, str]:
    """`digest` of the files that jobs may import, and git's `commit` with a + behind it if files differ from it."""
    project = project_directory()
    digest = hashlib.sha256()
    for path in source_files(project):
        digest.update(str(path.relative_to(project)).encode() + b"\0" + path.read_bytes() + b"\0")
    version = {"digest": digest.hexdigest()[:16]}
    commit = _git(project, "rev-parse", "HEAD")
    if commit:
        version["commit"] = commit + ("+" if _git(project, "status", "--porcelain", *code_folders(project)) else "")
    return version


def source_files(project: Path) -> Iterator[Path]:
    """The files that a trial's outcome may depend on, in a fixed order."""
    for folder in code_folders(project):
        for path in sorted((project / folder).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                yield path


def code_folders(project: Path) -> list[str]:
    """The folders of a project's code, from its pyproject.toml.

    Raises:
        UserError: that file cannot be read, or names what is no folder.
    """
    file = project / "pyproject.toml"
    try:
        table = tomllib.loads(file.read_text()).get("tool", {}).get("trialfleet", {}) if file.exists() else {}
    except ValueError as error:
        raise UserError(f"{file}: is no TOML ({error})", "correct it") from None
    folders = table.get("code", [*_FOLDERS])
    if not isinstance(folders, list) or not all((project / str(folder)).is_dir() for folder in folders):
        raise UserError(
            f"{file}: tool.trialfleet.code is {folders!r}, and must list folders beside it", "correct it there"
        )
    return [str(folder) for folder in folders]


def _git(project: Path, *command: str) -> str:
    if not (project / ".git").exists():
        return ""
    done = subprocess.run(["git", "-C", str(project), *command], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""

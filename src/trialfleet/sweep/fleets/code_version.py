"""Which code a study ran: git's commit and a digest of the files themselves."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from trialfleet.config.location import project_directory

_FOLDERS = ("src", "pipelines", "jobs", "conf")
_SUFFIXES = (".py", ".yaml", ".sbatch")


def code_version() -> dict[str, str]:
    """`digest` of the project's files, and git's `commit` with a + behind it if files differ from it."""
    project = project_directory()
    digest = hashlib.sha256()
    for path in source_files(project):
        digest.update(str(path.relative_to(project)).encode() + b"\0" + path.read_bytes() + b"\0")
    version = {"digest": digest.hexdigest()[:16]}
    commit = _git(project, "rev-parse", "HEAD")
    if commit:
        version["commit"] = commit + ("+" if _git(project, "status", "--porcelain", *_FOLDERS) else "")
    return version


def source_files(project: Path) -> Iterator[Path]:
    """The files that a trial's outcome may depend on, in a fixed order."""
    for folder in _FOLDERS:
        for path in sorted((project / folder).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                yield path


def _git(project: Path, *command: str) -> str:
    if not (project / ".git").exists():
        return ""
    done = subprocess.run(["git", "-C", str(project), *command], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""

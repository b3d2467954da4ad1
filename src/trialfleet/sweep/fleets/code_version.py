"""Which code a study ran: git's commit and a digest of the files themselves."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from trialfleet.sweep.fleets.app_code import AppCode, git


def code_version(code: AppCode) -> dict[str, str]:
    """`digest` of the files that jobs may import, and git's `commit` with a + behind it if files differ from it.

    Besides `script`, the file of the task function, and `lock`, name and digest of what pins the packages.
    """
    if code.root is None:
        return {"digest": digest_of((), Path())}
    version = {"digest": digest_of(code.files, code.root), "script": str(code.script)}
    commit = git(code.root, "rev-parse", "HEAD")
    if commit:
        folders = sorted({path.parts[0] for path in code.files})
        version["commit"] = commit + ("+" if git(code.root, "status", "--porcelain", "--", *folders) else "")
    lock = lock_of(code.root)
    return version if lock is None else {**version, "lock": lock}


LOCKS = ("requirements.lock", "uv.lock", "poetry.lock", "pdm.lock", "pixi.lock", "conda-lock.yml", "requirements.txt")


def lock_of(root: Path) -> str | None:
    """Name and digest of the file in an application's folder that pins what is installed; None if there is none."""
    for name in LOCKS:
        if (root / name).is_file():
            return f"{name} {hashlib.sha256((root / name).read_bytes()).hexdigest()[:16]}"
    return None


def digest_of(files: Sequence[Path], folder: Path) -> str:
    """Digest of the names and contents of files in a folder."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path).encode() + b"\0" + (folder / path).read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def differing(code: AppCode, copy: Path, most: int = 3) -> str:
    """The first files that are not the same in a study's copy of the code: `in a.py, b.yaml and 2 more`.

    Empty if there is no copy, or none of the files differs: then some are there no more.
    """
    if code.root is None or not copy.is_dir():
        return ""
    found = [str(path) for path in code.files if not _same(code.root / path, copy / path)]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"in {', '.join(found[:most])}{more}" if found else ""


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()

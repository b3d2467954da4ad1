"""A study's own copy of the code: jobs may wait for hours, and must not run today's edits."""

import os
import shutil
import sys
from pathlib import Path
from uuid import uuid4

import cloudpickle
from hydra.types import HydraContext

from trialfleet.compat.hydra import read_search_path_again
from trialfleet.errors import UserError
from trialfleet.sweep.fleets.app_code import AppCode
from trialfleet.sweep.fleets.code_version import digest_of


def take(code: AppCode, folder: Path, digest: str) -> Path:
    """Copy the application's code to `folder`, whole or not at all. One that is there stays as it is.

    Args:
        digest: of the code that the study runs.

    Returns:
        `folder`.

    Raises:
        UserError: there is no copy, and the application's code is another one by now.
    """
    if folder.exists():
        return folder
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    temporary.mkdir(parents=True)
    for path in code.files:
        assert code.root is not None
        target = temporary / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(code.root / path, target)
    if digest_of(code.files, temporary) != digest:
        shutil.rmtree(temporary)
        raise UserError(
            f"{folder}: the study's copy of the code is not there, and today's code is another one",
            "put the copy back, or take today's code with 'hydra.sweeper.study.allow_changes=[code]'",
        )
    temporary.rename(folder)
    return folder


def python_path(code: AppCode, copy: Path) -> str:
    """PYTHONPATH by which a job imports the code in `copy` before any that is installed.

    Where the command was typed, or its script lies, jobs import from as well, last of all, unless a copy stands for it.
    """
    copied = [root for root in code.import_roots if (copy / root).is_dir()]
    first = Path(sys.path[0] if sys.path else "").absolute()
    stands = code.root is not None and first.resolve() in [code.root / root for root in copied]
    inherited = os.environ.get("PYTHONPATH")
    entries = [*(str(copy / root) for root in copied), *([inherited] if inherited else [])]
    return os.pathsep.join(entries if stands else [*entries, str(first)])


def repointed(context: HydraContext, code: AppCode, copy: Path) -> HydraContext:
    """A copy of Hydra's context that composes configs from `copy` wherever it did from the application's folder."""
    copied: HydraContext = cloudpickle.loads(cloudpickle.dumps(context))
    for element in copied.config_loader.get_search_path().get_path():
        inside = code.inside(element.path)
        # Only what was copied: a --config-dir elsewhere in the application's folder stays where it is.
        if inside is not None and (copy / inside).is_dir():
            element.path = f"file://{copy / inside}"
    read_search_path_again(copied.config_loader)
    return copied

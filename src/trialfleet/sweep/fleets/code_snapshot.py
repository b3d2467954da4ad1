"""A study's own copy of the code: jobs may wait for hours, and must not run today's edits."""

import os
import shutil
from pathlib import Path
from uuid import uuid4

import cloudpickle
from hydra.types import HydraContext

from trialfleet.compat.hydra import read_search_path_again
from trialfleet.sweep.fleets.app_code import AppCode


def take(code: AppCode, folder: Path) -> Path:
    """Copy the application's code to `folder`, whole or not at all. One that is there stays as it is.

    Returns:
        `folder`.
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
    temporary.rename(folder)
    return folder


def python_path(code: AppCode, copy: Path) -> str:
    """PYTHONPATH by which a job imports the code in `copy` before any that is installed."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*(str(copy / root) for root in code.import_roots), *([inherited] if inherited else [])])


def repointed(context: HydraContext, code: AppCode, copy: Path) -> HydraContext:
    """A copy of Hydra's context that composes configs from `copy` wherever it did from the application's folder."""
    copied: HydraContext = cloudpickle.loads(cloudpickle.dumps(context))
    for element in copied.config_loader.get_search_path().get_path():
        inside = None if element.path is None else element.path.removeprefix(f"file://{code.root}{os.sep}")
        # Only what was copied: a --config-dir elsewhere in the application's folder stays where it is.
        if inside != element.path and (copy / str(inside)).is_dir():
            element.path = f"file://{copy}{os.sep}{inside}"
    read_search_path_again(copied.config_loader)
    return copied

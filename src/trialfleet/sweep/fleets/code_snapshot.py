"""A study's own copy of the code: jobs may wait for hours, and must not run today's edits."""

import os
import shutil
from pathlib import Path
from uuid import uuid4

import cloudpickle
from hydra.types import HydraContext

from trialfleet.compat.hydra import read_search_path_again
from trialfleet.sweep.fleets.code_version import source_files


def take(project: Path, folder: Path) -> Path:
    """Copy the project's code and conf/ to `folder`, whole or not at all. One that is there stays as it is.

    Returns:
        `folder`.
    """
    if folder.exists():
        return folder
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    for path in source_files(project):
        target = temporary / path.relative_to(project)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    temporary.rename(folder)
    return folder


def python_path(code: Path) -> str:
    """PYTHONPATH by which a job imports the code in `code` before any that is installed."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(code), str(code / "src"), *([inherited] if inherited else [])])


def repointed(context: HydraContext, project: Path, code: Path) -> HydraContext:
    """A copy of Hydra's context that composes configs from `code` wherever it did from `project`."""
    copy: HydraContext = cloudpickle.loads(cloudpickle.dumps(context))
    for element in copy.config_loader.get_search_path().get_path():
        inside = None if element.path is None else element.path.removeprefix(f"file://{project}{os.sep}")
        # Only what was copied: a --config-dir elsewhere in the project's directory stays where it is.
        if inside != element.path and (code / str(inside)).is_dir():
            element.path = f"file://{code}{os.sep}{inside}"
    read_search_path_again(copy.config_loader)
    return copy

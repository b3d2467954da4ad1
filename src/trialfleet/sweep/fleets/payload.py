"""What all jobs of a driver share: the task function and Hydra's context, pickled once.

Everything about a single trial is in its submission. The pickle holds no secret: the storage's and the
tracking server's passwords are taken out, since jobs never talk to either.

A function of the script that was started has no module that a job could import, and is pickled as it is: once for each
version of the code, so that a study that goes on with its own copy of the code does so with this part of it, too.
"""

import copy
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from trialfleet.compat.hydra import forget_files
from trialfleet.errors import UserError
from trialfleet.sweep.study.search_space import element
from trialfleet.trial import secrets


def write_payload(
    folder: Path, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig, code: str
) -> Path:
    """Pickle what jobs need into `folder`, once for the same content.

    `keep_task` comes first.

    Args:
        code: digest of the code that the study's jobs run.

    Returns:
        the file's path.
    """
    task_file = _task_path(folder, task_function, code).name if _is_of_script(task_function) else None
    context = copy.copy(hydra_context)
    context.config_loader = copy.copy(hydra_context.config_loader)
    forget_files(context.config_loader)  # a job reads those it needs itself
    content = cloudpickle.dumps(
        {
            "hydra_context": context,
            "task_function": None if task_file is not None else task_function,
            "task_file": task_file,
            "config": without_secrets(config),
            "singletons": _singletons(),
            "study": str(folder.parent),
        }
    )
    return _write(folder / f"payload-{code}-{hashlib.sha256(content).hexdigest()[:16]}.pkl", content)


def code_of(payload: Path) -> str | None:
    """Digest of the code that the jobs of a payload ran; None if it is of an earlier version, which did not say."""
    parts = payload.stem.split("-")
    return parts[1] if len(parts) > 2 else None


def keep_task(folder: Path, task_function: TaskFunction, code: str, today: Callable[[], str]) -> None:
    """Pickle a function of the script into `folder`, as it is when the study takes this version of the code.

    Args:
        code: digest of the code that the study's jobs run.
        today: digest of the application's code as it is now.

    Raises:
        UserError: the function cannot be pickled; or it was not kept, and is another one by now.
    """
    if not _is_of_script(task_function):
        return
    path = _task_path(folder, task_function, code)
    if path.exists():
        return
    if today() != code:
        raise UserError(
            f"{path}: is not there, and the script has changed since the study took it",
            "put the code back as it was, or let jobs run today's: 'hydra.sweeper.study.allow_changes=[code]'",
        )
    name, script = _names(task_function)
    try:
        content = cloudpickle.dumps(task_function)
    except Exception as error:
        raise UserError(
            f"the task function {name} of {script}.py cannot be sent to jobs: {error}",
            "let it not refer to open files, locks and the like, or move it into a module that the script imports",
        ) from error
    _write(path, content)


def _is_of_script(task_function: TaskFunction) -> bool:
    return getattr(task_function, "__module__", None) == "__main__"


def _names(task_function: TaskFunction) -> tuple[str, str]:
    """The function's name, and the script's."""
    name = getattr(task_function, "__qualname__", type(task_function).__name__).replace("<", "").replace(">", "")
    return name, Path(getattr(sys.modules["__main__"], "__file__", None) or "main").stem


def _task_path(folder: Path, task_function: TaskFunction, code: str) -> Path:
    name, script = _names(task_function)
    # Pickled code is of one version of Python.
    return folder / f"task-{code}-{script}.{name}-{sys.implementation.cache_tag}.pkl"


def _write(path: Path, content: bytes) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)
    return path


def _singletons() -> Any:
    """Hydra's global state, which holds the sweep's config and files, too."""
    state = Singleton.get_state()
    hydra_config = state["instances"].get(HydraConfig)
    if hydra_config is not None and hydra_config.cfg is not None:
        secrets.mask(hydra_config.cfg)
    global_hydra = state["instances"].get(GlobalHydra)
    if global_hydra is not None and global_hydra.hydra is not None:
        forget_files(global_hydra.hydra.config_loader)
    return state


def without_secrets(config: DictConfig) -> DictConfig:
    """A copy of the sweep's config in which addresses have no password, overrides included."""
    copied = copy.deepcopy(config)
    given = [text.partition("=")[0].lstrip("+") for text in secrets.overrides(copied, "task")]
    changed = [key for key in secrets.mask(copied) if key not in given]
    if changed:
        # A job composes its config anew, and Hydra refuses a sweeper that differs from this one.
        more = [f"++{key}={element(OmegaConf.select(copied, key))}" for key in changed]
        with read_write(copied.hydra.overrides):
            copied.hydra.overrides.hydra = [*secrets.overrides(copied, "hydra"), *more]
    return copied

"""What all jobs of a driver share: the task function and Hydra's context, pickled once.

Everything about a single trial is in its trial.json. The pickle holds no secret: the storage's and the
tracking server's passwords are taken out, since jobs never talk to either.
"""

import copy
import hashlib
import os
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from trialfleet.sweep.store import mask_password


def write_payload(folder: Path, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Path:
    """Pickle what jobs need into `folder`, once for the same content.

    Returns:
        the file's path.
    """
    content = cloudpickle.dumps(
        {
            "hydra_context": hydra_context,
            "task_function": task_function,
            "config": without_secrets(config),
            "singletons": Singleton.get_state(),
        }
    )
    path = folder / f"payload-{hashlib.sha256(content).hexdigest()[:16]}.pkl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)
    return path


def without_secrets(config: DictConfig) -> DictConfig:
    """A copy of the sweep's config in which URLs have no password, overrides included."""
    masked = copy.deepcopy(config)
    with read_write(masked), read_write(masked.hydra), open_dict(masked):
        storage = OmegaConf.select(config, "hydra.sweeper.storage")
        if isinstance(storage, str):
            masked.hydra.sweeper.storage = mask_password(storage)
        uri = OmegaConf.select(config, "tracking.uri")
        if isinstance(uri, str):
            masked.tracking.uri = mask_password(uri)
        for kind in ("hydra", "task"):
            overrides = [_masked_override(text) for text in config.hydra.overrides[kind]]
            masked.hydra.overrides[kind] = overrides
    return masked


def _masked_override(text: str) -> str:
    key, equals, value = text.partition("=")
    if "://" not in value:
        return text
    quote = value[0] if value[:1] in "'\"" else ""
    return f"{key}{equals}{quote}{mask_password(value.strip(quote) if quote else value)}{quote}"


def is_submittable(launcher: Any) -> bool:
    """Whether the launcher is one of hydra-submitit-launcher's, whose executor can be used without waiting."""
    return getattr(launcher, "_EXECUTOR", None) in ("local", "slurm")

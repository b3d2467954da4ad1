"""What a sweep's command would ask of the machine: its config, composed as sweeps compose it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trialfleet.compat.submitit import executor_of
from trialfleet.errors import UserError
from trialfleet.sweep.sweeper_settings import sweep_folder

_SWEEPER = "hydra/sweeper"
_NAMING = ("hydra.sweeper.study_name=", "hydra.job.name=", "hydra.sweep.dir=")


@dataclass(frozen=True)
class Asked:
    """What is to be ready.

    Attributes:
        study: the folder of the study, which need not be there.
        study_name: None where only the application's script would tell it.
        launcher: the keys of `hydra.launcher`.
        on_slurm: whether it submits to Slurm.
        job: whether a job is to be submitted, to see what a node has.
        storage: `hydra.sweeper.storage`.
        cache: the compilation cache; None for none.
        platform: of jax; None for the best there is.
    """

    study: Path
    study_name: str | None
    launcher: Mapping[str, Any]
    on_slurm: bool
    job: bool
    storage: Any
    tracking_uri: str | None
    experiment: str
    cache: str | None
    platform: str | None

    @property
    def folder(self) -> Path:
        """Where studies lie."""
        return self.study.parent

    @property
    def place(self) -> Path:
        """The same, or of what is above it the first folder that is there."""
        return existing(self.folder)

    @property
    def needs_slurm(self) -> bool:
        return self.on_slurm or self.job


def existing(folder: Path) -> Path:
    """The folder, or of those above it the first that is there."""
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def ask(overrides: Sequence[str], conf: Path | None, config_name: str | None, job: bool) -> Asked:
    """Compose the config that a sweep with these overrides would have.

    Args:
        overrides: the words of a sweep's command.
        conf: the folder of configs; None for those of this package alone. Then what overrides say of the
            application's own keys is passed over: nobody knows them here.
        config_name: of the primary config; None for none.
        job: whether a job is wanted even though the launcher is none of Slurm's.

    Raises:
        UserError: the overrides do not compose.
    """
    words = list(overrides)
    if conf is None:
        words = [word for word in words if "=" not in word or word.lstrip("+~").startswith("hydra")]
        if not any(word.startswith(f"{_SWEEPER}=") for word in words):
            words.insert(0, f"{_SWEEPER}=trialfleet")
    try:
        with _composed(words, conf, config_name) as config:
            named = conf is not None or any(word.lstrip("+").startswith(_NAMING) for word in words)
            return _read(config, job, named)
    except (HydraException, OmegaConfBaseException) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise UserError(f"{error}{cause}", "give overrides as the sweep's command has them") from error


@contextmanager
def _composed(overrides: list[str], conf: Path | None, config_name: str | None) -> Iterator[DictConfig]:
    before = HydraConfig.instance().cfg
    where = initialize_config_module("trialfleet.conf") if conf is None else initialize_config_dir(str(conf))
    with where:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            config = hydra.compose_config(config_name, overrides, RunMode.MULTIRUN)
            config.hydra.mode = RunMode.MULTIRUN
            HydraConfig.instance().set_config(config)
            yield config
        finally:
            HydraConfig.instance().cfg = before


def _read(config: DictConfig, job: bool, named: bool) -> Asked:
    launcher = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert isinstance(launcher, dict)
    on_slurm = executor_of(get_class(str(launcher.get("_target_")))) == "slurm"
    sweeper = config.hydra.sweeper
    return Asked(
        study=sweep_folder(config),
        study_name=str(OmegaConf.select(sweeper, "study_name")) if named else None,
        launcher={str(key): value for key, value in launcher.items() if key != "_target_"},
        on_slurm=on_slurm,
        job=job or on_slurm,
        storage=OmegaConf.select(sweeper, "storage"),
        tracking_uri=OmegaConf.select(sweeper, "tracking.uri"),
        experiment=str(OmegaConf.select(sweeper, "tracking.experiment", default="")),
        cache=OmegaConf.select(
            config, "runtime.compilation_cache", default=os.environ.get("JAX_COMPILATION_CACHE_DIR")
        ),
        platform=OmegaConf.select(config, "runtime.platform"),
    )

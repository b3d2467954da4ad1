"""Whether a study's jobs run one trial each or one after another, by its settings and its launcher."""

from collections.abc import Callable, Mapping

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from trialfleet.sweep.fleets.launchers import factory_of
from trialfleet.sweep.fleets.local import LAUNCHER as LOCAL
from trialfleet.sweep.sweeper_settings import WorkerSettings
from trialfleet.trial import records
from trialfleet.trial.worker_terms import Terms


def of(settings: WorkerSettings, launcher: Launcher, notice: Callable[[str], None]) -> Terms | None:
    """The terms of the study's jobs; None if each runs one trial.

    Args:
        notice: is told if what was asked for cannot be.
    """
    factory = factory_of(launcher)
    asked = settings.trials is not None or settings.minutes is not None
    if settings.trials == 1 or not (asked or (settings.local and factory.name == LOCAL)):
        return None
    if factory.processes(launcher) != 1:
        if asked and factory.takes_copy:
            notice("hydra.sweeper.worker: only jobs of one process run one trial after another; these run one each")
        return None
    return Terms(settings.trials, settings.minutes, settings.idle, settings.failures, settings.growth_gb)


def kind(environment: Mapping[str, str], config: DictConfig) -> str:
    """Names what a job has that no trial brings with it: its code, its terms, and what it asks of the launcher.

    Args:
        environment: that the fleet gives to its jobs.
        config: the sweep's.
    """
    return records.digest([dict(environment), OmegaConf.to_container(config.hydra.launcher, resolve=True)])

"""The Hydra plugin: takes what `hydra/sweeper=trialfleet` configures, and starts a driver.

Hydra imports this module in every application, trials included: nothing heavy is imported at the top.
"""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from trialfleet.errors import ShownError


class OptunaSweeper(Sweeper):
    """In the place of hydra-optuna-sweeper's: takes all of its keys, and its own.

    Args:
        node: the keys of `hydra.sweeper`; those of upstream's schema must be there, ours may be.
    """

    def __init__(self, **node: Any) -> None:
        self._node = node
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None
        self._task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self._task_function = task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        from trialfleet.sweep.plan import Request
        from trialfleet.sweep.session import run_session
        from trialfleet.sweep.sweeper_settings import defaults

        assert self.config is not None
        assert self.hydra_context is not None
        assert self._task_function is not None
        assert self.launcher is not None
        plain = {
            key: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value) and key not in ("sampler", "pruner", "storage")
            else value
            for key, value in self._node.items()
        }
        absent = {key: None for key in defaults() if key in ("params", "storage", "custom_search_space")}
        node = {**absent, **plain}
        try:
            run_session(Request(node, self.config, self.hydra_context, self._task_function, self.launcher, arguments))
        except KeyboardInterrupt:  # before the study began to listen
            raise CompactHydraException("interrupted; the same command goes on") from None
        except ShownError as error:
            # Hydra shows errors of this class, in any application, as the short message that they are.
            raise CompactHydraException(str(error)) from None

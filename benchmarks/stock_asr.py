"""The tiny speech recogniser under the stock hydra-optuna-sweeper: `python -m benchmarks.stock_asr -m overrides`.

As its users do it, the task logs its trial to MLflow itself; `BENCHMARK_MLFLOW` says where, or is empty for nowhere.
"""

import os
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from benchmarks.asr_trial import ToldRun, logged

ADDRESS = "BENCHMARK_MLFLOW"  # of MLflow
STOCK = "stock"  # what the stock sweeper is called here: in conf/ of this project `optuna` is ours


def task(cfg: DictConfig) -> float:
    """Train, and return the objective."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from trialfleet import training
    from trialfleet.config import load

    config = load(cfg)
    words = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    params = {one.key_or_group: one.value() for one in words}
    with logged(os.environ.get(ADDRESS, ""), params, OmegaConf.to_container(cfg, resolve=True)) as tell:
        run = ToldRun(Path(HydraConfig.get().runtime.output_dir), tell)
        outcome = training.train(config, run)
        run.close()
    return float(outcome.metrics[str(config.objective.metric)])


if __name__ == "__main__":
    from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf

    from trialfleet.config.location import conf_directory

    ConfigStore.instance().store(group="hydra/sweeper", name=STOCK, node=OptunaSweeperConf)
    hydra.main(config_path=str(conf_directory()), config_name="train")(task)()

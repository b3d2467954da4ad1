"""python -m pipelines.sweep -m hydra/sweeper=optuna …: a study, each trial a job of its own.

Without arguments it means the same: the default study of conf/sweep.yaml.
"""

import hydra

from pipelines import cli
from pipelines.train import task
from trialfleet.config.location import conf_directory

if __name__ == "__main__":
    cli.main(hydra.main(config_path=str(conf_directory()), config_name="sweep")(task))

"""python -m pipelines.sweep -m hydra/sweeper=optuna …: a study, each trial a job of its own.

Without arguments it means the same: the default study of conf/sweep.yaml.
"""

import hydra

from pipelines import front
from pipelines.train import task

if __name__ == "__main__":
    front.main(hydra.main(config_path="../conf", config_name="sweep")(task))

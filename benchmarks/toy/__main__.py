"""`python -m benchmarks.toy stock|ours overrides`: a sweep of the task by the stock Optuna sweeper, or by ours."""

import sys
from pathlib import Path

import hydra

from benchmarks.toy.task import task
from pipelines import cli
from trialfleet.config.location import conf_directory

CONF = Path(__file__).parent / "conf"

if __name__ == "__main__":
    which = sys.argv.pop(1)
    if which == "ours":
        sys.argv[1:1] = ["--config-dir", str(CONF)]
        cli.main(hydra.main(config_path=str(conf_directory()), config_name="toy")(task))
    else:
        hydra.main(config_path=str(CONF), config_name="toy")(task)()

"""A study of the test task, started as a person starts one of the project's: `python -m tests.tasks -m …`."""

import sys
from pathlib import Path

import hydra

from pipelines import cli
from tests.tasks.descent import task
from trialfleet.config.location import conf_directory

if __name__ == "__main__":
    sys.argv[1:1] = ["--config-dir", str(Path(__file__).parent / "conf")]
    cli.main(hydra.main(config_path=str(conf_directory()), config_name="descent")(task))

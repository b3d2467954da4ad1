"""python -m pipelines.study COMMAND …: `trialfleet study` with the settings of conf/."""

import sys

from pipelines import cli
from trialfleet.commands import study
from trialfleet.commands.study import Application
from trialfleet.config.location import conf_directory


def entry() -> None:
    application = Application(conf_directory(), "train", "python -m pipelines.train")
    study.run("python -m pipelines.study", sys.argv[1:], application)


if __name__ == "__main__":
    cli.main(entry, own_flags=False)

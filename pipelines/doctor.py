"""python -m pipelines.doctor [overrides]: `trialfleet doctor` with the settings of conf/, as a sweep has them."""

import sys

from pipelines import cli
from trialfleet.commands import doctor
from trialfleet.config.location import conf_directory


def entry() -> None:
    doctor.run("python -m pipelines.doctor", sys.argv[1:], conf_directory(), "sweep")


if __name__ == "__main__":
    cli.main(entry)

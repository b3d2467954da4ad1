"""python -m pipelines.dashboard …: `trialfleet dashboard` with the settings of conf/tracking.

Opens MLflow's own pages on the results, on this machine only, and prints a link to each study. Ctrl-C ends it.
"""

import sys

from omegaconf import OmegaConf

from pipelines import cli
from trialfleet.commands import dashboard
from trialfleet.config.location import conf_directory


def entry() -> None:
    tracking = OmegaConf.to_container(OmegaConf.load(conf_directory() / "tracking" / "default.yaml"))
    assert isinstance(tracking, dict)
    named = {str(key): value for key, value in tracking.items() if key != "defaults"}
    dashboard.run("python -m pipelines.dashboard", sys.argv[1:], named)


if __name__ == "__main__":
    cli.main(entry)

"""The Hydra plugin by which any application finds `hydra/sweeper=trialfleet` and its samplers and pruners.

Hydra imports this module in every application: nothing heavy is imported at the top.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class TrialfleetSearchPath(SearchPathPlugin):
    """Adds this package's configs behind the application's own, which so come first where names are the same."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="trialfleet", path="pkg://trialfleet.conf")

"""What each job imports sooner or later, imported at once: by a process that becomes jobs by forks.

Hydra looks for its plugins, too, in all packages that are installed. Nothing of the application is run.
"""

import cloudpickle  # noqa: F401
import hydra.core.utils  # noqa: F401
import submitit.local.local  # noqa: F401
from hydra.core.plugins import Plugins

import trialfleet.compat.hydra
import trialfleet.config
import trialfleet.worker.main
import trialfleet.worker.several_trials  # noqa: F401

Plugins.instance()

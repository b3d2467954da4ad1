"""The tests' own fixtures."""

from tests.conftest import commands, compiled, tables  # noqa: F401
from tests.end_to_end.conftest import database, here, run  # noqa: F401
from tests.sweep.conftest import finished_studies, finished_study, quick_study, study_host  # noqa: F401
from tests.tracking.conftest import target  # noqa: F401
from tests.training.conftest import config, new_run, toy  # noqa: F401  # sets up devices before anything imports jax

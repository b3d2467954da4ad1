"""What all tests share: generated cases are the same in each run, and never too slow for a busy machine."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, RunMode
from hypothesis import HealthCheck, settings
from omegaconf import DictConfig

from tests.config import reads
from tests.tasks.commands import OF_DRIVER, OF_MLFLOW, OF_TRAINING, Commands, host_of_commands
from trialfleet.tracking import database_schema
from trialfleet.tracking.mlflow_runs import prepare_environment

# Where Python is forbidden to keep what it compiled, as in many containers, each of the tests' processes would compile
# the project anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

WHOLE = {"quick_study", "new_study", "run_quickly", "run"}  # fixtures that run these
UNREAD = pytest.StashKey[list[str]]()

settings.register_profile(
    "everyday",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("everyday")


reads.record_attributes()


def pytest_configure(config: pytest.Config) -> None:
    """Where collisions are rendered, once, and kept between test runs."""
    os.environ["TRIALFLEET_TEST_COLLISIONS"] = str(config.rootpath / ".pytest_cache" / "collisions")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker's notes of the keys that were read."""
    reads.seen.update(getattr(node, "workeroutput", {}).get("reads", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of a whole run: a key of the config that nothing read is a failure."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["reads"] = sorted(reads.seen)
    elif not (config.option.markexpr or config.option.keyword or config.args != config.getini("testpaths")):
        config.stash[UNREAD] = sorted(reads.unread(reads.seen))
        if config.stash[UNREAD] and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name these keys."""
    if unread := config.stash.get(UNREAD, []):
        terminalreporter.section("keys of the config that nothing read", red=True)
        terminalreporter.line(", ".join(unread))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, then those that one worker takes as a group: no worker is left alone with one at the end.

    Whole commands and whole studies are long, whatever they do; those of the everyday run are marked as that. So is
    whatever needs a PostgreSQL: SQLite does for every day.
    """
    for item in items:
        whole = WHOLE & set(getattr(item, "fixturenames", ())) or "postgresql" in item.nodeid.lower()
        if whole and item.get_closest_marker("everyday") is None:
            item.add_marker(pytest.mark.slow)
    items.sort(
        key=lambda item: (item.get_closest_marker("slow") is None, item.get_closest_marker("xdist_group") is None)
    )


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compilation cache that all tests share, in all workers of pytest-xdist: each program is compiled once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def tables(pytestconfig: pytest.Config) -> Path:
    """MLflow's tables without a row, kept between test runs: making them takes seconds, copying them none."""
    prepare_environment()
    path = pytestconfig.cache.mkdir(f"mlflow-{version('mlflow')}") / "mlflow.db"
    database_schema.ensure(path)
    return path


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Forks a process for each command of `run_quickly`."""
    with host_of_commands(*OF_DRIVER, *OF_MLFLOW, *OF_TRAINING) as commands:
        yield commands


Composed = Callable[..., tuple[HydraContext, DictConfig]]


@contextmanager
def composing() -> Iterator[Composed]:
    """Composes a multirun's config as Hydra does before it starts a sweeper: (folder of configs, *overrides)."""
    before = HydraConfig.instance().cfg
    with ExitStack() as stack:

        def compose(conf: Path, *overrides: str) -> tuple[HydraContext, DictConfig]:
            stack.enter_context(initialize_config_dir(str(conf)))
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            config = hydra.compose_config("config", list(overrides), RunMode.MULTIRUN, activate_config_repository=True)
            config.hydra.mode = RunMode.MULTIRUN
            HydraConfig.instance().set_config(config)
            return HydraContext(hydra.config_loader, Callbacks(config)), config

        yield compose
    HydraConfig.instance().cfg = before


@pytest.fixture
def composed() -> Iterator[Composed]:
    """What `composing` gives, for one test."""
    with composing() as compose:
        yield compose

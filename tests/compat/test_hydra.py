"""The private names of Hydra: which of them are there, and that what is made of them does what it promises."""

import copy
import importlib
import pickle
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from tests.compat.versions import gone, locked
from tests.conftest import Composed
from trialfleet.compat.hydra import SEEN, failure_of, forget_files, read_search_path_again


def test_the_locked_version_was_seen() -> None:
    assert locked("hydra-core") in SEEN, "if all else here passes with it, add it to SEEN in compat/hydra.py"


def test_the_private_names_are_there(tmp_path: Path, composed: Composed) -> None:
    (tmp_path / "config.yaml").write_text("lr: 0.1\n")
    loader = composed(tmp_path)[0].config_loader
    module = importlib.import_module("hydra._internal.config_repository")
    assert hasattr(module, "ConfigRepository"), gone("hydra-core", "hydra._internal's ConfigRepository", SEEN)
    for name in ("repository", "_active_repository"):
        assert hasattr(loader, name), gone("hydra-core", f"ConfigLoaderImpl.{name}", SEEN)
    assert hasattr(JobReturn(), "_return_value"), gone("hydra-core", "JobReturn._return_value", SEEN)


def test_a_loader_reads_its_search_path_again(tmp_path: Path, composed: Composed) -> None:
    for folder, size in (("one", 1), ("two", 2)):
        (tmp_path / folder / "model").mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text("lr: 0.1\n")
        (tmp_path / folder / "model" / "tiny.yaml").write_text(f"size: {size}\n")
    context, config = composed(tmp_path / "one")
    loader = context.config_loader

    def size() -> int:
        return int(loader.load_sweep_config(config, ["+model=tiny"]).model.size)

    for element in loader.get_search_path().get_path():
        element.path = element.path and element.path.replace(str(tmp_path / "one"), str(tmp_path / "two"))
    assert size() == 1, "Hydra sees a changed search path by itself: read_search_path_again has nothing to do"
    read_search_path_again(loader)
    assert size() == 2


def test_a_loader_forgets_what_it_read_and_reads_it_again(tmp_path: Path, composed: Composed) -> None:
    (tmp_path / "config.yaml").write_text("lr: 0.1\npassword: s3cret-in-a-file\n")
    context, config = composed(tmp_path)
    loader = copy.copy(context.config_loader)
    assert b"s3cret-in-a-file" in pickle.dumps(loader), "Hydra keeps no files any more: forget_files has nothing to do"
    forget_files(loader)
    assert b"s3cret-in-a-file" not in pickle.dumps(loader)
    assert loader.load_sweep_config(config, ["lr=0.5"]).lr == 0.5


def test_a_loader_that_keeps_nothing_is_left_alone() -> None:
    class Loader:
        pass

    loader = Loader()
    forget_files(loader)
    assert vars(loader) == {}


def test_a_failed_job_says_what_it_failed_of_and_nothing_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("no")
    failed = JobReturn(cfg=DictConfig({}), status=JobStatus.FAILED)
    failed.return_value = error
    assert failure_of(failed) is error
    assert capsys.readouterr().err == ""
    assert str(failure_of(pickle.loads(pickle.dumps(failed)))) == "no"  # from a launcher's other process

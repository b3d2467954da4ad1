"""Studies with real processes, ended at the end of the test whatever they were doing, and a Slurm of fakes."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.sweep.fake_slurm import FakeSlurm
from tests.tasks.forked import QuickStudy, host
from tests.tasks.studies import NewStudy, in_folders_of
from trialfleet.sweep.fleets import slurm as slurm_fleet


@pytest.fixture
def new_study(tmp_path: Path) -> Iterator[NewStudy]:
    """Makes a study of local jobs in a folder of the test's own."""
    yield from in_folders_of(tmp_path)


@pytest.fixture(scope="session")
def study_host() -> Iterator["subprocess.Popen[str]"]:
    """Has everything imported, and forks the drivers of `quick_study` from it."""
    with host() as process:
        yield process


@pytest.fixture
def quick_study(tmp_path: Path, study_host: "subprocess.Popen[str]") -> Iterator[Callable[..., QuickStudy]]:
    """Makes studies whose commands take half a second each, in folders of the test's own."""
    made: list[QuickStudy] = []

    def new(*overrides: str) -> QuickStudy:
        place = tmp_path / f"quick{len(made)}"
        place.mkdir()
        made.append(QuickStudy(place, *overrides))
        made[-1].host = study_host
        return made[-1]

    yield new
    for study in made:
        study.clean_up()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm's commands say what the test wants them to, on a clock that is the test's, too."""
    fake = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(slurm_fleet, "time", SimpleNamespace(monotonic=lambda: fake.now))
    monkeypatch.setattr(slurm_fleet, "PROMPT_SECONDS", 60.0)  # a busy machine starts a fake slowly
    return fake

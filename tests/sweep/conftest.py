"""Studies with real processes, ended at the end of the test whatever they were doing, and a Slurm of fakes."""

import shutil
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


@pytest.fixture(scope="session")
def finished_studies(
    study_host: "subprocess.Popen[str]", tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Path]]:
    """Studies that have run, each moved away from there: where it ran, and where it lies.

    A study whose folder is no longer where it was moved; so a copy goes on as the study itself.
    """
    made: dict[tuple[str, ...], tuple[Path, Path]] = {}

    def find(*overrides: str, first: str) -> tuple[Path, Path]:
        if (*overrides, first) not in made:
            ran = tmp_path_factory.mktemp("finished") / "ran"
            ran.mkdir()
            study = QuickStudy(ran, *overrides)
            study.host = study_host
            study.run(first=first)
            made[(*overrides, first)] = ran, ran.rename(ran.with_name("kept"))
        return made[(*overrides, first)]

    return find


@pytest.fixture
def finished_study(
    quick_study: Callable[..., QuickStudy], finished_studies: Callable[..., tuple[Path, Path]]
) -> Callable[..., QuickStudy]:
    """What `quick_study` gives, its command run to the end already: once for all tests that ask for the same."""

    def new(*overrides: str, first: str = "") -> QuickStudy:
        study = quick_study(*overrides)
        ran, kept = finished_studies(*overrides, first=first)
        shutil.copytree(kept, study.place, symlinks=True, dirs_exist_ok=True)
        record = study.folder / "study.yaml"
        record.write_text(record.read_text().replace(str(ran), str(study.place)))
        return study

    return new


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm's commands say what the test wants them to, on a clock that is the test's, too."""
    fake = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(slurm_fleet, "time", SimpleNamespace(monotonic=lambda: fake.now))
    monkeypatch.setattr(slurm_fleet, "PROMPT_SECONDS", 60.0)  # a busy machine starts a fake slowly
    return fake

"""Our files are found from where the package lies, whatever else is called pipelines, conf or jobs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trialfleet.config.location import conf_directory, expanded, project_directory

PROJECT = Path(__file__).resolve().parents[2]


def test_the_project_is_where_the_package_lies() -> None:
    assert project_directory() == PROJECT
    assert conf_directory() == PROJECT / "conf"


@pytest.mark.slow
@pytest.mark.parametrize("package", [pytest.param(False, marks=pytest.mark.slow), True], ids=["folders", "packages"])
def test_a_users_own_folders_of_the_same_names_are_in_nobodys_way(tmp_path: Path, package: bool) -> None:
    """A sweep of an app of the user's, whose jobs start in a folder with a pipelines/, a jobs/ and a conf/ in it."""
    for name in ("pipelines", "jobs", "conf"):
        (tmp_path / name).mkdir()
        if package:
            (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not for you')\n")
    (tmp_path / "conf" / "config.yaml").write_text("not: ours\n")
    paths = os.pathsep.join([str(PROJECT), str(tmp_path)])
    command = ["-m", "tests.tasks", "-m", "hydra.sweeper.n_trials=2", "steps=2", "seconds=0.01"]
    done = subprocess.run(
        [sys.executable, "-P", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 trials (2 complete)" in done.stdout


def test_a_home_that_nobody_has_is_a_path_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a") == tmp_path / "a"
    assert expanded("~no-such-user/a") == Path("~no-such-user/a")

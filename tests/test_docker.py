"""What can be said of the images without a Docker engine: they name what exists, and give nothing away."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

each_dockerfile = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
each_service = pytest.mark.parametrize("name", SERVICES)


def instructions(dockerfile: Path) -> list[list[str]]:
    """The words of each instruction."""
    return [line.split() for line in joined(dockerfile)]


def joined(dockerfile: Path) -> list[str]:
    """The instructions, continued lines joined, comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def test_every_image_has_its_dockerfile() -> None:
    assert [path.stem for path in DOCKERFILES] == ["mlflow", "slurm", "trainer"]


@each_dockerfile
def test_everything_copied_exists(dockerfile: Path) -> None:
    copies = [words[1:] for words in instructions(dockerfile) if words[0] in ("COPY", "ADD")]
    outside = [words for words in copies if not any(word.startswith("--from=") for word in words)]
    sources = [word for words in outside for word in words[:-1] if not word.startswith("--")]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


@each_dockerfile
def test_everything_copied_is_in_the_context_and_nothing_else(dockerfile: Path) -> None:
    """Else an engine is sent environments and results by the gigabyte, and perhaps docker/.env."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:].rstrip("/") for rule in rules if rule.startswith("!")}
    assert [name for name in let_in if not (ROOT / name).exists()] == []
    copies = [words[1:] for words in instructions(dockerfile) if words[0] in ("COPY", "ADD")]
    outside = [words for words in copies if not any(word.startswith("--from=") for word in words)]
    sources = {word.rstrip("/") for words in outside for word in words[:-1] if not word.startswith("--")}
    assert sources <= let_in


@each_dockerfile
def test_no_image_runs_as_root(dockerfile: Path) -> None:
    users = [words[1] for words in instructions(dockerfile) if words[0] == "USER"]
    assert users
    assert users[-1] != "root"


@each_dockerfile
def test_modules_that_images_run_exist(dockerfile: Path) -> None:
    modules = re.findall(r'"?python"?,? "?-m"?,? "?((?:jobs|pipelines)\.\w+)', dockerfile.read_text())
    assert modules or dockerfile.stem == "mlflow"
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []


@each_dockerfile
def test_modules_that_images_run_are_found_in_any_folder(dockerfile: Path, tmp_path: Path) -> None:
    """They are typed in a folder of results, where the sources are not, and the installed package is src/ alone."""
    install = next((line for line in joined(dockerfile) if "--editable" in line), None)
    if install is None:
        assert dockerfile.stem == "mlflow"
        return
    program = re.search(r"python -c '([^']+)'", install)
    assert program is not None
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-c", program[1]], cwd=ROOT, check=True)
    names = ("pipelines", "jobs")
    look = f"from importlib.util import find_spec; print([bool(find_spec(name)) for name in {names}])"
    found = subprocess.run([python, "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[True, True]"


@each_dockerfile
def test_a_compiler_is_there_where_the_lock_is_installed(dockerfile: Path) -> None:
    """One of its packages comes as C sources, which slim images cannot build."""
    text = "\n".join(joined(dockerfile))
    for installed in re.finditer("pip install --require-hashes", text):
        assert re.search(r"apt-get install [^&]*\bgcc libc6-dev\b", text[: installed.start()])


@each_dockerfile
def test_what_is_looked_up_in_the_lock_is_there(dockerfile: Path) -> None:
    for program in re.findall(r"sed -n '([^']+)' \S*requirements\.lock", dockerfile.read_text()):
        command = ["sed", "-n", program, str(ROOT / "requirements.lock")]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert found
        assert [line for line in found if not re.fullmatch(r"([\w.-]+==)?\d[\w.]*( ;.*)?", line)] == []


@each_service
def test_services_are_built_from_files_that_exist(name: str) -> None:
    build = SERVICES[name].get("build")
    if build is None:
        assert re.fullmatch(r"[a-z]+:[\w.-]+", SERVICES[name]["image"]), "an image has a name and a version"
    else:
        context = DOCKER / build["context"]
        assert context.resolve() == ROOT
        assert (context / build["dockerfile"]).is_file()


@each_service
def test_ports_are_published_on_this_machine_only(name: str) -> None:
    assert [port for port in SERVICES[name].get("ports", []) if not str(port).startswith("127.0.0.1:")] == []


@each_service
def test_services_that_stay_are_watched(name: str) -> None:
    service = SERVICES[name]
    if "profiles" not in service:  # those with a profile are started for one command
        built = "build" in service and DOCKER.parent / service["build"]["dockerfile"]
        assert "healthcheck" in service or (built and "HEALTHCHECK" in built.read_text())


@each_service
def test_volumes_secrets_and_dependencies_are_declared(name: str) -> None:
    service = SERVICES[name]
    assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= COMPOSE["volumes"].keys()
    assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
    assert service.get("depends_on", {}).keys() <= SERVICES.keys()


def test_passwords_come_from_secrets() -> None:
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|_KEY", key):
                assert key.endswith("_FILE")
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    # From the environment, thus from no file in the repository, and with nothing to fall back on.
    assert COMPOSE["secrets"] == {"postgres_password": {"environment": "POSTGRES_PASSWORD"}}
    assert ".env" in (DOCKER / ".gitignore").read_text().split()


def test_no_file_holds_a_password() -> None:
    for path in sorted(DOCKER.iterdir()):
        if path.name == ".env":  # the user's own, which git ignores
            continue
        text = path.read_text()
        assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", text), f"a URI with a password in {path.name}"
        assert not re.search(r"(?i)password\w*[=:]\s*['\"]?(?![$/\s])\w", text), f"a password in {path.name}"


@pytest.mark.parametrize("path", [*sorted(DOCKER.glob("*.sh")), *sorted((ROOT / "jobs").glob("*.sbatch"))])
def test_scripts_parse(path: Path) -> None:
    shell = path.read_text().splitlines()[0].removeprefix("#!")
    parsed = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True)
    assert (parsed.returncode, parsed.stderr) == (0, "")


@pytest.mark.parametrize("path", [DOCKER / "README.md", DOCKER / "compose.yaml", ROOT / "jobs" / "sweep.sbatch"])
def test_commands_of_pages_and_services_exist(path: Path) -> None:
    text = path.read_text()
    modules = set(re.findall(r"-m ((?:jobs|pipelines)\.\w+)", text))
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []
    for choice in re.findall(r"hydra/(?:sweeper|launcher)=\w+", text):
        group, _, name = choice.partition("=")
        folders = [ROOT / "conf", ROOT / "src" / "trialfleet" / "conf"]
        found = [folder for folder in folders if (folder / group / f"{name}.yaml").is_file()]
        assert found or name == "submitit_slurm", choice

"""Which files are copied for a study's jobs, and where they import from."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trialfleet.errors import UserError
from trialfleet.sweep.fleets.app_code import AppCode, find
from trialfleet.sweep.fleets.code_snapshot import python_path, take
from trialfleet.sweep.fleets.code_version import code_version
from trialfleet.sweep.sweeper_settings import CodeSettings, settings

TASK = "def task(config):\n    return 1.0\n"
DEFAULTS = settings({}).code


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The folder of an application; `tests` beside it belong to nobody's application."""
    folder = tmp_path / "app"
    folder.mkdir()
    write(folder, "train_app.py", TASK)
    return folder


@pytest.fixture
def code_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AppCode]]:
    """The code of the application whose task function is in a module that is imported from `folder`."""
    imported: list[str] = []

    def find_code(folder: Path, module: str = "train_app", **changes: Any) -> AppCode:
        monkeypatch.syspath_prepend(str(folder))
        imported.append(module)
        task = importlib.import_module(module).task
        return find(task, CodeSettings(**{**vars(DEFAULTS), **changes}))

    yield find_code
    for module in imported:
        sys.modules.pop(module, None)
        sys.modules.pop(module.partition(".")[0], None)


def write(folder: Path, name: str, content: str = "") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(code: AppCode) -> list[str]:
    return [str(path) for path in code.files]


def commit(folder: Path, *others: str) -> None:
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    for other in others:
        subprocess.run([*git, "submodule", "--quiet", "add", other], check=True)


def test_a_folder_without_git_gives_its_sources_and_nothing_that_runs_leave_behind(
    app: Path, code_of: Callable[..., AppCode]
) -> None:
    for name in ("helpers/a.py", "conf/config.yaml", "vocabulary.json"):
        write(app, name)
    for name in (
        "data.csv",
        "sweeps/a/trials/00000/trial.json",
        "elsewhere/study.yaml",
        "elsewhere/trials/00000/trial.json",
        "outputs/x.yaml",
        ".venv/lib/x.py",
        "environment/pyvenv.cfg",
        "environment/lib/x.py",
        "__pycache__/x.py",
        "mlflow.db",
    ):
        write(app, name)
    code = code_of(app)
    assert code.root == app
    assert names(code) == ["conf/config.yaml", "helpers/a.py", "train_app.py", "vocabulary.json"]
    assert code.import_roots[0] == Path()


def test_a_repository_gives_what_git_tracks_new_sources_and_its_submodules(
    app: Path, tmp_path: Path, code_of: Callable[..., AppCode]
) -> None:
    other = write(tmp_path / "other", "inner.py").parent
    commit(other)
    write(app, "words.bin")
    write(app, "package/gone.py")
    write(app, ".gitignore", "ignored.py\n")
    commit(app, str(other))
    write(app, "package/new.py")
    write(app, "ignored.py")
    write(app, "results.csv")
    (app / "package" / "gone.py").unlink()
    assert names(code_of(app)) == ["other/inner.py", "package/new.py", "train_app.py", "words.bin"]


def test_a_submodule_that_is_not_checked_out_has_no_files(
    app: Path, tmp_path: Path, code_of: Callable[..., AppCode]
) -> None:
    other = write(tmp_path / "other", "inner.py").parent
    commit(other)
    commit(app, str(other))
    subprocess.run(["git", "-C", str(app), "submodule", "--quiet", "deinit", "-f", "--all"], check=True)
    assert names(code_of(app)) == ["train_app.py"]


def test_an_application_that_git_ignores_is_its_folder(tmp_path: Path, code_of: Callable[..., AppCode]) -> None:
    """Somebody's home folder may be a repository."""
    write(tmp_path, ".gitignore", "*\n")
    write(tmp_path, "elsewhere.py")
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    script = write(tmp_path / "project", "train_app.py", TASK)
    code = code_of(script.parent)
    assert (code.root, names(code)) == (script.parent, ["train_app.py"])


def test_a_module_of_a_package_in_a_repository_is_imported_from_where_its_package_lies(
    tmp_path: Path, code_of: Callable[..., AppCode]
) -> None:
    write(tmp_path, "src/package_of_app/__init__.py")
    write(tmp_path, "src/package_of_app/train.py", TASK)
    write(tmp_path, "tests/test_it.py")
    commit(tmp_path)
    code = code_of(tmp_path / "src", "package_of_app.train")
    assert code.root == tmp_path
    assert code.import_roots[0] == Path("src")
    assert "tests/test_it.py" in names(code)


def test_a_module_of_a_package_without_git_brings_its_package(tmp_path: Path, code_of: Callable[..., AppCode]) -> None:
    """Its jobs import the package: from the folder that has it, not from within."""
    write(tmp_path, "package_of_app/__init__.py")
    write(tmp_path, "package_of_app/inner/__init__.py")
    write(tmp_path, "package_of_app/inner/train.py", TASK)
    write(tmp_path, "package_of_app/helper.py")
    code = code_of(tmp_path, "package_of_app.inner.train")
    assert (code.root, code.import_roots[0]) == (tmp_path, Path())
    assert "package_of_app/helper.py" in names(code)


def test_pyproject_says_which_folders_are_code(app: Path, code_of: Callable[..., AppCode]) -> None:
    write(app, "pyproject.toml", '[tool.trialfleet]\ncode = ["lib"]\n')
    write(app, "lib/a.py")
    write(app, "other/b.py")
    assert names(code_of(app)) == ["lib/a.py", "train_app.py"]  # the script is code, wherever it lies


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[tool.trialfleet\ncode = []", "is no TOML"),
        ('[tool.trialfleet]\ncode = ["away"]', "must list folders beside it"),
        ('[tool.trialfleet]\ncode = "lib"', "must list folders beside it"),
    ],
)
def test_a_pyproject_that_is_wrong_is_named(app: Path, code_of: Callable[..., AppCode], text: str, named: str) -> None:
    file = write(app, "pyproject.toml", text)
    with pytest.raises(UserError, match=named) as refused:
        code_of(app)
    assert str(file) in str(refused.value)


def test_too_much_to_copy_is_refused_and_the_largest_files_are_named(
    app: Path, code_of: Callable[..., AppCode]
) -> None:
    write(app, "large.json", "x" * 300_000)
    with pytest.raises(UserError, match=r"large\.json \(0\.3 MB\)") as refused:
        code_of(app, max_mb=0.1)
    assert "hydra.sweeper.code.exclude" in str(refused.value)
    with pytest.raises(UserError, match="more than 1 files"):
        code_of(app, max_files=1)
    assert names(code_of(app, max_mb=0.1, exclude=["large.*"])) == ["train_app.py"]


def test_what_was_installed_or_has_no_file_is_not_copied(tmp_path: Path, code_of: Callable[..., AppCode]) -> None:
    installed = write(tmp_path, "lib/site-packages/train_app.py", TASK).parent
    assert code_of(installed) == AppCode(None)
    scope: dict[str, Any] = {}
    exec(TASK, scope)
    assert find(scope["task"], DEFAULTS) == AppCode(None)
    assert code_version(AppCode(None))["digest"]


def test_a_module_that_would_take_the_place_of_one_of_pythons_is_refused(
    app: Path, code_of: Callable[..., AppCode], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(app, "queue.py")
    assert code_of(app).import_roots[0] == Path()  # as it does in this process, too
    task = importlib.import_module("train_app").task
    monkeypatch.setattr(sys, "path", [*(entry for entry in sys.path if entry != str(app)), str(app)])
    with pytest.raises(UserError, match=r"queue\.py: jobs would import it in the place of Python's own module queue"):
        find(task, DEFAULTS)


def test_an_environment_in_the_applications_folder_is_none_of_its_code(
    app: Path, code_of: Callable[..., AppCode], monkeypatch: pytest.MonkeyPatch
) -> None:
    standard = write(app / "env" / "lib" / "python", "queue.py").parent
    monkeypatch.setattr(sys, "prefix", str(app / "env"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(standard)])
    assert code_of(app).import_roots == [Path()]


def test_a_callable_object_is_of_the_file_of_its_class(app: Path, code_of: Callable[..., AppCode]) -> None:
    write(app, "train_app.py", "class Task:\n    def __call__(self, config):\n        return 1.0\n\n\ntask = Task()\n")
    assert names(code_of(app)) == ["train_app.py"]


def test_the_version_changes_with_the_files_and_says_when_they_are_not_gits(
    app: Path, code_of: Callable[..., AppCode]
) -> None:
    commit(app)
    before = code_version(code_of(app))
    write(app, "train_app.py", TASK + "# changed\n")
    after = code_version(code_of(app))
    assert before["digest"] != after["digest"]
    assert after["commit"] == before["commit"] + "+"


def test_a_copy_that_is_missing_is_not_made_from_other_code(
    app: Path, tmp_path: Path, code_of: Callable[..., AppCode]
) -> None:
    code = code_of(app)
    digest, folder = code_version(code)["digest"], tmp_path / "copies" / "x"
    write(app, "train_app.py", TASK + "# edited\n")
    with pytest.raises(UserError, match="copy of the code is not there"):
        take(code, folder, digest)
    assert list(folder.parent.iterdir()) == []
    write(app, "train_app.py", TASK)
    assert (take(code, folder, digest) / "train_app.py").read_text() == TASK
    write(app, "train_app.py", TASK + "# edited\n")
    assert (take(code, folder, digest) / "train_app.py").read_text() == TASK  # the one that is there


def test_jobs_import_from_copies_first_and_from_where_a_command_was_typed_last(
    app: Path, tmp_path: Path, code_of: Callable[..., AppCode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    code = code_of(app)
    copy = take(code, tmp_path / "copy", code_version(code)["digest"])
    monkeypatch.setattr(sys, "path", [str(app), *sys.path])
    assert python_path(code, copy).split(":")[0] == str(copy)
    assert str(app) not in python_path(code, copy).split(":")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "elsewhere"), *sys.path])
    assert python_path(code, copy).split(":")[-1] == str(tmp_path / "elsewhere")


@pytest.mark.parametrize("place", ["generated", "sweeps"])
def test_what_is_loaded_is_code_whatever_git_or_a_pattern_says(
    app: Path, code_of: Callable[..., AppCode], place: str
) -> None:
    write(app, f"{place}/version.py", "VERSION = 1\n")
    write(app, f"{place}/other.py")
    write(app, "train_app.py", f"from {place}.version import VERSION\n{TASK}")
    write(app, ".gitignore", "generated/\n")
    commit(app)
    code = code_of(app)
    assert f"{place}/version.py" in names(code)
    assert f"{place}/other.py" not in names(code)
    sys.modules.pop(f"{place}.version")
    sys.modules.pop(place)

"""A study's code is what its project says that jobs import, and nothing else."""

from pathlib import Path

import pytest

from trialfleet.config.location import project_directory
from trialfleet.errors import UserError
from trialfleet.sweep.fleets import code_version
from trialfleet.sweep.fleets.code_version import code_folders, source_files

FILES = {
    "pyproject.toml": '[tool.trialfleet]\ncode = ["src", "programs"]\n',
    "src/library/__init__.py": "",
    "src/library/model.yaml": "",
    "src/library/notes.txt": "",
    "programs/train.py": "",
    "tests/test_train.py": "",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code_version, "project_directory", lambda: tmp_path)
    return tmp_path


def test_the_files_are_those_of_the_folders_that_the_project_names(project: Path) -> None:
    found = [str(path.relative_to(project)) for path in source_files(project)]
    assert found == ["src/library/__init__.py", "src/library/model.yaml", "programs/train.py"]


def test_the_digest_changes_with_them_alone(project: Path) -> None:
    before = code_version.code_version()
    (project / "tests" / "test_train.py").write_text("changed = 1\n")
    assert code_version.code_version() == before
    (project / "programs" / "train.py").write_text("changed = 1\n")
    assert code_version.code_version() != before


def test_what_tasks_of_this_project_lie_in_is_among_its_code() -> None:
    assert {"src", "conf", "pipelines"} <= set(code_folders(project_directory()))


@pytest.mark.parametrize(
    "text", ["code = [", '[tool.trialfleet]\ncode = ["absent"]\n', "[tool.trialfleet]\ncode = 1\n"]
)
def test_a_file_that_says_something_else_is_named(project: Path, text: str) -> None:
    (project / "pyproject.toml").write_text(text)
    with pytest.raises(UserError, match=r"pyproject\.toml: "):
        code_folders(project)

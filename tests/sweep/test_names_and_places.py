"""A study's name and folder, however they are spelt: it is one study, and nobody's files are moved."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.forked import QuickStudy

NewQuickStudy = Callable[..., QuickStudy]
N = "hydra.sweeper.n_trials="


def move_and_leave_a_link(study: QuickStudy, elsewhere: Path) -> None:
    """A study's project is moved, and its command is typed where it was."""
    study.run(f"{N}1")
    uid = (study.folder / "study.yaml").read_text().splitlines()[0]
    shutil.move(study.place, elsewhere)
    study.place.symlink_to(elsewhere)
    study.run(f"{N}2")
    record = (study.folder / "study.yaml").read_text()
    assert record.splitlines()[0] == uid
    assert "former_uids: []" in record


def test_a_project_that_moved_and_left_a_link_is_where_it_was(quick_study: NewQuickStudy, tmp_path: Path) -> None:
    """With a study in a database; benchmarks/proofs looks into MLflow, too."""
    move_and_leave_a_link(quick_study(f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"), tmp_path / "elsewhere")


def test_a_name_that_is_a_number_is_a_name(quick_study: NewQuickStudy) -> None:
    study = quick_study("hydra.sweeper.study_name=2024")
    study.run(f"{N}1")
    study.run(f"{N}1")
    record = study.place / "sweeps" / "2024" / "study.yaml"
    assert "name: '2024'" in record.read_text()
    record.write_text(record.read_text().replace("name: '2024'", "name: 2024"))  # as an earlier version wrote it
    study.run(f"{N}2")
    assert len(list((study.place / "sweeps" / "2024" / "trials").iterdir())) == 2


def read_as_something_else(study: QuickStudy, name: str) -> None:
    said = study.run(f"hydra.sweeper.study_name={name}", code=1)
    assert f"hydra.sweeper.study_name={name} is read as" in said
    assert f"hydra.sweeper.study_name='{name}'" in said
    assert not (study.place / "sweeps").exists()
    study.run(f"hydra.sweeper.study_name='{name}'")
    assert (study.place / "sweeps" / name / "study.yaml").exists()


def test_a_name_that_hydra_reads_as_something_else_is_refused(quick_study: NewQuickStudy) -> None:
    """A number; benchmarks/proofs has more."""
    read_as_something_else(quick_study(f"{N}1"), "20261125_1")


def test_a_name_that_hydra_reads_as_no_number_is_refused(quick_study: NewQuickStudy) -> None:
    """Each job would be refused, since its sweeper is not equal to the command's."""
    read_as_something_else(quick_study(f"{N}1"), "nan")


def names_no_folder(study: QuickStudy, name: str) -> None:
    assert "names no folder for the study" in study.run(f"hydra.sweeper.study_name={name}", code=1)
    assert not (study.place / "sweeps").exists()
    study.run(f"hydra.sweeper.study_name={name}", "hydra.sweep.dir=own")


@pytest.mark.parametrize("name", ["null", "a/../../b"])
def test_a_name_that_makes_no_folder_of_the_studys_own_is_refused(quick_study: NewQuickStudy, name: str) -> None:
    """Benchmarks/proofs has more."""
    names_no_folder(quick_study(f"{N}1"), name)


def test_a_study_in_the_folder_of_another_is_refused(quick_study: NewQuickStudy) -> None:
    """Whatever puts the outer one aside would take the inner one along."""
    study = quick_study(f"{N}1")
    study.run("hydra.sweeper.study_name=outer")
    said = study.run("hydra.sweeper.study_name=outer/trials", code=1)
    assert "outer/trials: would lie inside of the folder of another study" in said
    assert not (study.place / "sweeps" / "outer" / "trials" / "study.yaml").exists()


@pytest.mark.parametrize("names", ["[a,a]", "[a,'']"])
def test_objectives_that_cannot_be_told_apart_are_refused(quick_study: NewQuickStudy, names: str) -> None:
    study = quick_study(f"{N}1", f"hydra.sweeper.metric={names}", "hydra.sweeper.direction=[minimize,minimize]")
    assert "hydra.sweeper.metric" in study.run(code=1)


def test_an_applications_own_keys_are_not_taken_for_the_studys(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}1")
    study.run("+direction=up", "+space.depth=up")
    other = ["+direction=down", "+space.depth=down", f"{N}2"]
    said = study.run(*other, code=1)
    for key in ("direction", "space.depth"):
        assert f"config.{key}: 'up' → 'down'" in said
    study.run(*other, "study.allow_changes=[config.direction,config.space.depth]")


def test_a_fresh_start_moves_no_files_but_a_studys(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}1", "hydra.sweep.dir=mine")
    (study.place / "mine").mkdir()
    (study.place / "mine" / "precious").write_text("x")
    study.run("study.fresh=true")
    assert (study.place / "mine" / "precious").exists()
    assert (study.place / "mine" / "trials" / "00000" / "result.json").exists()


def test_a_fresh_start_does_not_rename_the_folder_that_the_command_is_run_in(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}1", "hydra.sweep.dir=.")
    study.run()
    assert f"study.fresh: {study.place} would be renamed" in study.run("study.fresh=true", code=1)
    assert (study.place / "study.yaml").exists()


def test_a_function_of_the_users_that_fails_is_named(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}1")
    raising = "import tests.tasks.descent\ntests.tasks.descent.space = lambda config, trial: 1 / 0\n"
    said = study.run("hydra.sweeper.custom_search_space=tests.tasks.descent.space", code=1, first=raising)
    assert "hydra.sweeper.custom_search_space: raised ZeroDivisionError" in said
    study.run("hydra.sweeper.custom_search_space=null")


def test_a_new_study_of_an_archived_ones_name_says_so(quick_study: NewQuickStudy) -> None:
    study = quick_study(f"{N}1")
    archive = study.folder.with_name(f"{study.folder.name}.tar.gz")
    archive.parent.mkdir()
    archive.touch()
    said = " ".join(study.run(f"{N}1").split())
    assert f"{archive} holds a study of this name, and this is a new one" in said
    assert f"tar -xzf {archive} -C {archive.parent}" in said
    assert str(archive) not in study.run(f"{N}2")

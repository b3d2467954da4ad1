"""A study's name, however it is spelt, and a folder that is reached by a link."""

import sqlite3
from pathlib import Path

import pytest

from tests.sweep.test_names_and_places import (
    N,
    NewQuickStudy,
    move_and_leave_a_link,
    names_no_folder,
    read_as_something_else,
)


@pytest.mark.parametrize("database", [None, "study.db"])
def test_a_project_that_moved_and_left_a_link_is_where_it_was(
    quick_study: NewQuickStudy, tmp_path: Path, database: str | None
) -> None:
    """Its trials are in MLflow once."""
    own = [f"hydra.sweeper.storage=sqlite:///{tmp_path / database}"] if database else []
    move_and_leave_a_link(quick_study(f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", *own), tmp_path / "elsewhere")
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        found = connection.execute("select name from runs where lifecycle_stage = 'active'").fetchall()
    connection.close()
    names = sorted(name.removesuffix(" ★ best") for (name,) in found)
    assert names == ["descent", "trial 00000", "trial 00001"]


@pytest.mark.parametrize("name", ["3.10", "1e3", "true"])
def test_a_name_that_hydra_reads_as_something_else_is_refused(quick_study: NewQuickStudy, name: str) -> None:
    read_as_something_else(quick_study(f"{N}1"), name)


@pytest.mark.parametrize("name", ["''", "..", "a//b"])
def test_a_name_that_makes_no_folder_of_the_studys_own_is_refused(quick_study: NewQuickStudy, name: str) -> None:
    names_no_folder(quick_study(f"{N}1"), name)

"""Studies with real processes, ended at the end of the test whatever they were doing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tasks.studies import NewStudy, in_folders_of


@pytest.fixture
def new_study(tmp_path: Path) -> Iterator[NewStudy]:
    """Makes a study of local jobs in a folder of the test's own."""
    yield from in_folders_of(tmp_path)

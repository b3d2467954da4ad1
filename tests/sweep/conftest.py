"""Studies with real processes, ended at the end of the test whatever they were doing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tasks.studies import Study

NewStudy = Callable[..., Study]


@pytest.fixture
def new_study(tmp_path: Path) -> Iterator[NewStudy]:
    """Makes a study of local jobs in a folder of the test's own."""
    made: list[Study] = []

    def new(*overrides: str, **named: object) -> Study:
        place = tmp_path / str(len(made))
        place.mkdir()
        made.append(Study(place, *overrides, **named))  # type: ignore[arg-type]  # passed on as they came
        return made[-1]

    yield new
    for study in made:
        study.clean_up()

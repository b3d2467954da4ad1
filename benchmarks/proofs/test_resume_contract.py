"""The contract of a sweep that is resumed: each point, at each moment, on each launcher."""

from pathlib import Path

import pytest

from tests.resume_contract.moments import MOMENTS, Moment
from tests.resume_contract.sweepers import BASIC, PROCESSES, Launcher, Sweeper
from tests.resume_contract.test_contract import cells, hold

# In the command's own process all moments lead to the same code: some of them do.
ALL = {BASIC: ("SIGKILL, some ended", "plain repeat", "changed command"), PROCESSES: tuple(MOMENTS)}


@pytest.mark.parametrize(("sweeper", "launcher", "moment"), cells(lambda launcher: ALL[launcher]))
def test_each_point_holds(sweeper: Sweeper, launcher: Launcher, moment: Moment, tmp_path: Path) -> None:
    hold(sweeper, launcher, moment, tmp_path)

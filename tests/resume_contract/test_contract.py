"""The contract's cells as tests: some of a sweeper that is to keep it, and one of a sweeper that is known not to."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from .moments import MOMENTS, Moment
from .points import judge
from .sweepers import BASIC, PROCESSES, SWEEPERS, Launcher, Sweeper

pytestmark = pytest.mark.slow

SOME = {  # benchmarks/proofs tries the others, too
    BASIC: ("SIGKILL, some ended",),
    PROCESSES: ("SIGKILL, some ended", "SIGINT, jobs run", "plain repeat"),
}


def cells(moments: Callable[[str], Iterable[str]]) -> list[Any]:
    """The cells of sweepers that are to keep the contract.

    Args:
        moments: of a launcher, by name.
    """
    return [
        pytest.param(sweeper, launcher, MOMENTS[moment], id=f"{sweeper.name}-{name}-{moment}")
        for sweeper in SWEEPERS.values()
        if sweeper.contract
        for name, launcher in sweeper.launchers.items()
        for moment in moments(name)
    ]


def hold(sweeper: Sweeper, launcher: Launcher, moment: Moment, folder: Path) -> None:
    """Each point that the moment says something about holds; there is one."""
    verdicts = judge(moment.of(sweeper, launcher, folder))
    assert {point: why for point, why in verdicts.items() if why} == {}
    assert "" in verdicts.values()


@pytest.mark.parametrize(("sweeper", "launcher", "moment"), cells(lambda launcher: SOME[launcher]))
def test_each_point_holds(sweeper: Sweeper, launcher: Launcher, moment: Moment, tmp_path: Path) -> None:
    hold(sweeper, launcher, moment, tmp_path)


@pytest.mark.xfail(raises=AssertionError, strict=True, reason="hydra-optuna-sweeper's n_trials means so many more")
def test_that_a_sweeper_without_a_total_is_found_out(tmp_path: Path) -> None:
    sweeper = SWEEPERS["optuna"]
    story = MOMENTS["plain repeat"].of(sweeper, sweeper.launchers[BASIC], tmp_path)
    assert judge(story)["finished starts nothing"] == ""

"""What each workload's step exchanges and holds, on each mesh."""

import re
import shlex
from itertools import product
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run
from tests.end_to_end.test_docs import LARGE_VIDEO
from tests.training.test_compiled import MESHES, WORKLOADS, check_against_theory
from tests.workloads.mvfoul.rendered import FEW


@pytest.mark.parametrize(("workload", "mesh"), [*product(WORKLOADS, ("8 data", "8 fsdp", "2x2x2"))])
def test_a_step_exchanges_and_holds_what_theory_says(workload: str, mesh: str, tmp_path: Path) -> None:
    assert mesh in MESHES
    check_against_theory(workload, mesh, tmp_path)


def test_a_step_of_gemma_3_1b_on_64_devices(run: Run) -> None:
    """A device holds a 64th of parameters and moments, gathers each weight twice, and adds up each gradient once."""
    shown = run("benchmarks.compiled", "published").stdout
    found = {what: float(ratio) for what, ratio in re.findall(r"^\| MB (\w+).* \| ([\d.]+) \|$", shown, re.MULTILINE)}
    assert found.keys() == {"of", "gathered", "added"}
    assert max(found.values()) < 1.15


def test_a_large_video_network_fits(run: Run) -> None:
    shown = run(*shlex.split(LARGE_VIDEO)[2:], *FEW).stdout
    assert "fits        yes" in shown

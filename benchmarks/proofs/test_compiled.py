"""What each workload's step exchanges and holds, on each mesh."""

from itertools import product
from pathlib import Path

import pytest

from tests.training.test_compiled import MESHES, WORKLOADS, check_against_theory


@pytest.mark.parametrize(("workload", "mesh"), [*product(WORKLOADS, ("8 data", "8 fsdp", "2x2x2"))])
def test_a_step_exchanges_and_holds_what_theory_says(workload: str, mesh: str, tmp_path: Path) -> None:
    assert mesh in MESHES
    check_against_theory(workload, mesh, tmp_path)

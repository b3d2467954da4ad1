"""A trial repeated from its folder: the same bits, or what differs; its study is not touched."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.forked import QuickStudy
from trialfleet.errors import UserError
from trialfleet.review.rerunning import repeat
from trialfleet.review.studies import load
from trialfleet.trial import records


def everything(folder: Path) -> dict[str, int]:
    """All files below a folder, with the times of their last change."""
    return {str(path): os.stat(path).st_mtime_ns for path in folder.rglob("*") if path.is_file()}  # noqa: PTH116


@pytest.mark.slow
def test_a_trial_is_repeated_bit_for_bit_and_a_difference_is_told(
    finished_study: Callable[..., QuickStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished_study("hydra.sweeper.n_trials=2")
    monkeypatch.chdir(study.place)
    seen = load(study.folder)
    row = seen.rows[1]  # a copied folder gets its index anew
    before = everything(study.folder)
    repeated = repeat(seen, row, study.place / "again")
    assert repeated.same, repeated
    assert repeated.differences == []
    assert [line.partition(":")[0] for line in repeated.outcome] == ["loss", "loss was reported at 4 steps in both"]
    assert everything(study.folder) == before
    with pytest.raises(UserError, match="is not empty"):
        repeat(seen, seen.rows[1], study.place / "again")

    result = study.folder / "trials" / "00001" / "result.json"
    record = records.read(result)
    assert record is not None
    record["objectives"] = [record["objectives"][0] + 1e-9]
    record["notes"] = {"fingerprint": {"devices": "8 x TPU v5e"}}
    records.write(result, record)
    seen = load(study.folder)
    repeated = repeat(seen, seen.rows[1], study.place / "other")
    assert not repeated.same
    assert "fingerprint.devices: 8 x TPU v5e → None" in repeated.differences
    assert " then, " in repeated.outcome[0]


def test_a_trial_without_a_job_is_not_repeated(tmp_path: Path) -> None:
    from benchmarks import review

    review.make(tmp_path / "wide", 1)
    study = load(tmp_path / "wide")
    with pytest.raises(UserError, match="the trial ran in its driver's process"):
        repeat(study, study.rows[0], None)

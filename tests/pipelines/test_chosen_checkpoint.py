"""Which checkpoint is meant by a folder, by 'latest' and by a trial."""

import os
from pathlib import Path

import pytest

from pipelines.chosen_checkpoint import choose, merged, step_of
from trialfleet.errors import UserError
from trialfleet.trial import records

RUN = "outputs/one/2026-01-01/10-00-00"
TRIAL = "sweeps/study/trials/00003/runs"


def save(folder: Path, workload: str = "asr", score: float | None = None, at: float = 0.0, whole: bool = True) -> Path:
    """A checkpoint, as far as it is looked at."""
    folder.mkdir(parents=True)
    records.write(folder / "meta.json", {"signature": {"workload.name": workload}, "score": score})
    if whole:
        records.write(folder / "manifest.json", {})
        os.utime(folder / "manifest.json", (at, at))
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two trainings and a trial of two runs."""
    checkpoints = tmp_path / RUN / "checkpoints"
    save(checkpoints / "00000010", at=1.0)
    save(checkpoints / "00000020", at=2.0)
    save(checkpoints / "00000030", whole=False)
    (tmp_path / RUN / ".hydra").mkdir()
    (tmp_path / RUN / ".hydra" / "overrides.yaml").write_text("- model.width=8\n- hydra.verbose=true\n- seed=1\n")
    save(tmp_path / "outputs/other/checkpoints/00000005", workload="mvfoul", at=9.0)
    save(tmp_path / TRIAL / "1.0/checkpoints/00000100", score=0.25, at=3.0)
    save(tmp_path / TRIAL / "2.0/checkpoints/00000200", score=0.5, at=4.0)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "workload", "found"),
    [
        ("latest", "asr", f"{TRIAL}/2.0/checkpoints/00000200"),
        ("latest", "mvfoul", "outputs/other/checkpoints/00000005"),
        (RUN, "asr", f"{RUN}/checkpoints/00000020"),
        (f"{RUN}/checkpoints", "asr", f"{RUN}/checkpoints/00000020"),
        (f"{RUN}/checkpoints/00000010", "asr", f"{RUN}/checkpoints/00000010"),
        ("outputs/one", "asr", f"{RUN}/checkpoints/00000020"),
        ("study/3", "asr", f"{TRIAL}/1.0/checkpoints/00000100"),
    ],
)
def test_what_is_meant(place: Path, word: str, workload: str, found: str) -> None:
    assert choose(word, workload, place).folder == place / found


def test_a_checkpoint_is_one_whatever_its_folder_is_called(place: Path) -> None:
    """A copy under another name, and a link, whose training is that of what it leads to."""
    whole = place / RUN / "checkpoints" / "00000010"
    copy = save(place / "it's the [best] *", at=1.0)
    assert choose(copy.name, "asr", place).folder == copy
    assert step_of(copy) is None
    (place / "link").symlink_to(whole)
    assert choose("link", "asr", place).folder == whole
    assert choose("link", "asr", place).overrides == ["model.width=8", "seed=1"]
    assert step_of(whole) == 10


def test_what_its_training_was_told_comes_before_what_is_typed(place: Path) -> None:
    chosen = choose(RUN, "asr", place)
    assert chosen.overrides == ["model.width=8", "seed=1"]
    assert merged(chosen.overrides, ["seed=2", "split=test"]) == ["model.width=8", "seed=2", "split=test"]


@pytest.mark.parametrize(
    ("word", "workload", "message"),
    [
        ("nowhere", "asr", "checkpoint=nowhere: there is no such folder"),
        ("study/7", "asr", r"keep_checkpoints.*\n.*those that have: study/3$"),
        ("stady/7", "asr", "no study .*sweeps/stady"),
        (f"{RUN}/checkpoints/00000030", "asr", "holds no whole checkpoint"),
        (f"{RUN}/.hydra", "asr", "holds no whole checkpoint"),
        ("latest", "grpo", "no checkpoint of workload=grpo"),
    ],
)
def test_what_is_not_there_is_said(place: Path, word: str, workload: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(word, workload, place)


def test_a_damaged_checkpoint_hides_no_other(place: Path) -> None:
    (place / "outputs/other/checkpoints/00000005/meta.json").write_text("{")
    assert choose("latest", "asr", place).folder == place / f"{TRIAL}/2.0/checkpoints/00000200"
    assert choose("outputs/other", "mvfoul", place).meta == {}
    (place / RUN / ".hydra" / "overrides.yaml").write_text("[")
    with pytest.raises(UserError, match=r"overrides\.yaml: cannot be read"):
        choose(RUN, "asr", place)


def test_nothing_is_no_checkpoint(place: Path) -> None:
    with pytest.raises(UserError, match="is empty"):
        choose("", "asr", place)

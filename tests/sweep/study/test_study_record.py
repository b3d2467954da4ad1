"""study.yaml: a resume goes on with the same study, or says what differs."""

import shutil
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from trialfleet.errors import UserError
from trialfleet.sweep.study import study_record
from trialfleet.sweep.study.study_record import StudyRecord, accept, at_home, check_metrics, differences, flat

IDENTITY = {"model.depth": 4, "data.path": "a", "space.lr": "float(0, 1)", "direction": "minimize"}


def made(folder: Path) -> StudyRecord:
    folder.mkdir(parents=True, exist_ok=True)
    record = study_record.create("study", folder, 7, "TPESampler", "null", IDENTITY, {"digest": "abc"})
    study_record.write(folder / "study.yaml", record)
    return record


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    assert study_record.read(tmp_path / "study.yaml") is None
    record = made(tmp_path)
    assert study_record.read(tmp_path / "study.yaml") == record
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_each_study_has_a_uid_of_its_own(tmp_path: Path) -> None:
    assert made(tmp_path / "a").uid != made(tmp_path / "b").uid


@pytest.mark.parametrize("content", ["uid: [", "name: only", "a: 1\nb: 2", "", "text"])
def test_what_is_no_study_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(UserError, match=r"study\.yaml: is no study record"):
        study_record.read(tmp_path / "study.yaml")


def test_the_same_command_is_accepted(tmp_path: Path) -> None:
    record = made(tmp_path)
    assert accept(record, dict(reversed(IDENTITY.items())), []) == record


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model.depth": 8}, "model.depth: 4 → 8"),
        ({"direction": "maximize"}, "direction: 'minimize' → 'maximize'"),
        ({"space.lr": None}, "space.lr: 'float(0, 1)' → None"),
        ({"space.new": "int(0, 1)"}, "space.new: (not there) → 'int(0, 1)'"),
        ({"model.depth": "4"}, "model.depth: 4 → '4'"),
        ({"model.depth": 4.0}, "model.depth: 4 → 4.0"),
    ],
)
def test_another_study_is_refused_with_the_difference(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refusal:
        accept(made(tmp_path), {**IDENTITY, **change}, [])
    assert line in str(refusal.value)
    assert f"study.allow_changes=[{next(iter(change))}]" in refusal.value.fix


def test_a_key_that_went_is_a_difference(tmp_path: Path) -> None:
    without = {key: value for key, value in IDENTITY.items() if key != "data.path"}
    with pytest.raises(UserError, match=r"data\.path: 'a' → \(not there\)"):
        accept(made(tmp_path), without, [])


@pytest.mark.parametrize("allowed", [["model.depth"], ["model"], ["data", "model"]])
def test_a_change_may_be_allowed_by_name(tmp_path: Path, allowed: list[str]) -> None:
    changed = {**IDENTITY, "model.depth": 8}
    assert accept(made(tmp_path), changed, allowed).identity == changed


@pytest.mark.parametrize("allowed", [["mod"], ["model.dep"], ["data"], ["model.depth.x"]])
def test_only_what_was_named_is_allowed(tmp_path: Path, allowed: list[str]) -> None:
    with pytest.raises(UserError, match=r"model\.depth"):
        accept(made(tmp_path), {**IDENTITY, "model.depth": 8}, allowed)


def test_all_differences_are_named_at_once(tmp_path: Path) -> None:
    changed = {**IDENTITY, "model.depth": 8, "data.path": "b"}
    with pytest.raises(UserError, match=r"model\.depth") as refusal:
        accept(made(tmp_path), changed, [])
    assert "allow_changes=[model.depth,data.path]" in refusal.value.fix
    assert differences(IDENTITY, changed) == ["model.depth", "data.path"]


def test_a_number_that_is_none_equals_itself() -> None:
    assert differences({"x": float("nan")}, {"x": float("nan")}) == []


def test_a_folder_at_home_keeps_its_record(tmp_path: Path) -> None:
    record = made(tmp_path / "study")
    assert at_home(record, tmp_path / "study") is record


def test_a_moved_folder_keeps_its_uid(tmp_path: Path) -> None:
    record = made(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved = at_home(record, tmp_path / "new")
    assert (moved.uid, moved.folder) == (record.uid, str(tmp_path / "new"))


def test_a_folder_that_is_somebody_elses_now_is_no_origin(tmp_path: Path) -> None:
    record = made(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    made(tmp_path / "old")
    assert at_home(record, tmp_path / "new").uid == record.uid


def test_a_copied_folder_is_a_study_of_its_own_and_keeps_its_trials(tmp_path: Path) -> None:
    record = made(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    copied = at_home(record, tmp_path / "new")
    assert copied.uid != record.uid
    assert copied.folder == str(tmp_path / "new")
    assert copied.former_uids == [record.uid]
    study_record.write(tmp_path / "new" / "study.yaml", copied)
    shutil.copytree(tmp_path / "new", tmp_path / "third")
    assert at_home(copied, tmp_path / "third").former_uids == [record.uid, copied.uid]


def test_flat() -> None:
    assert flat({"a": {"b": {"c": 1}, "empty": {}}, "d": [1, {"e": 2}]}) == {
        "a.b.c": 1,
        "a.empty": {},
        "d": [1, {"e": 2}],
    }


class Colour(Enum):
    RED = 1


def test_what_structured_configs_may_hold_is_recorded_without_passwords(tmp_path: Path) -> None:
    config = {"e": Colour.RED, "p": Path("/data"), "b": b"\xff", "m": {Colour.RED: [Colour.RED]}, "o": object()}
    config["urls"] = [{1: "postgresql://me:secret@host/db"}]
    identity = {key: study_record.recordable(value) for key, value in flat(config).items()}
    assert identity == {
        "e": "RED",
        "p": "/data",
        "b": b"\xff",
        "m.RED": ["RED"],
        "o": "object",
        "urls": [{1: "postgresql://me:***@host/db"}],
    }
    record = study_record.create("study", tmp_path, 7, "TPESampler", "null", identity, {})
    study_record.write(tmp_path / "study.yaml", record)
    assert study_record.read(tmp_path / "study.yaml") == record


def test_another_script_of_the_same_name_is_refused(tmp_path: Path) -> None:
    before, other, folder = tmp_path / "a" / "train.py", tmp_path / "b" / "train.py", tmp_path / "sweeps" / "train"
    for script in (before, other):
        script.parent.mkdir()
        script.touch()
    record = study_record.create("s", folder, 7, "", "null", {}, {"digest": "old", "script": str(before)})

    def check(script: Path, place: Path = folder, digest: str = "new", allowed: Sequence[str] = ()) -> None:
        study_record.check_script(record, script, place, lambda: digest, allowed)

    with pytest.raises(UserError, match="another script") as refusal:
        check(other)
    assert "allow_changes=[script]" in refusal.value.fix
    check(other, allowed=["script"])
    check(before)  # edited
    check(other, digest="old")  # the same application in another place
    check(tmp_path / "copy" / "a" / "train.py", tmp_path / "copy" / "sweeps" / "train")  # copied with its study
    before.unlink()
    check(other)  # renamed


KEY = study_record.METRICS


def told_of(record: StudyRecord, metrics: list[str], has_values: bool, *allowed: str) -> StudyRecord:
    return check_metrics(record, metrics, KEY, lambda: has_values, allowed)


def test_values_of_another_metric_are_refused(tmp_path: Path) -> None:
    record = told_of(made(tmp_path), ["loss"], True)  # study.yaml did not say
    assert record.identity == {**IDENTITY, KEY: ["loss"]}
    assert told_of(record, ["loss"], True) == record
    with pytest.raises(UserError, match=f"{KEY}: the values .* are those of loss, .* names accuracy") as refusal:
        told_of(record, ["accuracy"], True)
    assert f"give {KEY}=loss; " in refusal.value.fix
    assert f"study.allow_changes=[{KEY}]'" in refusal.value.fix
    with pytest.raises(UserError, match=r"are those of \[a,b\], and"):
        told_of(told_of(record, ["a", "b"], False), ["b", "a"], True)


def test_a_metric_may_change_before_there_are_values_or_by_permission(tmp_path: Path) -> None:
    record = told_of(made(tmp_path), ["loss"], True)
    changed = {**IDENTITY, KEY: ["accuracy"]}
    assert told_of(record, ["accuracy"], False).identity == changed
    assert told_of(record, ["accuracy"], True, KEY).identity == changed

"""Annotations as they are published, and tables: classes, files, what is left out."""

import json

import numpy as np
import pytest

from trialfleet.config.mvfoul import CLASSES
from trialfleet.errors import UserError
from trialfleet.workloads.mvfoul import annotations


@pytest.mark.parametrize(
    ("offence", "severity", "kind", "expected"),
    [
        ("No offence", "", "Tackling", ("No offence", "Tackling")),
        ("No Offence", "2.0", "Challenge", ("No offence", "Challenge")),
        ("Offence", "1.0", "High leg", ("No card", "High leg")),
        ("Offence", "3.0", "Standing tackling", ("Yellow card", "Standing tackling")),
        ("Offence", "5.0", "Elbowing", ("Red card", "Elbowing")),
        ("Offence", "2.0", "Holding", None),
        ("Offence", "4.0", "Pushing", None),
        ("Offence", "", "Pushing", None),
        ("Between", "1.0", "Pushing", None),
        ("", "1.0", "Holding", None),
        ("Offence", "1.0", "Dont know", None),
        ("Offence", "1.0", "", None),
        ("", "", "Dive", ("No card", "Dive")),
        ("Between", "3.0", "Dive", ("Yellow card", "Dive")),
        ("Offence", "2.0", "Dive", ("No card", "Dive")),
        ("No offence", "", "Dive", ("No offence", "Dive")),
    ],
)
def test_classes_are_those_of_the_challenge(offence, severity, kind, expected):
    label = annotations.label_of(offence, severity, kind, "official")
    names = CLASSES["official"]
    assert (label and (names.severities[label[0]], names.actions[label[1]])) == expected


def test_all_classes_are_the_values_as_they_are():
    names = CLASSES["all"]
    for severity, kind in (("", ""), ("2.0", "Dont know"), ("4.0", "Dive")):
        found = annotations.label_of("Between", severity, kind, "all")
        assert found == (names.severities.index(severity or "none"), names.actions.index(kind or "none"))
    assert annotations.label_of("Offence", "1.0", "Biting", "all") is None


def test_what_is_said_of_an_action_is_the_same_when_it_is_read_again():
    for classes, names in CLASSES.items():
        for severity in range(len(names.severities)):
            for action in range(len(names.actions)):
                said = annotations.in_words(severity, action, classes)
                again = annotations.label_of(said["Offence"], said["Severity"], said["Action class"], classes)
                assert again == (severity, action)


def entry(kind, offence, severity, *urls):
    clips = [{"Url": url, "Replay speed": 1.0} for url in urls]
    return {"Action class": kind, "Offence": offence, "Severity": severity, "Clips": clips}


def write(folder, entries):
    folder.mkdir(parents=True)
    content = {"Set": folder.name, "Number of actions": len(entries), "Actions": dict(enumerate(entries))}
    (folder / "annotations.json").write_text(json.dumps(content))


def test_a_published_folder_is_read(tmp_path):
    write(
        tmp_path / "Valid",
        [
            entry("Dive", "Offence", "3.0", "Dataset/Valid/action_0/clip_0", "Dataset/Valid/action_0/clip_1"),
            entry("Dont know", "Offence", "3.0", "Dataset/Valid/action_1/clip_0"),
            entry("Holding", "No offence", "", "Dataset\\Valid\\action_2\\clip_0", "x/action_2/clip_3.mp4"),
        ],
    )
    actions, left_out = annotations.of_folder("dataset.data_dir", tmp_path, "val", "official")
    assert left_out == 1
    assert [one.name for one in actions] == ["0", "2"]
    folder = tmp_path / "Valid"
    assert actions[0].clips == (folder / "action_0/clip_0.mp4", folder / "action_0/clip_1.mp4")
    assert actions[1].clips == (folder / "action_2/clip_0.mp4", folder / "action_2/clip_3.mp4")
    assert annotations.of_folder("dataset.data_dir", tmp_path, "val", "all")[1] == 0


def test_annotations_that_another_program_wrote_are_read(tmp_path):
    write(tmp_path / "train", [entry("Dive ", "Offence", 3, "x/action_0/clip_0"), entry("", "", None, "x/a/b")])
    path = tmp_path / "train/annotations.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    [action], _ = annotations.of_folder("dataset.data_dir", tmp_path, "train", "official")
    assert (action.severity, action.action) == annotations.label_of("Offence", "3.0", "Dive", "official")


def test_a_table_is_read(tmp_path):
    (tmp_path / "train/action_7").mkdir(parents=True)
    for name in ("clip_0.mp4", "clip_1.mp4", "other.txt"):
        (tmp_path / "train/action_7" / name).touch()
    (tmp_path / "own.csv").write_text(
        "id,Clips,action_class,OFFENCE,Severity\n"
        "seven,train/action_7,Dive,Offence,1.0\n"
        f"eight,train/action_8/clip_0.mp4; {tmp_path}/b.mp4,Holding,Offence,5.0\n"
        "nine,c.mp4,Holding,Between,\n"
        f"ten,{'x' * 300};,Holding,Offence,3\n"
    )
    actions, left_out = annotations.of_table("dataset.train_csv", tmp_path / "own.csv", tmp_path, "official")
    assert left_out == 1
    assert [(one.name, one.severity) for one in actions] == [("seven", 1), ("eight", 3), ("ten", 2)]
    assert actions[0].clips == tuple(tmp_path / "train/action_7" / f"clip_{n}.mp4" for n in range(2))
    assert actions[1].clips == (tmp_path / "train/action_8/clip_0.mp4", tmp_path / "b.mp4")
    assert actions[2].clips == (tmp_path / ("x" * 300),)  # no file has such a name, which is told as of any clip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Clips,Offence\na.mp4,Offence\n", "row 1: no column Action class, Severity"),
        ("Clips,Action class,Offence,Severity\na,Dive,Offence,1.0\n,Dive,Offence,1.0\n", "row 2: it names no clips"),
        ("Clips,Action class,Offence,Severity\n;,Dive,Offence,1.0\n", "row 1: it names no clips"),
        ("Clips,Action class,Offence,Severity\na,b,Dive,Offence,1.0\n", "row 1: it has more values than there are"),
        (
            "id,Clips,Action class,Offence,Severity\n1,a,Dive,Offence,1.0\n,b,Dive,Offence,1.0\n",
            "row 2: the id 1 is that of row 1, too",
        ),
        ("Clips,Action class,Offence,Severity\na,Biting,Offence,1.0\n", "of 1 actions none is of a class"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        annotations.of_table("dataset.train_csv", tmp_path / "own.csv", tmp_path, "official")


def test_what_a_folder_lacks_is_named(tmp_path):
    with pytest.raises(UserError, match=r"dataset.data_dir: .* has no train/annotations.json"):
        annotations.of_folder("dataset.data_dir", tmp_path, "train", "official")
    (tmp_path / "train").mkdir()
    for content in ("{", "[" * 100_000, "[]", '{"Actions": {"0": {}}}', '{"Actions": 3}'):
        (tmp_path / "train/annotations.json").write_text(content)
        with pytest.raises(UserError, match="it must be as SoccerNet-MVFoul's"):
            annotations.of_folder("dataset.data_dir", tmp_path, "train", "official")
    with pytest.raises(UserError, match=r"dataset.val_csv: .*nowhere.csv cannot be read"):
        annotations.of_table("dataset.val_csv", tmp_path / "nowhere.csv", tmp_path, "official")


def test_predictions_are_as_the_challenge_reads_them():
    content = annotations.predictions("val", ["3", "5"], np.asarray([0, 2]), np.asarray([3, 0]), "official")
    assert content == {
        "Set": "valid",
        "Actions": {
            "3": {"Action class": "Holding", "Offence": "No offence", "Severity": ""},
            "5": {"Action class": "Tackling", "Offence": "Offence", "Severity": "3.0"},
        },
    }

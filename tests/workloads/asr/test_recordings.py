"""Lists of recordings, and LibriSpeech's layout."""

from pathlib import Path

import pytest

from trialfleet.errors import UserError
from trialfleet.workloads.asr.recordings import Recording, recordings


def test_a_folder_in_librispeechs_layout(tmp_path):
    chapter = tmp_path / "train-clean" / "19" / "198"
    chapter.mkdir(parents=True)
    (chapter / "19-198.trans.txt").write_text("19-198-0000 NORTHANGER ABBEY\n19-198-0001 THIS LITTLE WORK\n\n")
    (chapter / "19-198-0001.wav").touch()
    (chapter / "19-198-0009.flac").touch()  # without a text
    assert recordings("dataset.train", str(tmp_path)) == [
        Recording(chapter / "19-198-0000.flac", "NORTHANGER ABBEY"),  # that it is not there is seen when it is read
        Recording(chapter / "19-198-0001.wav", "THIS LITTLE WORK"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'path,text,speaker\nx/1.wav,"Hello, you",7\n/abs/2.flac,Bye,8\n'),
        ("a.csv", '\ufeffpath,text\nx/1.wav,"Hello, you"\n/abs/2.flac,Bye\n'),  # as spreadsheets write it
        ("a.jsonl", '{"path": "x/1.wav", "text": "Hello, you"}\n\n{"text": "Bye", "path": "/abs/2.flac"}\n'),
    ],
)
def test_a_list_of_files(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    wanted = [Recording(tmp_path / "x/1.wav", "Hello, you"), Recording(Path("/abs/2.flac"), "Bye")]
    assert recordings("dataset.train", str(tmp_path / name)) == wanted


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "file,words\n1.wav,Hello\n", "dataset.train: .*recording 1: KeyError: 'path'"),
        ("a.csv", "path,text\n1.wav\n", "recording 1: ValueError: text is empty"),
        ("a.csv", "path,text\n", "has no recordings"),
        ("a.jsonl", '{"path": "1.wav", "text": "a"}\n{"path": \n', "recording 2: JSONDecodeError"),
        ("a.jsonl", "[1]\n", "recording 1: TypeError"),
        ("a.jsonl", '{"path": "1.wav", "text": " "}\n', "recording 1: ValueError: text is empty"),
        ("a.jsonl", '{"path": null, "text": "a"}\n', "recording 1: ValueError: path is empty"),
        ("a.jsonl", '{"path": "1.wav", "text": ["a"]}\n', "recording 1: TypeError: text is a list"),
        ("a.jsonl", '{"path": "1.wav", "text": "\\ud800"}\n', "recording 1: UnicodeEncodeError"),
        ("a.jsonl", '{"path": "1\\u0000.wav", "text": "a"}\n', "path has a character of the number 0"),
        ("a.jsonl", '{"path": "1.wav", "text": ' + 100_000 * "[", "recording 1: RecursionError"),
        ("a.csv", "path,text\n1.wav,a\n2.wav,Hello, you\n", "recording 2: ValueError: there is more than the columns"),
        ("a.csv", 'path,text\n1.wav,"a\n2.wav,b\n', "recording 1: unexpected end of data"),
        ("a.csv", "path,text\n1.wav," + 200_000 * "a", "recording 1: field larger than field limit"),
        ("b/x.trans.txt", "1-2-3\n", r"x.trans.txt, line 1: no text behind 1-2-3"),
        ("b/x.txt", "1-2-3 a\n", "has no recordings"),
    ],
)
def test_what_is_no_list_is_refused_by_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        recordings("dataset.train", str(path if path.parent == tmp_path else path.parent))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.jsonl", '{"path": "1.wav", "text": "Hello\u2028you"}\n', "Hello\u2028you"),
        ("a.csv", 'path,text\n1.wav,"Hello\nyou"\n', "Hello\nyou"),
        ("a.jsonl", '{"path": "1.wav", "text": 7}\n', "7"),
        ("b.trans.txt", "1 Hello\u2028you\n", "Hello\u2028you"),
    ],
)
def test_a_text_may_hold_what_looks_like_the_end_of_a_line(tmp_path, name, content, text):
    (tmp_path / name).write_text(content)
    found = recordings("dataset.train", str(tmp_path if name == "b.trans.txt" else tmp_path / name))
    assert [one.text for one in found] == [text]


@pytest.mark.parametrize("source", ["", "~no-such-user/speech", "~no-such-user/a.csv", "a\0b.csv", "a" * 5000])
def test_a_source_that_no_path_can_be_is_refused(source):
    with pytest.raises(UserError, match=r"dataset.train: "):
        recordings("dataset.train", source)


def test_a_name_that_no_file_can_have_is_one_that_is_not_there(tmp_path):
    (tmp_path / "a.trans.txt").write_text("n" * 300 + " hello\n")
    assert [one.text for one in recordings("dataset.train", str(tmp_path))] == ["hello"]


def test_what_is_not_there_is_named(tmp_path):
    for name, message in (("nowhere", "there is no folder"), ("nowhere.csv", "cannot be read")):
        with pytest.raises(UserError, match=f"dataset.train: .*{message}|dataset.train: {message}"):
            recordings("dataset.train", str(tmp_path / name))

"""What is to be seen of a study: tables that fit, JSON and CSV whose fields are documented, and a frame."""

import csv
import io
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import trialfleet
from trialfleet.review import fields, tables, watching
from trialfleet.review.studies import find, load
from trialfleet.sweep.study import command, index
from trialfleet.sweep.study.lease import Lease
from trialfleet.sweep.ui.screen import short_names

from .conftest import Ask

PAGE = Path(__file__).resolve().parents[2] / "docs" / "studies.md"


def test_studies_are_listed_and_those_put_aside_when_asked_for(place: Path, ask: Ask) -> None:
    shutil.copytree(place / "sweeps" / "wide", place / "sweeps" / "wide.before-20261129-120000")
    shutil.copytree(place / "sweeps" / "wide", place / "sweeps" / "group" / "deep")
    code, said = ask("list")
    assert code == 0
    lines = [line.split()[:3] for line in said.splitlines()[1:]]
    # Copies have the name of what they are copies of: their folders tell them apart.
    assert lines == [["group/deep", "finished", "12/12"], ["wide", "finished", "12/12"]]
    assert len(json.loads(ask("list", "--all", "--json")[1])) == 3
    assert ask("--dir", "nowhere", "list")[1].startswith("no studies in")


def test_a_study_is_found_by_name_or_folder_and_the_nearest_is_named(place: Path, ask: Ask) -> None:
    assert find("wide").folder == find(str(place / "sweeps" / "wide")).folder
    code, said = ask("show", "wied")
    assert code == 2
    assert "there is no study 'wied' in" in said
    assert "did you mean 'wide'?" in said
    assert "the studies there: wide" in said
    assert "has no trial 99" in ask("show", "wide", "99")[1]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_table_fits_its_terminal(ask: Ask, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in (["list"], ["trials", "wide"], ["compare", "wide", "wide"]):
        said = ask(*words)[1]
        table = [line for line in said.splitlines() if "more column" not in line]
        assert max(len(line.rstrip()) for line in table) <= columns, said
        assert columns != 40 or "more column" in said
        assert columns != 200 or words[0] == "compare" or "more column" not in said


def test_a_text_of_any_length_has_a_third_of_the_terminal() -> None:
    said = io.StringIO()
    rows = [{"trial": "7", **{f"p{place}": "0.02117" for place in range(20)}, "note": "NonFinite: " + "x" * 80}]
    tables.show(rows, ["trial", *(f"p{place}" for place in range(20))], "note", Console(file=said, width=90))
    line = said.getvalue().splitlines()[1]
    assert len(line.partition("NonFinite")[2].partition("…")[0]) > 15
    assert line.count("0.02117") > 4


def test_the_best_come_first_by_an_objective(place: Path, ask: Ask) -> None:
    study = find("wide")
    values = [row.values[0] for row in study.rows if row.values]
    listed = json.loads(ask("trials", "wide", "--sort", "val/loss", "--json")[1])
    assert [one["objectives"]["val/loss"] for one in listed[: len(values)]] == sorted(values)
    assert [one["objectives"] for one in listed[len(values) :]] == [{}] * (12 - len(values))
    best = json.loads(ask("best", "wide", "--json")[1])
    assert [one["number"] for one in best] == [listed[0]["number"]]
    assert [one["best"] for one in listed] == [True] + [False] * 11
    assert [one["number"] for one in json.loads(ask("best", "wide", "--top", "3", "--json")[1])] == [
        one["number"] for one in listed[:3]
    ]
    failed = json.loads(ask("trials", "wide", "--state", "FAIL", "--json")[1])
    assert {one["error"] for one in failed} == {"ValueError: too large"}
    code, said = ask("trials", "wide", "--sort", "val/los")
    assert (code, "did you mean 'val/loss'?" in said) == (2, True)


def test_the_best_are_printed_with_a_blank_line_between_two_alone(ask: Ask) -> None:
    one, two = ask("best", "wide")[1].splitlines(), ask("best", "wide", "--top", "2")[1].splitlines()
    assert [line for line in one if not line] == []
    assert [index for index, line in enumerate(two) if not line] == [len(one)]
    shown = ask("show", "wide")[1].splitlines()
    assert shown[-len(one) - 1 :] == ["", *one]


def test_trials_are_sorted_by_cells_of_any_kind(place: Path) -> None:
    """A parameter that is a number or a word, and NaN, which is neither less nor more than anything."""
    study = find("wide")
    cells = [2.0, "b", 10, float("nan"), None, True, "a", float("inf")]
    rows = [replace(study.rows[0], number=i, params={} if one is None else {"x": one}) for i, one in enumerate(cells)]
    assert [row.number for row in fields.ordered(study, rows, "x")] == [5, 0, 2, 7, 6, 1, 3, 4]
    assert [row.number for row in fields.ordered(study, rows, "x", reverse=True)] == [1, 6, 7, 2, 0, 5, 3, 4]


def test_an_objective_has_the_best_first_however_it_is_named(place: Path, ask: Ask) -> None:
    record = place / "sweeps" / "wide" / "study.yaml"
    record.write_text(record.read_text().replace("direction: minimize", "direction: maximize"))
    best = [row.number for row in find("wide").ranked()]
    for name in ("val/loss", "objectives.val/loss"):
        found = [one["number"] for one in json.loads(ask("trials", "wide", "--sort", name, "--json")[1])]
        assert found[: len(best)] == best
    least_first = [
        one["number"] for one in json.loads(ask("trials", "wide", "--sort", "val/loss", "--reverse", "--json")[1])
    ]
    assert least_first == best[::-1] + found[len(best) :]


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_so_many_trials_are_one_at_least(ask: Ask, count: str) -> None:
    """A slice would take the last ones away without a word."""
    for words in (["trials", "wide", "--limit", count], ["best", "wide", "--top", count]):
        code, said = ask(*words)
        assert code == 2
        assert words[2] in said


def test_where_no_trial_is_to_be_shown_that_is_said(ask: Ask) -> None:
    assert ask("trials", "wide", "--state", "WAITING") == (0, "study 'wide' has no trial that is WAITING\n")
    assert json.loads(ask("trials", "wide", "--state", "WAITING", "--json")[1]) == []


def test_the_fields_are_those_of_the_page(place: Path, ask: Ask) -> None:
    """What scripts rely on is documented, one line each, and nothing else is there."""
    text = PAGE.read_text()
    of_trial = re.findall(r"^\| `(\w+)` \|", text.partition("### A trial")[2].partition("\n## ")[0], re.MULTILINE)
    of_study = re.findall(r"^\| `(\w+)` \|", text.partition("### A study")[2].partition("### A trial")[0], re.MULTILINE)
    assert list(json.loads(ask("trials", "wide", "--json")[1])[0]) == of_trial == list(fields.OF_TRIAL)
    assert list(json.loads(ask("show", "wide", "--json")[1])) == of_study


def test_csv_and_frame_have_a_column_for_each_entry(place: Path, ask: Ask) -> None:
    rows = list(csv.DictReader(io.StringIO(ask("trials", "wide", "--csv")[1])))
    table = trialfleet.study("wide").trials()
    assert [*table.reset_index().columns] == list(rows[0])
    assert len(table) == len(rows) == 12
    assert table["params.model.dropout"].tolist() == [float(row["params.model.dropout"]) for row in rows]
    assert str(table["ended"].dt.tz) == "UTC"
    assert table["objectives.val/loss"].isna().sum() == sum(row["objectives.val/loss"] == "" for row in rows)
    assert trialfleet.study("wide", place / "sweeps").best()[0]["number"] == table["objectives.val/loss"].idxmin()


def test_the_index_is_made_where_it_is_missing_and_nobody_drives(place: Path) -> None:
    folder = place / "sweeps" / "wide"
    lease = Lease(folder / "driver.lock", 60.0, 2.0)
    lease.acquire()
    study = load(folder)
    assert (study.state, len(study.rows)) == ("running", 12)
    assert not (folder / index.NAME).exists()  # it is the driver's to write
    lease.release()
    study = load(folder)
    assert (study.state, study.rows) == ("finished", load(folder).rows)
    assert (folder / index.NAME).exists()


def test_a_bound_keeps_a_trial_from_being_best(place: Path) -> None:
    folder = place / "sweeps" / "wide"
    told = command.read(folder)
    assert told is not None
    command.write(folder, replace(told, constraints={"train/loss": "<= 0.5"}))
    study = load(folder)
    assert 0 < len(study.ranked()) < study.counts["COMPLETE"]
    assert all(row.metrics["train/loss"] <= 0.5 for row in study.front)


def test_what_differs_between_studies_is_shown(place: Path, ask: Ask) -> None:
    other = shutil.copytree(place / "sweeps" / "wide", place / "sweeps" / "other")
    record = other / "study.yaml"
    record.write_text(record.read_text().replace("name: wide", "name: other") + "")
    record.write_text(record.read_text().replace("identity:\n", "identity:\n  seed: 7\n"))
    found = json.loads(ask("compare", "wide", "other", "--json")[1])
    assert found["studies"] == ["wide", "other"]
    assert found["differing"] == {"seed": [None, 7]}
    assert found["outcomes"]["best"][0] == found["outcomes"]["best"][1]
    assert "(not there)" in ask("compare", "wide", "other")[1]
    assert json.loads(ask("compare", "wide", "wide", "--json")[1])["studies"] == ["wide (1)", "wide (2)"]


def test_names_are_cut_to_what_tells_them_apart() -> None:
    names = ["optimizer.learning_rate", "adapter.learning_rate", "+seed", "model.size"]
    assert list(short_names(names).values()) == [
        "optimizer.learning_rate",
        "adapter.learning_rate",
        "seed",
        "size",
    ]


def test_watch_that_is_interrupted_is_told_from_one_that_saw_the_end(
    place: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(place / "sweeps" / "wide" / "driver.lock", 60.0, 2.0)
    lease.acquire()

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.watch, "__defaults__", (interrupted,))
    assert ask("watch", "wide")[0] == 130
    lease.release()
    assert ask("watch", "wide")[0] == 0


def test_watch_ends_with_the_driver_and_tells_how_to_go_on(place: Path, ask: Ask) -> None:
    code, said = ask("watch", "wide")
    assert code == 0
    assert said.startswith("wide  12/12 done")
    assert "best val/loss=" in said


def test_a_copy_is_told_apart_and_what_is_said_to_be_done_with_it_is_done_with_it(place: Path, ask: Ask) -> None:
    """Its record has the name of the study that it was copied from."""
    shutil.copytree(place / "sweeps" / "wide", place / "sweeps" / "it's a copy")
    said = ask("watch", "it's a copy")[1]
    quoted = shlex.quote("it's a copy")
    assert f"export:  trialfleet study export {quoted}\n" in said
    assert f"report:  trialfleet report {quoted}\n" in said
    assert json.loads(ask("compare", "wide", "it's a copy", "--json")[1])["studies"] == ["wide", "it's a copy"]
    elsewhere = place / "elsewhere"
    (place / "sweeps").rename(elsewhere)
    assert f"trialfleet study export {elsewhere / 'wide'}\n" in ask("--dir", "elsewhere", "watch", "wide")[1]

"""Checkpoints are whole or absent, and those that are kept are those that were asked for."""

import logging
import shutil
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.harness import RecordingRun, after
from trialfleet.config.schema import Checkpoints as Keep
from trialfleet.errors import UserError
from trialfleet.training import distributed, evaluate, integrity, train
from trialfleet.training.checkpoints import CheckpointManager, retained
from trialfleet.trial.run import Preempted, Stop

pytestmark = pytest.mark.xdist_group("toy")  # one worker: the toy's programs are compiled once

KEEP = {"every_steps": None, "every_seconds": None, "keep_last": 1, "keep_best": 0, "keep_every": None, "at_end": True}
KEEP["verify"] = True


def saved_steps(run) -> list[int]:
    return sorted(int(path.parent.name) for path in run.checkpoints.glob("*/manifest.json"))


@pytest.mark.slow
def test_last_best_and_every_nth_are_kept(toy, new_run):
    run = new_run()
    every = ["training.checkpoints.every_steps=2", "training.checkpoints.keep_every=6"]
    outcome = train(toy(*every, "training.checkpoints.keep_last=2", "training.checkpoints.keep_best=1"), run)
    assert saved_steps(run) == sorted({6, 12, 14, 16, outcome.step})


def test_one_a_second_would_be_too_many_but_a_clock_can_ask_for_saves(toy, new_run):
    run = new_run()
    clock = ["training.checkpoints.every_seconds=1e-6", "training.checkpoints.keep_last=100"]
    train(toy(*clock), run)
    saved = saved_steps(run)
    assert {1, 16} <= set(saved)
    assert saved == sorted(saved)  # not each step: none is saved while the one before is still being written


@pytest.mark.parametrize("name", ["optimizer.betas=[0.9,0.95]", "what?*"])
def test_a_folder_may_have_any_name(toy, tmp_path, name):
    whole, first = (RecordingRun(tmp_path / name / part) for part in ("whole", "first"))
    uncut = train(toy(), whole)
    train(toy("training.max_steps=8"), first)
    second = RecordingRun(tmp_path / name / "second", earlier=[first.checkpoints])
    assert train(toy(), second) == uncut
    assert second.notes["resumed_from"] == 8
    assert evaluate(toy(), RecordingRun(tmp_path / name / "judged"), second.notes["checkpoints"]["last"])


def test_a_training_goes_on_from_a_checkpoint_of_any_name(toy, tmp_path):
    """A copy that somebody named; one whose meta.json is another program's is refused."""
    first = RecordingRun(tmp_path / "first")
    train(toy("training.max_steps=8"), first)
    copy = tmp_path / "the best"
    shutil.copytree(first.checkpoints / "00000008", copy)
    second = RecordingRun(tmp_path / "second")
    train(toy(f"training.resume='{copy}'"), second)
    assert second.notes["resumed_from"] == 8
    integrity.commit(copy, {"step": 8})
    with pytest.raises(UserError, match=r"training.resume: .*meta.json has no batch, fingerprint, frozen, signature"):
        train(toy(f"training.resume='{copy}'"), RecordingRun(tmp_path / "third"))


@pytest.mark.parametrize("harm", ["truncated", "changed", "no manifest", "empty manifest", "lost file"])
def test_a_damaged_checkpoint_is_passed_over(toy, new_run, caplog, harm):
    first, second = new_run(), new_run()
    config = toy("training.checkpoints.every_steps=8", "training.checkpoints.keep_last=2")
    train(config, first)
    folder = first.checkpoints / "00000016"
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    match harm:
        case "truncated":
            largest.write_bytes(content[:-1])
        case "changed":
            largest.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "no manifest":
            (folder / "manifest.json").unlink()
        case "empty manifest":
            (folder / "manifest.json").write_text("")
        case "lost file":
            largest.unlink()
    second.earlier_checkpoints = [first.checkpoints]
    with caplog.at_level(logging.WARNING):
        train(config, second)
    assert second.notes["resumed_from"] == 8
    assert "00000016 is passed over" in caplog.text
    assert second.untimed() == [line for line in first.untimed() if line[0] > 8]


def test_a_save_that_fails_leaves_the_one_before(toy, new_run, caplog, monkeypatch):
    run, commit, calls = new_run(), integrity.commit, []

    def full_disk(folder, meta):
        calls.append(folder)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return commit(folder, meta)

    monkeypatch.setattr(integrity, "commit", full_disk)
    outcome = train(toy("training.checkpoints.every_steps=8", "training.checkpoints.at_end=false"), run)
    assert outcome.steps == 16
    assert saved_steps(run) == [8]
    assert "step 16 could not be saved, older ones stay" in caplog.text


EQUAL = (  # all evaluations have the same score: nothing is learned
    *("optimizer.learning_rate=0", "training.evaluate_test=true"),
    *("training.checkpoints.keep_best=1", "training.checkpoints.every_steps=2"),
)


def test_of_equal_scores_the_first_is_kept_and_judged_however_often_a_training_was_cut(toy, new_run, monkeypatch):
    judged = list[int]()
    at = CheckpointManager.at
    monkeypatch.setattr(CheckpointManager, "at", lambda self, step: judged.append(step) or at(self, step))
    whole, cut = new_run(), new_run()
    outcome = train(toy(*EQUAL), whole)
    assert (outcome.step, saved_steps(whole)) == (4, [4, 16])
    for calls in (7, 5):
        with pytest.raises(Preempted):
            train(toy(*EQUAL), RecordingRun(cut.directory, stop=after(calls, Stop.PREEMPT)))
    last = RecordingRun(cut.directory)
    assert train(toy(*EQUAL), last) == outcome
    assert last.notes["resumed_from"] > 4
    assert saved_steps(cut) == [4, 16]  # what was superseded is gone, whichever process had saved it
    assert last.notes["checkpoints"] == {
        "best": str(cut.checkpoints / "00000004"),
        "last": str(cut.checkpoints / "00000016"),
    }
    assert last.reported("test/error") == whole.reported("test/error")
    assert judged == [4, 4]


def test_with_none_kept_as_the_best_the_last_state_is_judged_whatever_lies_there(toy, new_run, monkeypatch):
    monkeypatch.setattr(CheckpointManager, "at", lambda self, step: pytest.fail("a checkpoint was looked for"))
    run = new_run()
    words = ("optimizer.learning_rate=3", "scheduler=constant", "training.evaluate_test=true")
    outcome = train(toy(*words, "training.checkpoints.keep_last=9", "training.checkpoints.every_steps=4"), run)
    assert outcome.step < 16
    assert run.reported("test/error").keys() == {16}


def test_where_the_test_split_alone_is_the_objective_the_last_state_is_the_best(toy, new_run):
    run = new_run()
    words = ("training.evaluate_test=true", "objective.metric=test/error", "training.checkpoints.keep_best=1")
    outcome = train(toy(*words, "training.checkpoints.keep_last=9", "training.checkpoints.every_steps=4"), run)
    assert outcome.step == 16
    assert outcome.metrics == {"test/error": run.reported("test/error")[16]}
    assert run.notes["checkpoints"] == {"last": str(run.checkpoints / "00000016")}


def test_another_training_in_its_folder_takes_nothing_of_it_for_its_own(toy, new_run):
    first = new_run()
    train(toy("training.checkpoints.every_steps=8"), first)
    again = RecordingRun(first.directory)
    anew = ("training.resume=never", "training.max_steps=8", "training.checkpoints.at_end=false")
    train(toy(*anew, "training.checkpoints.every_steps=6"), again)
    assert saved_steps(first) == [6, 16]


def test_checkpoints_of_earlier_runs_are_never_touched(toy, new_run):
    first, second = new_run(), new_run()
    train(toy("training.max_steps=8"), first)
    before = {path: path.read_bytes() for path in first.checkpoints.rglob("*") if path.is_file()}
    second.earlier_checkpoints = [first.checkpoints]
    train(toy(), second)
    assert {path: path.read_bytes() for path in first.checkpoints.rglob("*") if path.is_file()} == before


def as_process(monkeypatch, index, count):
    monkeypatch.setattr(distributed, "place", lambda: (index, count))
    monkeypatch.setattr(distributed, "agreed_json", lambda value: True)
    monkeypatch.setattr(distributed, "all_json", lambda value: [value])


def of_two(folder, monkeypatch):
    """A checkpoint that two processes wrote, a file each and one in common."""
    for name in ("state/ocdbt.process_0/a", "state/ocdbt.process_1/b", "state/manifest.ocdbt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    as_process(monkeypatch, 1, 2)
    assert not integrity.commit(folder, {})
    as_process(monkeypatch, 0, 2)
    assert integrity.commit(folder, {"step": 3})


def test_each_process_notes_its_own_files_and_checks_its_part(tmp_path, monkeypatch):
    read, digest = [], integrity._digest
    monkeypatch.setattr(integrity, "_digest", lambda path: [read.append(path.name), digest(path)][1])
    of_two(tmp_path, monkeypatch)
    assert read == ["b", "meta.json", "manifest.ocdbt", "a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "meta.json", "state"]
    read.clear()
    for index in (0, 1):
        as_process(monkeypatch, index, 2)
        assert integrity.damage(tmp_path) is None
    assert sorted(read) == ["a", "b", "manifest.ocdbt", "meta.json"]
    (tmp_path / "state/ocdbt.process_1/b").write_text("ocdbt.process_1/B, state"[:23])
    said = []
    for index in (0, 1):
        as_process(monkeypatch, index, 2)
        said.append(integrity.damage(tmp_path))
        assert integrity.damage(tmp_path, verify=False) is None
    assert sorted(map(bool, said)) == [False, True]


def test_a_folder_that_a_process_sees_late_is_waited_for(tmp_path, monkeypatch):
    of_two(tmp_path / "elsewhere", monkeypatch)
    as_process(monkeypatch, 1, 2)
    appear = threading.Timer(0.3, lambda: (tmp_path / "elsewhere").rename(tmp_path / "00000003"))
    appear.start()
    assert integrity.damage(tmp_path / "00000003") is None
    appear.join()


def test_a_process_that_gave_up_is_not_waited_for(tmp_path, monkeypatch):
    of_two(tmp_path / "00000003", monkeypatch)
    monkeypatch.setattr(integrity, "SLOW", 30.0)
    (tmp_path / "00000003" / "manifest.json").unlink()
    away = threading.Timer(0.3, lambda: shutil.rmtree(tmp_path / "00000003"))
    away.start()
    with pytest.raises(OSError, match="taken away"):
        integrity.commit(tmp_path / "00000003", {})
    away.join()


def test_what_is_no_checkpoint_is_none(tmp_path):
    (tmp_path / "00000003").mkdir()
    (tmp_path / "notes").mkdir()
    assert list(CheckpointManager(tmp_path, [tmp_path / "missing"], Keep(**KEEP)).newest()) == []
    assert integrity.damage(tmp_path / "00000003") == "it has no manifest.json"
    assert integrity.damage(tmp_path / "00000004") == "there is no such folder"


@given(
    st.dictionaries(st.integers(0, 100), st.none() | st.floats(allow_nan=False), max_size=20),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_the_newest_and_the_best_always_stay(scores, last, best):
    kept = retained(scores, Keep(**{**KEEP, "keep_last": last, "keep_best": best}))
    assert set(sorted(scores)[-last:]) <= kept <= set(scores)
    assert len(kept) <= last + best
    scored = {step: score for step, score in scores.items() if score is not None}
    if scored and best:
        assert min(scored, key=lambda step: (scored[step], step)) in kept

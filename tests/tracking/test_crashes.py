"""Whatever dies and whenever: in the end each (trial, metric, step) is in MLflow once, and each trial has one run.

A small study is exported again and again. In each life one write, to MLflow or to the delivery log, is the last:
the process dies before it, after it, or in the middle of it; or the answer is lost and the process goes on.
"""

import os
import random
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.folders import Folder
from trialfleet.tracking.delivery_log import DeliveryLog
from trialfleet.tracking.destination import Destination
from trialfleet.tracking.mlflow_runs import Away, Runs
from trialfleet.tracking.study_export import ExportedStudy, StudyExport, StudyStatus
from trialfleet.tracking.trial_snapshot import DatasetUsed, read_trial
from trialfleet.trial.metrics import CURVES, SYSTEM, Writer

WAYS = ["before", "after", "half", "no answer", "lost answer"]
WRITES = {"create", "log", "set_params", "set_tags", "remove_tag", "rename", "reopen", "end", "upload", "log_datasets"}


class Died(BaseException):
    """Stands for the death of the process."""


class Fate:
    """Strikes at write number `at`, in one of the ways, once."""

    def __init__(self, way: str = "", at: int = 0) -> None:
        self.way, self.at, self.count = way, at, 0

    @property
    def struck(self) -> bool:
        return self.count >= self.at

    def meet(self, write: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        self.count += 1
        if self.count != self.at:
            return write()
        if self.way == "half" and half is not None:
            half()
        if self.way in ("after", "lost answer"):
            write()
        raise Away("no answer") if "answer" in self.way else Died


class FatefulRuns(Runs):
    def __init__(self, target: Destination, fate: Fate) -> None:
        super().__init__(target)
        for name in WRITES:
            setattr(self, name, self._fateful(getattr(self, name), fate))

    @staticmethod
    def _fateful(method: Callable[..., Any], fate: Fate) -> Callable[..., Any]:
        return lambda *args, **named: fate.meet(lambda: method(*args, **named))


class FatefulLog(DeliveryLog):
    fate = Fate()

    def _write(self, data: bytes) -> None:
        if "answer" in self.fate.way:  # a matter of the server
            return super()._write(data)
        half = data[: len(data) // 2]
        return self.fate.meet(lambda: DeliveryLog._write(self, data), lambda: os.write(self._descriptor, half))


class World:
    """A study of three trials as driver and jobs write it, in four acts; files appear whoever exports them."""

    def __init__(self, folder: Path, uid: str) -> None:
        self.folder = folder
        self.uid = uid
        folder.mkdir()
        self.written = 0

    def write(self, act: int) -> None:
        if act < self.written:
            return
        self.written = act + 1
        self._progress(act)
        first, second, third = (Folder(self.folder, number) for number in range(3))
        if act == 0:
            first.submit({"lr": 0.1 * 2})
            second.submit({"lr": 0.1 * 3})
            self._report(first, "1.0", [1, 2, 3], 0.0)
            self._report(second, "1.0", [1], 1.0)
        if act == 1:  # trial 0 lost its machine after step 3 and goes on from step 1, not quite as before
            first.submit({"lr": 0.1 * 2}, attempt=2)
            self._report(first, "2.0", [2, 3, 4], 0.5)
            self._report(second, "1.0", [2, 3], 1.0)
            second.end(1.3, run="1.0", at=1e9 + 51, notes={"datasets": [dict(zip(DATA._fields, DATA, strict=True))]})
        if act == 2:
            third.submit({"lr": 0.5})
            self._report(third, "1.0", [1, 2], 2.0)
            first.end(0.9, run="2.0", at=1e9 + 50)
        if act == 3:
            third.end(state="FAIL", error="ValueError: no", run="1.0", at=1e9 + 52)

    def _progress(self, act: int) -> None:
        """The study's own curves: they grow as trials end."""
        if act > 0:
            writer = Writer(self.folder / CURVES)
            writer.append(act, {"study/done": act, "study/best": 1 / act})
            writer.close()

    def _report(self, trial: Folder, label: str, steps: list[int], shift: float) -> None:
        reports = [
            (step, {"train/loss": 1 / step, "val/wer": shift + step / 10, "nan": float("nan")}) for step in steps
        ]
        run = trial.run(*reports, label=label, at=1e9 + trial.number)
        if trial.number == 0:
            writer = Writer(run / SYSTEM)
            for step in SAMPLES[label]:
                writer.append(step, {"system/cpu_utilization_percentage": float(step)})
            writer.close()
        (run / ".hydra").mkdir(exist_ok=True)
        (run / ".hydra" / "config.yaml").write_text(f"seed: {trial.number}\n")

    def tell(self, export: StudyExport, act: int) -> None:
        if act == 0:
            export.changed(0)
            export.changed(1)
        if act == 1:
            export.changed(0, retried="its machine was lost")
            export.changed(1, ended=True)
            export.set_status(StudyStatus(best=[1]))
        if act == 2:
            export.changed(2)
            export.changed(0, ended=True)
            export.set_status(StudyStatus(best=[0]))
        if act == 3:
            export.changed(2, ended=True)
            export.set_status(StudyStatus([0], None, "COMPLETE", 1e9 + 99))


def live(world: World, target: Destination, fate: Fate, acts: int = 4) -> bool:
    """One life of a driver: it says all that it knows, act by act. Returns whether it lived to the end."""
    FatefulLog.fate = fate
    delivered = None
    try:
        delivered = FatefulLog(world.folder / "delivery.jsonl")
        tags, params = {"trialfleet.code": "c0de"}, {"n_trials": "3"}
        study = ExportedStudy("digits", world.uid, {"val/wer": "minimize"}, tags, params)
        read = partial(read_trial, world.folder, ["val/wer"])
        curves = world.folder / CURVES
        export = StudyExport(delivered, study, read, lambda: FatefulRuns(target, fate), curves=curves)
        for act in range(acts):
            world.write(act)
            world.tell(export, act)
            for _ in range(20):
                try:
                    export.hurry()
                    if export.round():
                        break
                except Away:
                    continue
            else:
                raise AssertionError(f"act {act} is never exported: {export.waiting} {export.problems}")
    except Died:
        return False
    finally:
        if delivered is not None:
            delivered.close()
    return True


DATA = DatasetUsed("digits", "d1", "a/place")
SAMPLES = {"1.0": [0, 1], "2.0": [2, 3]}  # steps of what the first trial's runs used of their machine
EXPECTED_STEPS = {0: [1, 2, 3, 4], 1: [1, 2, 3], 2: [1, 2]}


def expected_rows() -> list[tuple]:
    rows: list[tuple] = [("0", "objective", 0, 0.9, 0), ("1", "objective", 0, 1.3, 0)]
    rows += [("0", "system/cpu_utilization_percentage", step, float(step), 0) for step in range(4)]
    for trial, steps in EXPECTED_STEPS.items():
        for step in steps:
            wer = (0.5 if (trial, step) == (0, 4) else float(trial)) + step / 10
            rows += [(str(trial), "train/loss", step, 1 / step, 0), (str(trial), "val/wer", step, wer, 0)]
            rows += [(str(trial), "nan", step, 0.0, 1)]
    return sorted(rows)


def check(database: Path, uid: str) -> None:
    """The study with this uid is in MLflow exactly as it should be."""
    connection = sqlite3.connect(database)
    mine = "run_uuid IN (SELECT run_uuid FROM tags JOIN runs USING (run_uuid) WHERE lifecycle_stage = 'active'"
    mine += " AND key = 'trialfleet.study_uid' AND value = ?)"

    def ask(columns: str, rest: str) -> list[tuple]:
        return connection.execute(f"SELECT {columns} FROM {rest.format(mine=mine)}", (uid,)).fetchall()

    metrics = "metrics m JOIN tags t USING (run_uuid) WHERE t.key = 'trialfleet.trial' AND {mine} ORDER BY 1, 2, 3"
    assert ask("t.value, m.key, m.step, m.value, m.is_nan", metrics) == expected_rows()
    own = "metrics m JOIN tags t USING (run_uuid) WHERE t.key = 'trialfleet.kind' AND t.value = 'study' AND {mine}"
    progress = [
        (name, act, value) for act in (1, 2, 3) for name, value in (("study/best", 1 / act), ("study/done", act))
    ]
    assert sorted(ask("m.key, m.step, m.value", own)) == sorted(progress)
    inputs = (
        "inputs i JOIN datasets d ON i.source_id = d.dataset_uuid JOIN runs ON i.destination_id = run_uuid WHERE {mine}"
    )
    assert ask("d.name, d.digest, json_extract(d.dataset_source, '$.uri')", inputs) == [tuple(DATA)]
    runs = ask("name, status, start_time, end_time, run_uuid", "runs WHERE {mine} ORDER BY name")
    assert [run[:2] + run[3:4] for run in runs] == [
        ("digits", "FINISHED", 1_000_000_099_000),
        ("trial 00000 ★ best", "FINISHED", 1_000_000_050_000),
        ("trial 00001", "FINISHED", 1_000_000_051_000),
        ("trial 00002", "FAILED", 1_000_000_052_000),
    ]
    params = ask("key, value", "params WHERE {mine} ORDER BY value")
    assert params == [("lr", "0.2"), ("lr", "0.3"), ("lr", "0.5"), ("n_trials", "3")]
    tags = ask("key, value, count(*)", "tags WHERE {mine} GROUP BY key, value")
    count = {(key, value): n for key, value, n in tags}
    assert count["trialfleet.best", "true"] == 1
    assert count["trialfleet.attempt", "2"] == 1
    assert count["trialfleet.error", "ValueError: no"] == 1
    conflict = "val/wer at step 2 was 0.2, and 0.7 when trained again (run 2.0); the first value stands"
    assert count["trialfleet.conflict", conflict] == 1
    assert count["trialfleet.state", "COMPLETE"] == 3
    assert count["mlflow.parentRunId", runs[0][4]] == 3
    for run in runs[1:]:
        assert (database.parent / "mlartifacts" / "trialfleet" / run[4] / "artifacts" / "config.yaml").exists()
    connection.close()


def suffer(way: str, at: int, target: Destination, folder: Path) -> bool:
    """A study with one blow of fate, then as many lives as it needs. Returns whether the blow fell."""
    fate = Fate(way, at)
    world = World(folder, f"uid-{way.replace(' ', '-')}-{at}")
    if not live(world, target, fate):
        assert live(world, target, Fate())
    assert target.database is not None
    check(target.database, world.uid)
    return fate.struck


def suffer_deletion(names: tuple[str, ...], way: str, at: int, target: Destination, folder: Path) -> bool:
    """A person deletes runs of a study, then comes the blow of fate. Returns whether it fell."""
    world = World(folder, f"uid-deleted-{len(names)}-{way.replace(' ', '-')}-{at}")
    assert live(world, target, Fate(), acts=3)
    assert target.database is not None
    connection = sqlite3.connect(target.database)
    query = "SELECT run_uuid FROM runs JOIN tags USING (run_uuid) WHERE key = 'trialfleet.study_uid' AND value = ?"
    found = [connection.execute(f"{query} AND name = ?", (world.uid, name)).fetchall() for name in names]
    connection.close()
    runs = Runs(target)
    for ((run_id,),) in found:
        runs.delete(run_id)
    fate = Fate(way, at)
    if not live(world, target, fate):
        assert live(world, target, Fate())
    check(target.database, world.uid)
    return fate.struck


DELETED = [("digits",), ("digits", "trial 00001"), ("digits", "trial 00001", "trial 00002")]


@pytest.mark.slow
@pytest.mark.parametrize("names", DELETED)
def test_any_write_after_a_deletion_can_be_the_last(
    names: tuple[str, ...], target: Destination, tmp_path: Path
) -> None:
    """Every 34th write; benchmarks/proofs takes them all."""
    for at in range(1 + 5 * DELETED.index(names), 1000, 34):
        if not suffer_deletion(names, WAYS[at % len(WAYS)], at, target, tmp_path / str(at)):
            assert at > 10
            return


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_any_write_can_be_the_last(way: str, target: Destination, tmp_path: Path) -> None:
    """Every 29th write; benchmarks/proofs takes them all."""
    for at in range(1 + 6 * WAYS.index(way), 1000, 29):
        if not suffer(way, at, target, tmp_path / str(at)):
            assert at > 30  # there was a lot to survive
            return


def suffer_twice(case: int, choice: random.Random, target: Destination, folder: Path) -> None:
    """Up to three lives of a study that end where chance wants it, and one more."""
    world = World(folder, f"uid-twice-{case}")
    for _ in range(3):
        live(world, target, Fate(choice.choice(WAYS), choice.randint(1, 60)))
    assert live(world, target, Fate())
    assert target.database is not None
    check(target.database, world.uid)


@pytest.mark.slow
def test_any_writes_can_be_the_last_of_their_lives(target: Destination, tmp_path: Path) -> None:
    choice = random.Random(0)
    for case in range(3):
        suffer_twice(case, choice, target, tmp_path / str(case))

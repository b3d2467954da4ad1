"""Studies under faults of every class, and a checker that must see what is wrong with a study."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.faults import checker, plan, survivors
from benchmarks.faults.case import Case
from benchmarks.faults.host import Host
from benchmarks.faults.series import CLASSES
from benchmarks.faults.study import STEPS, Study
from jobs.cluster.processes import wait_until
from tests.tasks.studies import PROJECT
from trialfleet.tracking import database_schema

# One worker: the study that is judged, and spoilt, is run once.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("checker")]


def survive(*series: str, faults: int, seed: int) -> None:
    """Run the benchmark, which judges itself."""
    command = [sys.executable, "-m", "benchmarks.faults", *series, "--faults", str(faults), "--seed", str(seed)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    met, recovered = done.stdout.splitlines()[-1].split(" | ")[2:4]
    assert met == recovered
    assert int(met) >= faults


def test_nothing_is_lost_doubled_left_running_or_wrong() -> None:
    """One study that meets faults of all kinds; benchmarks/proofs has more."""
    survive("--on", "local", "--only", "mixed", faults=5, seed=2)


@pytest.mark.parametrize("able", [frozenset(), frozenset({"slurm", "postgres", "tmpfs"})])
def test_a_seed_fixes_what_is_done_to_which_study(able: frozenset[str]) -> None:
    first, again, other = (plan.planned(300, seed, CLASSES, None, able) for seed in (1, 1, 2))
    assert first == again != other
    assert sum(series.faults for series in first) >= 300
    missing = set() if "slurm" in able else {"slurm", "answers"}
    assert {series.kind for series in first} == set(CLASSES) - missing


# -------------------------------------------------------------------- the checker


def test_the_checker_has_nothing_of_the_product() -> None:
    code = (
        "import benchmarks.faults.checker, sys; print([name for name in sys.modules if name.startswith('trialfleet')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture(scope="module")
def finished() -> Iterator[Case]:
    """A study that nothing happened to."""
    with tempfile.TemporaryDirectory(prefix="faults-") as root, Host() as host:
        database_schema.ensure(Path(root) / "mlflow.db")
        study, began = Study(Path(root), "calm", host, random.Random(1)), time.monotonic()
        study.provide_tables()
        study.finish()
        yield Case(
            place=study.place,
            folder=study.folder,
            name=study.name,
            storage=None,
            tracking=study.tracking,
            side=study.side,
            said=study.said(),
            n_trials=study.n_trials,
            steps=STEPS,
            misdeeds=(),
            forgives=frozenset(),
            environment=None,
            seconds=time.monotonic() - began,
            began_anew=False,
        )


@pytest.fixture
def case(finished: Case, tmp_path: Path) -> Case:
    """A copy of it, to spoil."""
    place, side = tmp_path / "place", tmp_path / "side.jsonl"
    shutil.copytree(finished.place, place)
    shutil.copyfile(finished.side, side)
    return replace(finished, place=place, folder=place / "sweeps" / "calm", tracking=place / "mlflow.db", side=side)


def test_the_checker_finds_nothing_wrong_with_a_study_that_nothing_happened_to(case: Case) -> None:
    assert checker.judge(case) == []


def _change_record(name: str, **changes: object) -> Callable[[Case], None]:
    def spoil(case: Case) -> None:
        path = case.folder / "trials" / "00001" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def _sql(statement: str) -> Callable[[Case], None]:
    def spoil(case: Case) -> None:
        with closing(sqlite3.connect(case.tracking)) as database, database:
            assert database.execute(statement).rowcount > 0

    return spoil


def _one_more_trial(case: Case) -> None:
    backend = JournalFileBackend(str(case.folder / "optuna_journal.log"))
    study = optuna.load_study(study_name=case.name, storage=JournalStorage(backend))
    first = study.get_trials()[0]
    study.add_trial(optuna.create_trial(params=first.params, distributions=first.distributions, values=first.values))


def _one_without_an_end(case: Case) -> None:
    backend = JournalFileBackend(str(case.folder / "optuna_journal.log"))
    optuna.load_study(study_name=case.name, storage=JournalStorage(backend)).ask()


def _without_a_step(case: Case) -> None:
    lines = case.side.read_text().splitlines(keepends=True)
    point = json.loads(lines[0])
    wanted = [line for line in lines if (one := json.loads(line))["x"] != point["x"] or one["step"] != 3]
    case.side.write_text("".join(wanted))


def _with_work_for_nobody(case: Case) -> None:
    with open(case.side, "a") as side:
        side.write(f"{json.dumps({'x': 0.5, 'y': 0.5, 'step': 1, 'pid': 1, 'job': ''})}\n")


A_TRIAL = "SELECT run_uuid FROM tags WHERE key = 'trialfleet.trial' AND value = '1'"
A_STUDY = "SELECT run_uuid FROM tags WHERE key = 'trialfleet.kind' AND value = 'study'"
WRONGS: dict[str, tuple[Callable[[Case], None], str]] = {
    "another objective in result.json": (_change_record("result.json", objectives=[1.0]), "wrong"),
    "another study's result": (_change_record("result.json", study="0"), "wrong"),
    "the result of other parameters": (_change_record("result.json", params="0"), "wrong"),
    "other parameters in trial.json": (_change_record("trial.json", params={"x": 1.0, "y": 1.0}), "wrong"),
    "a failure": (_change_record("result.json", state="FAIL"), "wrong"),
    "no trial.json": (lambda case: (case.folder / "trials/00001/trial.json").unlink(), "lost"),
    "a folder without a trial": (lambda case: _new_file(case.folder / "trials/00007/trial.json"), "lost"),
    "a trial told twice": (_one_more_trial, "doubled"),
    "a trial that has no end": (_one_without_an_end, "left running"),
    "a step that nobody did": (_without_a_step, "wrong"),
    "work for nobody": (_with_work_for_nobody, "lost"),
    "a metric that MLflow lacks": (_sql(f"DELETE FROM metrics WHERE step = 2 AND run_uuid IN ({A_TRIAL})"), "lost"),
    "a metric twice": (
        _sql(
            f"INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics "
            f"WHERE key = 'loss' AND step = 2 AND run_uuid IN ({A_TRIAL})"
        ),
        "doubled",
    ),
    "another metric": (_sql(f"UPDATE metrics SET value = 1 WHERE key = 'loss' AND run_uuid IN ({A_TRIAL})"), "wrong"),
    "no run of a trial": (_sql(f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid IN ({A_TRIAL})"), "lost"),
    "no run of the study": (_sql(f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid IN ({A_STUDY})"), "lost"),
    "a run that never ends": (
        _sql(f"UPDATE runs SET status = 'RUNNING' WHERE run_uuid IN ({A_TRIAL})"),
        "left running",
    ),
    "a run that ends before it starts": (_sql(f"UPDATE runs SET end_time = 0 WHERE run_uuid IN ({A_TRIAL})"), "wrong"),
}


def _new_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{}")


@pytest.mark.parametrize("what", WRONGS)
def test_the_checker_sees(what: str, case: Case) -> None:
    spoil, kind = WRONGS[what]
    spoil(case)
    assert kind in {problem.kind for problem in checker.judge(case)}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"n_trials": 4}, "lost"),
        ({"seconds": 0.1}, "wrong"),
        ({"said": "$ command\nTraceback (most recent call last):\n"}, "wrong"),
    ],
    ids=["a trial too few", "more time booked than there was", "a traceback"],
)
def test_the_checker_sees_what_does_not_fit_the_command(changes: dict[str, object], kind: str, case: Case) -> None:
    assert kind in {problem.kind for problem in checker.judge(replace(case, **changes))}  # type: ignore[arg-type]


def test_the_checker_sees_a_process_that_lives_on(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survivors, "GONE_WITHIN", 0.0)
    environment = {**os.environ, "SUBMITIT_FOLDER": f"{case.place}/sweeps"}
    with subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True) as left:
        try:
            assert wait_until(
                lambda: b"SUBMITIT" in Path(f"/proc/{left.pid}/environ").read_bytes(), 30
            )  # its exec is over
            assert [problem.kind for problem in checker.judge(case)] == ["left running"]
        finally:
            left.kill()

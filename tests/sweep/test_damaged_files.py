"""Damaged files are named, set aside, and in nobody's way: the other trials go on, and what can be known is."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sweep.test_storage_and_folder import TWO, check
from tests.tasks.descent import undisturbed
from tests.tasks.forked import QuickStudy
from trialfleet.errors import UserError
from trialfleet.sweep.study import study_record
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.identity import Identity
from trialfleet.trial.sweep_run import SweepRun

NewQuickStudy = Callable[..., QuickStudy]

DAMAGE = {
    "empty": b"",
    "half": None,
    "zeros": b"\0" * 40,
    "binary": bytes(range(256)),
    "other JSON": b"[3]\n",
    "not its shape": b"{}\n",
}


def damage(path: Path, kind: str) -> None:
    content = DAMAGE[kind]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)


def set_aside(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}.damaged-*"))


ALL_AT_ONCE = (f"hydra.sweeper.n_trials={len(DAMAGE)}", f"hydra.sweeper.n_jobs={len(DAMAGE)}")


def result_of(study: QuickStudy, number: int) -> float:
    result = study.trial(number).result()
    assert result is not None
    assert result.objectives is not None
    return result.objectives[0]


def check_values(study: QuickStudy, count: int) -> None:
    """All complete, with the values in their files."""
    stored = study.stored()
    assert [trial.state.name for trial in stored] == ["COMPLETE"] * count, study.report()
    assert [trial.value for trial in stored] == [result_of(study, number) for number in range(count)]


@pytest.mark.parametrize("name", ["trial.json", "result.json"])
def test_a_finished_trials_file_is_made_again_from_the_study(finished_study: NewQuickStudy, name: str) -> None:
    """Each trial's in another way."""
    study = finished_study(*ALL_AT_ONCE)
    paths = {kind: study.trial(number).path / name for number, kind in enumerate(DAMAGE)}
    before = {kind: json.loads(path.read_text()) for kind, path in paths.items()}
    for kind, path in paths.items():
        damage(path, kind)
    said = study.run(f"hydra.sweeper.n_trials={len(DAMAGE) + 1}")
    for kind, path in paths.items():
        assert str(path) in said
        assert set_aside(path) or (name == "trial.json" and kind in ("empty", "zeros"))  # there is nothing to keep
        after = json.loads(path.read_text())
        for key in ("params", "overrides", "number") if name == "trial.json" else ("state", "objectives", "params"):
            assert after[key] == before[kind][key]
    check_values(study, len(DAMAGE) + 1)


def test_a_trial_json_of_another_trial_is_known_by_the_runs(finished_study: NewQuickStudy) -> None:
    """Study, claims and result agree, and trial.json alone does not: no result goes, and nothing is run again."""
    study = finished_study(TWO)
    first, second = study.trial(0).trial_json, study.trial(1).trial_json
    before = json.loads(first.read_text())
    first.write_text(second.read_text().replace('"number": 1', '"number": 0'))
    said = study.run("hydra.sweeper.n_trials=3")
    assert f"{first}: has other parameters than the study" in said
    assert json.loads(first.read_text())["params"] == before["params"]
    check(study, 3)
    assert study.undisturbed_by_restarts()


def test_runs_with_other_parameters_are_none_of_the_trials(tmp_path: Path) -> None:
    """Neither their checkpoints nor their reports."""
    trial = TrialDir(tmp_path)
    trial.claim(1, "slurm:1", 0, Identity("study", "others"))
    own = trial.claim(2, "slurm:2", 0, Identity("study", "ours"))
    run = SweepRun(trial, own, lambda: False, 0.0)
    run.close()
    assert run.earlier_checkpoints == []
    assert trial.claims_of(Identity("study", "ours")) == [own]


# What happens between a job's commit and the driver's look: the driver finds the result like that.
STRIKE = """
import json
from pathlib import Path
from tests.sweep.test_damaged_files import DAMAGE, damage
from trialfleet.trial.directory import TrialDir
result = TrialDir.result
def strikes(self):
    struck = self.path / "struck"
    if self.result_json.exists() and not struck.exists():
        struck.touch()
        number = int(self.path.name)
        if number < len(DAMAGE):
            damage(self.result_json, list(DAMAGE)[number])
        else:
            whole = json.loads(self.result_json.read_text())
            self.result_json.write_text(json.dumps({**whole, "objectives": whole["objectives"] * 2}))
    return result(self)
TrialDir.result = strikes
"""


def test_an_untold_result_that_is_damaged_is_set_aside_and_the_trial_goes_on(quick_study: NewQuickStudy) -> None:
    """One that has two objectives is none of this study, either."""
    count = len(DAMAGE) + 1
    study = quick_study(f"hydra.sweeper.n_trials={count}", f"hydra.sweeper.n_jobs={count}")
    said = study.run(first=STRIKE)
    for number in range(count):
        assert f"{study.trial(number).result_json}" in said
        assert set_aside(study.trial(number).result_json)
        assert study.labels(number) == ["1.0", "2.0"]
    assert "has 2 objectives, not 1" in said
    check(study, count)


DIE = """
import os
import sqlite3
from trialfleet.sweep.fleets.local import LocalFleet
start = LocalFleet.submit
def dies(self, *arguments, **named):
    {start_them}
    os._exit(9)
LocalFleet.submit = dies
"""


@pytest.mark.parametrize("start_them", ["pass", "start(self, *arguments, **named)"], ids=["waiting", "running"])
def test_a_running_trials_record_is_made_again(quick_study: NewQuickStudy, start_them: str) -> None:
    """The driver died after it wrote them, or after it started the jobs, and its successor finds them damaged."""
    study = quick_study(*ALL_AT_ONCE)
    study.run(code=9, first=DIE.format(start_them=start_them))
    if start_them != "pass":  # the jobs have ended or run on: whatever they do, they are followed
        study.wait_for(lambda: all(study.labels(number) for number in range(len(DAMAGE))))
    for number, kind in enumerate(DAMAGE):
        damage(study.trial(number).trial_json, kind)
    study.run()
    check(study, len(DAMAGE))


def test_damaged_verdicts_and_claims_prune_and_fail_nobody(quick_study: NewQuickStudy) -> None:
    """Verdicts that are there before the runs, and claims as soon as they are there, while the runs go on."""
    study = quick_study(*ALL_AT_ONCE, "steps=6")
    study.run(
        first="from tests.sweep.test_damaged_files import DAMAGE, damage\n"
        "from trialfleet.trial.directory import TrialDir\n"
        "claim, contents = TrialDir.claim, list(DAMAGE.values())\n"
        "def strikes(self, *arguments):\n    number = int(self.path.name)\n"
        "    self.verdict_json.write_bytes(contents[number] or b'{\"prune_at\": ')\n"
        "    made = claim(self, *arguments)\n"
        "    damage(self.run_dir(made.label) / 'claim', list(DAMAGE)[number])\n    return made\n"
        "TrialDir.claim = strikes"
    )
    check_values(study, len(DAMAGE))
    for number, trial in enumerate(study.stored()):
        assert trial.value == undisturbed(trial.params["x"], trial.params["y"], 6)
        assert [path.name for path in study.trial(number).runs.iterdir()] == ["1.0"]


def test_foreign_names_are_passed_over(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO)
    for path in ("trials/README", "trials/00001/runs/backup", "trials/00001/runs/1.x", "driver.lock/notes.json"):
        (study.folder / path).write_text("a person was here")
    (study.folder / "trials/old").mkdir()
    (study.folder / "trials/20251124").mkdir()
    (study.folder / "trials/00001/runs/copy of 1.0").mkdir()
    study.run("hydra.sweeper.n_trials=3")
    study.run("study.rebuild=true")
    assert study.states() == {"COMPLETE": 3}


def test_a_damaged_budget_costs_the_study_nothing(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO)
    damage(study.folder / "budget.json", "half")
    said = study.run("hydra.sweeper.n_trials=3", "hydra.sweeper.budget.device_hours=100")
    assert f"{study.folder / 'budget.json'} is damaged" in said
    check(study, 3)


def test_a_damaged_study_yaml_is_named_and_left(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO)
    path = study.folder / "study.yaml"
    whole = path.read_bytes()
    for kind in ("empty", "zeros", "binary", "other JSON", "not its shape"):
        damage(path, kind)
        with pytest.raises(UserError, match="is no study record"):
            study_record.read(path)
    damaged = path.read_bytes()
    assert f"{path}: is no study record" in study.run("hydra.sweeper.n_trials=3", code=1)
    assert path.read_bytes() == damaged
    path.write_bytes(whole.replace(b"format: 2", b"format: 99"))
    with pytest.raises(UserError, match="newer version"):
        study_record.read(path)
    path.write_bytes(whole)
    study.run("hydra.sweeper.n_trials=3")
    check(study, 3)


def test_a_garbled_journal_is_named_and_made_anew_when_the_user_says_so(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO)
    path = study.folder / "optuna_journal.log"
    whole = path.read_bytes().splitlines(keepends=True)
    for where in (0, -2):
        lines = list(whole)
        lines[where] = b"\x00garbage\n"
        path.write_bytes(b"".join(lines))
        said = study.run("hydra.sweeper.n_trials=3", code=1)
        assert f"{path} is damaged in line" in said
        assert path.read_bytes() == b"".join(lines)
    study.run("hydra.sweeper.n_trials=3", "study.rebuild=true")
    check(study, 3)


def test_a_run_whose_claim_was_deleted_is_still_a_run(quick_study: NewQuickStudy) -> None:
    """What it reported is not lost."""
    trial = TrialDir(quick_study().folder / "trials" / "00000")
    own = trial.claim(1, "slurm:1", 0, Identity("study", "ours"))
    run = SweepRun(trial, own, lambda: False, 0.0)
    run.report(1, {"loss": 0.5})
    run.close()
    (trial.run_dir("1.0") / "claim").unlink()
    later = TrialDir(trial.path)
    assert [(claim.label, claim.damaged) for claim in later.claims_of(Identity("study", "ours"))] == [("1.0", True)]


def test_what_is_no_run_is_none(tmp_path: Path) -> None:
    (tmp_path / "runs" / "1.0").mkdir(parents=True)
    (tmp_path / "runs" / "x").mkdir()
    assert TrialDir(tmp_path).run_labels() == ["1.0"]
    assert TrialDir(tmp_path).claims() == []


def test_a_trial_of_a_launcher_that_blocks_goes_on_with_another_one(quick_study: NewQuickStudy) -> None:
    """It ran inside a driver that died before it told the result, and the result was damaged since."""
    study = quick_study("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    die = """
import os
from trialfleet.sweep.study.storage import StudyStorage
StudyStorage.tell = lambda *told: os._exit(9)
"""
    study.run("hydra/launcher=basic", code=9, first=die)
    study.trial(0).result_json.write_text('{"state":')
    said = study.run()
    assert f"{study.trial(0).result_json}" in said
    assert [trial.state.name for trial in study.stored()] == ["COMPLETE"] * 2


def test_a_record_that_is_damaged_while_its_trial_runs_is_written_again(
    quick_study: NewQuickStudy, tables: Path
) -> None:
    """The driver has it in memory; MLflow, and whoever reads the folder later, have the file alone."""
    mlflow = "tracking.uri=sqlite:///mlflow.db"
    study = quick_study("hydra.sweeper.n_trials=1", mlflow)
    shutil.copy(tables, study.place / "mlflow.db")
    damage = """
from trialfleet.sweep.driver import Driver
finish = Driver._finish
def late(self, trial, result):
    trial.dir.trial_json.write_bytes(b'{"number": 0, \\xff')
    finish(self, trial, result)
Driver._finish = late
"""
    said = study.run(first=damage)
    assert f"{study.trial(0).trial_json}: is no JSON" in said
    assert "and written again" in said
    assert json.loads(study.trial(0).trial_json.read_text())["params"] == study.stored()[0].params
    with sqlite3.connect(study.place / "mlflow.db") as connection:
        rows = connection.execute("select name, status from runs order by name").fetchall()
    connection.close()
    assert rows == [("descent", "FINISHED"), ("trial 00000 ★ best", "FINISHED")]

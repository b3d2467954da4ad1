"""Folders that earlier versions made are resumed: `formats/<version>.json` holds one, its files by their names.

Format 1: two trials are told, one has a result that is not, and one was lost after its sixth step. Its records say
neither which study nor which parameters they are of. @PLACE@ and @HOST@ stand for where it was.
"""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.tasks.forked import QuickStudy
from trialfleet.trial import records

FORMATS = Path(__file__).parent / "formats"


def laid_out(study: QuickStudy, version: int) -> dict[str, str]:
    """Lays the folder where the study's is."""
    files: dict[str, str] = json.loads((FORMATS / f"{version}.json").read_text())
    for name, text in files.items():
        path = study.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("@PLACE@", str(study.place)).replace("@HOST@", socket.gethostname()))
    return files


def test_a_study_of_format_1_goes_on(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study("hydra.sweeper.n_trials=6", "steps=10", "seconds=0.01", "study.allow_changes=[seconds]")
    files = laid_out(study, 1)
    said = study.run()
    assert "begun by an earlier version" in said
    study.check(6)
    assert [study.labels(number) for number in range(6)] == [
        ["1.0"],
        ["1.0"],
        ["1.0"],
        ["1.0", "2.0"],
        ["1.0"],
        ["1.0"],
    ]
    assert study.steps(3, "2.0") == list(range(7, 11))  # from its checkpoint
    for number in range(3):  # what had ended is as it was
        assert study.trial(number).result_json.read_text() == files[f"trials/{number:05d}/result.json"]
    record = yaml.safe_load((study.folder / "study.yaml").read_text())
    assert (record["uid"], record["format"]) == (files["study.yaml"].split()[1], records.FORMAT)
    before, after = json.loads(files["trials/00003/trial.json"]), study.record(3)
    assert after.keys() == before.keys()  # a job of the earlier version that still waits in line may read it
    assert after["attempt"] == 2
    assert "begun by an earlier version" not in study.run()


def test_a_study_of_format_1_is_made_anew_from_its_folder(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study("hydra.sweeper.n_trials=5", "steps=10", "seconds=0.01", "study.allow_changes=[seconds]")
    laid_out(study, 1)
    (study.folder / "optuna_journal.log").unlink()
    study.run("study.rebuild=true")
    study.check(5)


def test_a_result_that_does_not_say_whose_it_is_counts_for_no_trial_of_today(
    quick_study: Callable[..., QuickStudy],
) -> None:
    """A result of format 1 in the folder of a trial whose record has a study."""
    study = quick_study("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    foreign = json.loads((FORMATS / "1.json").read_text())["trials/00000/result.json"]
    study.run(
        first="from trialfleet.trial.submission import TrialRecord\nwrite = TrialRecord.write\n"
        "def also(self, path, synced=True):\n    write(self, path, synced)\n"
        "    result = path.with_name('result.json')\n"
        f"    if self.number == 1 and not struck: struck.append(result.write_text({foreign!r}))\n"
        "struck = []\nTrialRecord.write = also"
    )
    study.check(2, steps=4)

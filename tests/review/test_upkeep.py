"""A study without its driver: told what ended, made anew from its files, archived, deleted."""

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution, distribution_to_json

from tests.sweep.test_driver import UID, Dies, Scene
from trialfleet.sweep.study import command, study_record
from trialfleet.sweep.study.command import Command
from trialfleet.sweep.study.lease import Lease
from trialfleet.sweep.study.storage import JOURNAL
from trialfleet.trial.directory import TrialDir

from .conftest import Ask


@pytest.fixture
def scene(place: Path) -> Callable[..., Scene]:
    """A study of simulated jobs with all that its session writes besides."""

    def made(**how: object) -> Scene:
        study = Scene(place / "sweeps" / "study", **how)  # type: ignore[arg-type]  # of many types
        text = distribution_to_json(FloatDistribution(0.0, 1.0))
        identity = {"space.x": text, "direction": "minimize", study_record.METRICS: ["objective"]}
        record = study_record.create("study", study.folder, 1, "RandomSampler", "null", identity, {})
        study_record.write(study.folder / "study.yaml", study_record.replace(record, uid=UID))
        command.write(study.folder, Command("python train.py -m", 3, 2, ["objective"], ["minimize"]))
        return study

    return made


def left_by_its_driver(study: Scene) -> None:
    """Its driver dies while two jobs run, which go on to their ends."""
    driver = study.driver()
    sleep, turns = driver.clock.sleep, [0]

    def dies(seconds: float) -> None:
        turns[0] += 1
        if turns[0] == 3:
            raise Dies
        sleep(seconds)

    driver.clock.sleep = dies
    with pytest.raises(Dies):
        driver.run()
    study.fleet.sleep(10.0)


def test_what_ended_without_a_driver_is_told(scene: Callable[..., Scene], ask: Ask) -> None:
    study = scene()
    left_by_its_driver(study)
    assert [trial.state.name for trial in study.stored()] == ["RUNNING", "RUNNING"]
    code, said = ask("reconcile", "study")
    assert code == 0
    assert "study 'study': 2 complete; 2 were told now" in said
    assert [trial.values for trial in study.stored()] == [[trial.params["x"]] for trial in study.stored()]
    assert (study.folder / "optimization_results.yaml").exists()
    assert "0 were told now" in ask("reconcile", "study")[1]
    study.run()  # its command finds all in order
    study.check()


def test_the_study_is_made_anew_from_its_files(scene: Callable[..., Scene], ask: Ask) -> None:
    study = scene()
    study.run()
    before = [(trial.number, trial.values, trial.params) for trial in study.stored()]
    (study.folder / JOURNAL).unlink()
    code, said = ask("rebuild", "study")
    assert code == 0
    assert "3 trials from their files" in said
    assert [(trial.number, trial.values, trial.params) for trial in study.stored()] == before
    assert len(list(study.folder.glob(f"{JOURNAL}.before-*"))) == 0


def test_a_study_that_is_driven_is_left_alone(scene: Callable[..., Scene], ask: Ask) -> None:
    study = scene()
    study.run()
    lease = Lease(study.folder / "driver.lock", 60.0, 0.05)
    lease.acquire()
    assert "does this all the time" in ask("reconcile", "study")[1]
    for words in (["rebuild", "study"], ["archive", "study", "--yes"], ["delete", "study", "--yes"]):
        code, said = ask(*words)
        assert (code, "has a driver already" in said) == (2, True)
    lease.release()
    assert study.folder.is_dir()


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("postgresql://me:***@host/db", "study.yaml records no password"),
        ('{"_target_": "x"}', "its command alone can build"),
        ("sqlite:///{place}/gone.db", "is not there"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named(
    scene: Callable[..., Scene], ask: Ask, place: Path, storage: str, said: str
) -> None:
    study = scene()
    study.run()
    record = study_record.read(study.folder / "study.yaml")
    assert record is not None
    study_record.write(
        study.folder / "study.yaml", study_record.replace(record, storage=storage.replace("{place}", str(place)))
    )
    code, found = ask("reconcile", "study")
    assert (code, said in found) == (2, True)
    assert study.folder.is_dir()
    assert ask("delete", "study", "--yes")[0] == 2
    assert study.folder.is_dir()


def test_a_study_of_an_earlier_version_needs_its_command(scene: Callable[..., Scene], ask: Ask) -> None:
    study = scene()
    study.run()
    (study.folder / command.NAME).unlink()
    assert "resume the study with its own command" in ask("reconcile", "study")[1]
    assert "3 complete" in ask("show", "study")[1]


def test_an_archive_unpacks_to_the_same_study(scene: Callable[..., Scene], ask: Ask, place: Path) -> None:
    study = scene()
    study.run()
    assert "nobody is there to say yes" in ask("archive", "study")[1]
    code, said = ask("archive", "study", "--yes")
    assert code == 0
    for part in ("folder: ", "storage: the Optuna study is in its folder", "MLflow: is not touched"):
        assert part in said
    assert not study.folder.exists()
    unpack = said.partition("unpack:")[2]
    assert str(place / "sweeps" / "study.tar.gz") in unpack
    subprocess.run(shlex.split(unpack), check=True)
    assert "finished: 3 of 3" in ask("show", "study")[1]
    study.run()
    study.check()
    assert "is there already" in ask("archive", "study", "--yes")[1]


def test_deleting_takes_the_study_out_of_its_storage(scene: Callable[..., Scene], ask: Ask, place: Path) -> None:
    study = scene()
    left_by_its_driver(study)
    address = f"sqlite:///{place}/shared.db"
    for name in ("study", "other"):
        optuna.create_study(study_name=name, storage=address).set_user_attr("trialfleet:study", UID)
    record = study_record.read(study.folder / "study.yaml")
    assert record is not None
    study_record.write(study.folder / "study.yaml", study_record.replace(record, storage=address))
    TrialDir(study.folder / "trials" / "00000").result_json.unlink()
    code, said = ask("delete", "study", "--yes")
    assert code == 0
    assert f"is deleted from {address}" in said
    assert "1 trial has begun and not ended" in said
    assert not study.folder.exists()
    assert optuna.get_all_study_names(address) == ["other"]

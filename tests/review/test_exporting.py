"""A trial's config as a file: it composes to what the trial ran, or is not written."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from trialfleet.review.exporting import typed
from trialfleet.review.studies import find
from trialfleet.trial.directory import trial_dir

from .conftest import Ask

FILES: dict[str, Any] = {
    "config.yaml": {
        "defaults": ["_self_", {"model": "small"}, {"optimizer": "adam"}],
        "seed": 0,
        "name": "${seed}",
        "tags": [],
    },
    "model/small.yaml": {"size": 1, "defaults": ["_self_", {"head": "plain"}]},
    "model/large.yaml": {"size": 9, "depth": 3, "defaults": ["_self_", {"head": "deep"}]},
    "model/head/plain.yaml": {"width": 1},
    "model/head/deep.yaml": {"width": 2, "layers": [1, 2]},
    "optimizer/adam.yaml": {"rate": 0.1, "betas": [0.9, 0.999]},
    "optimizer/sgd.yaml": {"rate": 0.2, "momentum": None},
}


@pytest.fixture
def conf(place: Path) -> Path:
    for name, content in FILES.items():
        path = place / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    return place / "conf"


def composed(conf: Path, *overrides: str) -> Any:
    with initialize_config_dir(str(conf)):
        return compose("config", list(overrides), return_hydra_config=True)


def ran(conf: Path, number: int, *overrides: str) -> dict[str, Any]:
    """The trial has run with these overrides; its config."""
    config = composed(conf, *overrides)
    folder = trial_dir(find("wide").folder, number).run_dir("1.0") / ".hydra"
    folder.mkdir()
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    (folder / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}}))
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(own))
    plain = OmegaConf.to_container(own, resolve=False)
    assert isinstance(plain, dict)
    return plain


@pytest.mark.parametrize(
    ("script", "study", "said"),
    [
        ("train.py", "python train.py -m", "python train.py"),
        ("deep/my train.py", "python 'deep/my train.py' -m", "python 'deep/my train.py'"),
        ("pipelines/train.py", "python -m pipelines.sweep -m", "python -m pipelines.train"),
        ("train.py", "python -m sweep", "python -m train"),
        ("tools/train.py", "python -m pipelines.sweep", "python tools/train.py"),
        ("/elsewhere/train.py", "python -m pipelines.sweep", "python /elsewhere/train.py"),
        ("train.py", "", "python train.py"),
    ],
)
def test_a_single_run_is_typed_as_the_study_was(place: Path, script: str, study: str, said: str) -> None:
    assert typed(place / script, study) == said


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["seed=3"],
        ["model=large", "optimizer=sgd", "optimizer.rate=1e-3"],
        ["model=large", "model/head=plain", "+model.extra=[a,b]", "optimizer.betas=[0.8,0.9]"],
        ["~optimizer.betas", "optimizer.rate=.inf"],
    ],
)
def test_the_file_composes_to_the_trials_config(conf: Path, ask: Ask, overrides: list[str]) -> None:
    wanted = ran(conf, 2, *overrides)
    code, said = ask("export", "wide", "--trial", "2", "--as", "mine")
    assert code == 0, said
    assert "  python train.py +experiment=mine" in said
    found = composed(conf, "+experiment=mine")
    plain = OmegaConf.to_container(OmegaConf.masked_copy(found, list(wanted)), resolve=False)
    if "~optimizer.betas" in overrides:
        wanted["optimizer"]["betas"] = None  # a file takes no key away
    assert plain == wanted
    head = (conf / "experiment" / "mine.yaml").read_text().splitlines()
    assert head[0] == "# @package _global_"
    assert head[1].startswith("# Trial 2 of study wide: ")
    assert "commit none, code unknown, lock none" in head[2]


def test_the_best_is_exported_under_the_studys_name_and_nothing_is_overwritten(conf: Path, ask: Ask) -> None:
    study = find("wide")
    ran(conf, study.front[0].number, "seed=5")
    assert ask("export", "wide")[0] == 0
    assert yaml.safe_load((conf / "experiment" / "wide.yaml").read_text())["seed"] == 5
    code, said = ask("export", "wide")
    assert (code, "is there already" in said) == (2, True)
    assert ask("export", "wide", "--force")[0] == 0


@pytest.mark.parametrize(
    ("study", "name"),
    [
        ("2024", "study_2024"),
        ("true", "study_true"),
        ("a b/c", "a_b_c"),
        ("été", "_t_"),
        ("8bit", "8bit"),
        ("a.yaml", "a_yaml"),
    ],
)
def test_the_file_of_a_study_of_any_name_can_be_chosen(conf: Path, ask: Ask, study: str, name: str) -> None:
    ran(conf, 2, "seed=5")
    record = conf.parent / "sweeps" / "wide" / "study.yaml"
    record.write_text(record.read_text().replace("name: wide", f"name: {study!r}"))
    code, said = ask("export", "sweeps/wide", "--trial", "2")
    assert code == 0, said
    assert f"  python train.py +experiment={name}\n" in said
    assert composed(conf, f"+experiment={name}").seed == 5


def test_what_is_to_be_typed_is_quoted(conf: Path, ask: Ask) -> None:
    ran(conf, 2, "seed=5")
    assert "  python train.py '+experiment=new/a b'\n" in ask("export", "wide", "--trial", "2", "--as", "new/a b")[1]
    assert composed(conf, "+experiment=new/a b").seed == 5


WRONG = (
    "2024",
    "true",
    "null",
    "1e3",
    "../up",
    "a=b",
    "a,b",
    "été",
    "/x",
    "a.yaml",
    "a.yml",
)  # file names that no override chooses


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trial", "3"], "has no config"),
        (["--trial", "2", "--conf", "nowhere"], "there is no such folder"),
        (["--trial", "2", "--config-name", "other"], "config other: "),
        (["--trial", "99"], "has no trial 99"),
        *((["--trial", "2", "--as", name], f"--as {name}: Hydra would not choose") for name in WRONG),
    ],
)
def test_what_cannot_be_exported_leaves_no_file(conf: Path, ask: Ask, words: list[str], said: str) -> None:
    ran(conf, 2, "seed=5")
    code, found = ask("export", "wide", *words)
    assert code == 2
    assert said in found
    assert not list(conf.glob("experiment/*"))


def test_a_place_that_cannot_be_written_is_named(conf: Path, ask: Ask) -> None:
    ran(conf, 2, "seed=5")
    (conf / "experiment").write_text("a file")
    code, said = ask("export", "wide", "--trial", "2")
    assert code == 2
    assert f"{conf.name}/experiment: cannot be written: " in said


def test_of_a_front_all_files_are_written_or_none(conf: Path, ask: Ask) -> None:
    study = find("wide")
    record = study.folder / "study.yaml"
    for old, new in (("direction: minimize", "direction: minimize,maximize"), ("- val/loss", "- val/loss\n  - size")):
        assert old in record.read_text()
        record.write_text(record.read_text().replace(old, new))
    for number in (1, 2):
        result = trial_dir(study.folder, number).result_json
        result.write_text(json.dumps({**json.loads(result.read_text()), "state": "COMPLETE", "error": None}))
    for row in study.rows:
        result = trial_dir(study.folder, row.number).result_json
        ended = json.loads(result.read_text())
        ended["objectives"] = ended["objectives"] and [float(row.number), float(row.number)]
        result.write_text(json.dumps(ended))
    front = [row.number for row in find("wide").front]
    assert len(front) > 1
    for number in front:
        ran(conf, number, f"seed={number}")
    last = conf / "experiment" / f"wide_{front[-1]}.yaml"
    last.parent.mkdir()
    last.write_text("mine")
    code, said = ask("export", "wide", "--front")
    assert (code, f"{last.name}: is there already" in said) == (2, True)
    assert [path.name for path in last.parent.iterdir()] == [last.name]
    assert ask("export", "wide", "--front", "--force")[0] == 0
    for number in front:
        assert composed(conf, f"+experiment=wide_{number}").seed == number

"""`hydra.sweeper`, typed: wrong keys and values are refused by name, defaults come from conf/ alone."""

from pathlib import Path
from typing import Any

import pytest
from hydra_plugins.hydra_optuna_sweeper.config import Direction
from omegaconf import OmegaConf

from trialfleet.errors import UserError
from trialfleet.sweep import sweeper_settings as settings_of
from trialfleet.sweep.sweeper_settings import Settings, defaults, directions, settings, sweep_folder


def test_the_defaults_are_those_of_conf() -> None:
    written = defaults()
    made = settings({})
    assert isinstance(made, Settings)
    assert (made.n_trials, made.n_jobs) == (written["n_trials"], written["n_jobs"])
    assert made.watch.files == written["watch"]["files"]
    assert made.lease.stale_after == written["lease"]["stale_after"]


def test_conf_gives_each_setting_a_default() -> None:
    written = {*defaults(), "tracking"}  # a group, with a file of its own
    assert set(Settings.__dataclass_fields__) <= written  # type: ignore[attr-defined]


def test_what_is_given_counts() -> None:
    made = settings({"n_trials": 3, "max_failure_rate": 0.0, "enqueue": [{"lr": 0.1}], "max_retries": 0})
    assert (made.n_trials, made.max_failure_rate, made.enqueue, made.max_retries) == (3, 0.0, [{"lr": 0.1}], 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials"),
        ({"n_trials": "many"}, "hydra.sweeper.n_trials: must be a whole number, got 'many'"),
        ({"n_trials": 2.5}, "hydra.sweeper.n_trials"),
        ({"n_jobs": 0}, "hydra.sweeper.n_jobs"),
        ({"max_failure_rate": 1.5}, "hydra.sweeper.max_failure_rate"),
        ({"max_failure_rate": -0.1}, "hydra.sweeper.max_failure_rate"),
        ({"max_retries": -1}, "hydra.sweeper.max_retries"),
        ({"enqueue": {"lr": 0.1}}, "hydra.sweeper.enqueue"),
        ({"watch": {"files": 0}}, "hydra.sweeper.watch"),
        ({"lease": {"beat": "often"}}, "hydra.sweeper.lease"),
        ({"lease": {"beat": 5.0, "stale_after": 6.0}}, "hydra.sweeper.lease"),
        ({"n_trails": 3}, "hydra.sweeper.n_trails: unknown key, did you mean n_trials?"),
        ({"surprise": 3}, "hydra.sweeper.surprise: unknown key"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        settings(given)
    assert message in str(refusal.value)
    assert "--cfg hydra -p hydra.sweeper" in refusal.value.fix


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(UserError) as refusal:
        settings({"n_trials": 0, "n_jobs": 0})
    assert len(refusal.value.message.splitlines()) == 2


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("minimize", ["minimize"]),
        (Direction.maximize, ["maximize"]),
        (["minimize", "maximize"], ["minimize", "maximize"]),
        ([Direction.minimize, Direction.maximize], ["minimize", "maximize"]),
        (OmegaConf.create(["maximize", "minimize"]), ["maximize", "minimize"]),
    ],
)
def test_directions_in_all_of_upstreams_forms(node: Any, words: list[str]) -> None:
    assert directions(node) == words


@pytest.mark.parametrize("node", ["minimise", [], ["minimize", "up"], None])
def test_a_wrong_direction_is_refused(node: Any) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.direction"):
        directions(node)


def test_a_misspelt_direction_gets_a_hint() -> None:
    with pytest.raises(UserError, match="did you mean minimize"):
        directions("minimise")


def test_the_sweeps_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep_folder(OmegaConf.create({"hydra": {"sweep": {"dir": "sweeps/a"}}})) == tmp_path / "sweeps" / "a"


def test_no_default_stands_in_the_code() -> None:
    for kind in (Settings, settings_of.Budget, settings_of.Watch, settings_of.LeaseSettings):
        for entry in kind.__dataclass_fields__.values():  # type: ignore[attr-defined]
            assert entry.default is entry.default_factory, entry.name  # both are MISSING

"""What goes down to all jobs: everything they need, and no password."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from tests.conftest import Composed
from trialfleet.errors import UserError
from trialfleet.sweep.fleets.payload import keep_task, without_secrets, write_payload
from trialfleet.trial import secrets

SECRET = "s3cret"
URL = f"postgresql://me:{SECRET}@db.example/optuna"

CONF = f"""
hydra:
  sweeper:
    storage: {URL}
    tracking: {{uri: "${{tracking.uri}}"}}
tracking:
  uri: https://me:{SECRET}@mlflow.example
data: s3://key:needed@bucket/x
lr: 0.1
"""


def task(config: DictConfig) -> float:
    return float(config.lr)


@pytest.mark.parametrize("given", ["in a file", "on the command line"])
def test_no_password_goes_into_the_pickle(tmp_path: Path, composed: Composed, given: str) -> None:
    """Wherever Hydra keeps it; what jobs need stays, and a job composes the same sweeper from it."""
    (tmp_path / "config.yaml").write_text(CONF if given == "in a file" else CONF.replace(SECRET, "other"))
    addresses = [f"hydra.sweeper.storage='{URL}'", f"++tracking.uri=https://me:{SECRET}@other.example"]
    context, config = composed(
        tmp_path,
        "hydra/sweeper=trialfleet",
        "hydra.sweeper.study_name=study",
        *(addresses if given == "on the command line" else []),
    )
    path = write_payload(tmp_path / "payloads", context, task, config, "code")
    assert write_payload(tmp_path / "payloads", context, task, config, "code") == path  # once for the same content
    content = path.read_bytes()
    assert SECRET.encode() not in content
    assert config.hydra.sweeper.storage == URL  # the driver's own is whole
    payload = pickle.loads(content)
    assert payload["config"].data == "s3://key:needed@bucket/x"
    assert payload["config"].hydra.sweeper.storage == URL.replace(SECRET, "***")
    job = payload["hydra_context"].config_loader.load_sweep_config(payload["config"], ["lr=0.5"])
    assert job.lr == 0.5
    secrets.mask(job)
    assert SECRET not in OmegaConf.to_yaml(job)


def test_a_function_of_the_script_is_kept_as_long_as_the_script_is_the_studys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later ones would run under the name of the study's own code."""
    monkeypatch.setattr(task, "__module__", "__main__")
    with pytest.raises(UserError, match="is not there, and the script has changed since the study took it"):
        keep_task(tmp_path, task, "then", lambda: "now")
    assert not list(tmp_path.iterdir())
    keep_task(tmp_path, task, "then", lambda: "then")
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("task-then-")
    keep_task(tmp_path, task, "then", lambda: "now")  # there is one: whatever the script is by now


def test_the_sweeps_own_config_is_left_as_it_is() -> None:
    config = OmegaConf.create({"hydra": {"sweeper": {"storage": URL}, "overrides": {"hydra": [], "task": []}}})
    OmegaConf.set_readonly(config, True)
    assert without_secrets(config).hydra.sweeper.storage == URL.replace(SECRET, "***")
    assert config.hydra.sweeper.storage == URL


@pytest.mark.parametrize("storage", [URL, "null"])
def test_overrides_that_refer_to_what_only_trials_have_stay_as_typed(storage: str) -> None:
    typed = {"hydra": ["hydra.job.name=${lr}"], "task": ["+lr=interval(0,1)", "+a=${lr}"]}
    sent = without_secrets(OmegaConf.create({"hydra": {"sweeper": {"storage": storage}, "overrides": typed}}))
    assert secrets.overrides(sent, "task") == typed["task"]
    assert secrets.overrides(sent, "hydra")[:1] == typed["hydra"]


def test_a_storage_that_the_config_builds_is_masked_too() -> None:
    node = {"_target_": "optuna.storages.RDBStorage", "url": URL, "engine_kwargs": {"pool_size": 3}}
    config = OmegaConf.create({"hydra": {"sweeper": {"storage": node}, "overrides": {"hydra": [], "task": []}}})
    masked = without_secrets(config)
    assert SECRET not in OmegaConf.to_yaml(masked)
    assert masked.hydra.sweeper.storage.engine_kwargs.pool_size == 3


def test_a_config_without_addresses_is_left_alone() -> None:
    hydra = {"sweeper": {"storage": None}, "overrides": {"hydra": [], "task": []}}
    config = OmegaConf.create({"lr": 1, "hydra": hydra})
    assert without_secrets(config) == config


@pytest.mark.parametrize(
    ("override", "masked"),
    [
        (f"hydra.sweeper.storage={URL}", "hydra.sweeper.storage=postgresql://me:***@db.example/optuna"),
        (f"hydra.sweeper.storage='{URL}'", "hydra.sweeper.storage='postgresql://me:***@db.example/optuna'"),
        (f"+hydra.sweeper.storage.url={URL}", "+hydra.sweeper.storage.url=postgresql://me:***@db.example/optuna"),
        (f"++tracking.uri=https://me:{SECRET}@host", "++tracking.uri=https://me:***@host"),
        ("tracking.uri=sqlite:///mlflow.db", "tracking.uri=sqlite:///mlflow.db"),
        ("tracking.uri=http://host:5000", "tracking.uri=http://host:5000"),
        # a job may need these
        (f"data.path=s3://key:{SECRET}@bucket/x", f"data.path=s3://key:{SECRET}@bucket/x"),
        ("~tracking.uri", "~tracking.uri"),
    ],
)
def test_overrides_are_masked_where_only_the_driver_needs_them(override: str, masked: str) -> None:
    assert secrets.masked_override(override, ["hydra.sweeper.storage", "tracking.uri"]) == masked


def test_only_the_applications_keys_that_fill_the_sweepers_are_masked() -> None:
    own = {"tracking": {"uri": URL}, "database": URL}
    sweeper = {"storage": "${database}", "tracking": {"uri": f"https://me:{SECRET}@host"}}
    config = OmegaConf.create({**own, "hydra": {"sweeper": sweeper}})
    assert secrets.addresses(config) == ["hydra.sweeper.storage", "hydra.sweeper.tracking.uri", "database"]
    secrets.mask(config)
    assert config.tracking.uri == URL  # the application's, for whatever it tracks
    assert SECRET not in config.database + config.hydra.sweeper.tracking.uri


@given(st.text("abc123!$%&*()_+-=.,;~^", min_size=1, max_size=12), st.sampled_from(["", "me"]))
def test_no_password_is_left_in_an_address(password: str, user: str) -> None:
    assert secrets.masked(f"x://{user}:{password}@h/d") == f"x://{user}:***@h/d"


def test_a_password_survives_nowhere_in_a_pickled_config() -> None:
    hydra = {"sweeper": {"storage": URL, "tracking": {"uri": "${tracking.uri}"}}, "overrides": {"hydra": []}}
    config = OmegaConf.create({"tracking": {"uri": URL}, "hydra": hydra})
    assert SECRET.encode() not in pickle.dumps(without_secrets(config))

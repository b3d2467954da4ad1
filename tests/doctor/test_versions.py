"""What is installed against what is declared."""

import pytest
from packaging.requirements import Requirement

from trialfleet.doctor import versions

HAS = {"optuna": "4.8.0", "jax": "0.11.0", "hydra-core": "1.4.0rc3", "trialfleet": "0.1.0"}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("hydra-core<1.5,>=1.4.0rc3", None),  # a pre-release that was asked for
        ("optuna<6,>=5", "optuna is 4.8.0, and optuna<6,>=5 is needed"),
        ("submitit>=1.5.4", "submitit is missing"),
        ('optax>=0.2; extra == "train"', None),  # optional
        ('jax<0.11,>=0.10.2; extra == "train"', "jax is 0.11.0, and jax<0.11,>=0.10.2 is needed"),
        ('optuna<3; extra == "dev"', None),  # of nobody but the developers
    ],
)
def test_what_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch, text: str, wrong: str | None) -> None:
    monkeypatch.setattr(versions, "installed", HAS.get)
    assert versions.misfit(Requirement(text)) == wrong


def test_here_all_fits() -> None:
    (found,) = versions.look()
    assert (found.status, found.fix) == ("ok", "")
    assert "python 3." in found.found
    assert "trialfleet 0" in found.found


def test_a_wrong_version_fails_and_no_jax_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    there = versions.installed
    monkeypatch.setattr(versions, "installed", lambda name: None if name == "jax" else there(name))
    (found,) = versions.look()
    assert found.status == "note"
    assert "jax not installed" in found.found
    monkeypatch.setattr(versions, "installed", lambda name: "4.8.0" if name == "optuna" else there(name))
    (found,) = versions.look()
    assert found.status == "FAIL"
    assert "optuna is 4.8.0, and optuna<6,>=5 is needed" in found.found

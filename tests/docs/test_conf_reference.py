"""The reference of all keys: made from the same files as they are read from, and no key without a word."""

import pytest

from docs.extensions import conf_reference

# One worker: every member of every group is composed for the page.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reference")]


@pytest.fixture(scope="module")
def page() -> str:
    return conf_reference.as_markdown()


def test_each_key_has_a_meaning() -> None:
    assert conf_reference.undocumented() == []


def test_a_row_has_default_type_and_meaning(page: str) -> None:
    assert (
        "| `scheduler.warmup_steps` | `null` | integer or null ≥ 0; traced | The number of these steps itself; "
        "null: by warmup_ratio. |"
    ) in page
    assert "| `seed` | `0` | integer ≥ 0; host |" in page
    assert "| `hydra.sweeper.n_trials` | `8` |" in page


def test_members_of_one_kind_stand_together(page: str) -> None:
    own = ("mvfoul", "mvfoul_aggressive", "mvfoul_tiny")
    members = ("adamw", "asr_default", "asr_production", "grpo", "grpo_base_tiny", "grpo_tiny", *own)
    assert ", ".join(f"`optimizer={member}`" for member in members) in page
    assert "`0.002`; asr_default: `5e-05`; asr_production: `3e-05`; grpo: `3e-06`; grpo_base_tiny: `0.004`" in page

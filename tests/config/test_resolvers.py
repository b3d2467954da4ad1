"""Names of studies: after the workload and its model, or the workload alone."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

CONF = Path(__file__).parents[2] / "conf"
OUTSIDE = f"hydra.searchpath=[file://{CONF.parent / 'examples' / 'digits_mlp' / 'conf'}]"


@pytest.mark.parametrize(
    ("primary", "overrides", "name"),
    [
        ("sweep", [], "asr-asr_tiny"),
        ("sweep", ["workload=mvfoul"], "mvfoul-mvfoul_tiny"),
        ("sweep", ["workload=grpo", "model=gemma3_test"], "grpo-gemma3_test"),
        ("sweep", [OUTSIDE, "workload=digits_mlp"], "digits_mlp"),
        ("train", [OUTSIDE, "workload=digits_mlp"], "grid-digits_mlp-[0-9]{8}-[0-9]{6}"),
        ("train", [], "grid-asr-[0-9]{8}-[0-9]{6}"),
    ],
)
def test_the_name_of_a_study(primary, overrides, name, request):
    with initialize_config_dir(str(CONF)):
        composed = compose(primary, overrides=overrides, return_hydra_config=True)
        request.addfinalizer(lambda: setattr(HydraConfig.instance(), "cfg", None))
        HydraConfig.instance().set_config(composed)
        assert re.fullmatch(name, composed.hydra.sweeper.study_name)

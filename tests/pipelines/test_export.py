"""What is typed of an export is refused before anything is read."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from pipelines import export
from trialfleet.errors import UserError

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "to: must be a folder that is not there yet, got None"),
        (["to=' '"], "to: must be a folder"),
        (["to=out", "form=whole"], "form: must be one of merged, adapter, got 'whole'"),
        (["to=out", "dtype=float16"], "dtype: must be one of float32, bfloat16, got 'float16'"),
        (["to=out", "part_gb=0"], "part_gb: must be a number above 0, got 0"),
    ],
)
def test_a_mistake_is_refused_by_its_key(words: list[str], message: str) -> None:
    with initialize_config_dir(str(CONF)):
        cfg = compose("export", ["workload=grpo_base", "model.lora_rank=null", *words])
    with pytest.raises(UserError, match=message):
        export.export(cfg)


def test_its_own_keys_are_those_that_no_training_has() -> None:
    with initialize_config_dir(str(CONF)):
        own, base = (set(compose(name, ["workload=grpo_base"])) for name in ("export", "config"))
    assert own - base == set(export.OWN)
    assert not GlobalHydra.instance().is_initialized()

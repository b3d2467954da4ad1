"""Every mistake is refused at once, by its full key, with what to do."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from trialfleet.config import Config, load
from trialfleet.errors import UserError

CONF = Path(__file__).parents[2] / "conf"


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF)):
        cfg = compose("config", overrides=list(overrides))
    return load(cfg)


def test_the_defaults_are_a_config():
    config = composed()
    assert config.workload.name == "asr"
    assert config.objective.metrics == ("val/wer",)
    assert config.optimizer.learning_rate == 2e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+optimizer.learning_rat=1", "optimizer.learning_rat: no such key; did you mean optimizer.learning_rate?"),
        ("+training.checkpoints.keep_lst=1", "no such key; did you mean training.checkpoints.keep_last?"),
        ("+class_balance.factor=2", "class_balance: no such key; there are seed, "),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate: must be a number, got 'fast'"),
        ("optimizer.learning_rate='1e-3'", "optimizer.learning_rate: must be a number, got '1e-3'"),
        ("optimizer.learning_rate=null", "optimizer.learning_rate: must be a number, got null"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate: must be a finite number, got inf"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate: must be a finite number, got nan"),
        ("optimizer.learning_rate=1e39", "optimizer.learning_rate: 1e\\+39 is more than a float32 can be"),
        ("workload=grpo grpo.beta=1e39", "grpo.beta: 1e\\+39 is more than a float32 can be"),
        ("workload=grpo grpo.epsilon=1e-50", "grpo.epsilon: 1e-50 is closer to 0 than a float32 can be"),
        ("training.max_steps=10.5", "training.max_steps: must be a whole number, got 10.5"),
        ("training.evaluate_test=maybe", "training.evaluate_test: must be true or false, got 'maybe'"),
        ("optimizer.beta1=1.5", "optimizer.beta1: input should be less than 1, got 1.5"),
        ("optimizer.name=adamv", "optimizer.name: must be one of 'adamw', .* got 'adamv'"),
        ("dataset.buckets=[3,x]", r"dataset.buckets.1: must be a whole number, got 'x'"),
        ("objective.at=first", "objective.at: must be 'best' or 'last', got 'first'"),
        ("seed=???", "seed: required, and not set; add seed=VALUE"),
        ("~optimizer.beta1", "optimizer.beta1: required, and not set"),
        ("objective.metric=val/acc", "objective.metric: asr logs no metric 'val/acc'; did you mean 'val/cer'"),
        ("objective.metric=test/wer", "'test/wer' is only there with training.evaluate_test=true"),
        ("objective.metric=[val/wer,val/cer]", "objective.direction: 1 given for 2"),
        ("training.max_steps=null", "training.max_steps: null, and training.max_epochs too"),
        ("mesh.fsdp=-1", "mesh: data=-1, fsdp=-1, tp=1; sizes are"),
        ("dataset.buckets=[80,40]", r"dataset.buckets: must rise, got \[80, 40\]"),
        ("model.kernel=4", "model.kernel: must be odd"),
        ("experiment_name=${nothing}", "the config cannot be resolved: .*nothing"),
        ("workload.schema=trialfleet.config.asr.Nothing", "workload.schema: .* cannot be imported"),
        ("workload.schema=pathlib.Path", "workload.schema: pathlib.Path is not a config dataclass"),
        ("workload.schema=null", "workload.schema: must be the dotted path"),
        ("optimizer=sgd +optimizer.beta1=0.3", "optimizer.beta1: no such key"),
    ],
)
def test_a_mistake_is_refused_by_its_key(override, message):
    with pytest.raises(UserError, match=message):
        composed(*override.split(" "))


def test_a_member_of_ones_own_names_what_it_builds_on(tmp_path):
    (tmp_path / "optimizer").mkdir()
    own = tmp_path / "optimizer" / "mine.yaml"
    here = f"hydra.searchpath=[file://{tmp_path}]"
    own.write_text("defaults: [sgd]\nlearning_rate: 0.02\nmomentum: 0.8\nnesterov: false\n")
    optimizer = composed(here, "optimizer=mine").optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 0.02, 0.8)
    own.write_text("learning_rate: 0.02\nmomentum: 0.8\nnesterov: false\n")
    with pytest.raises(UserError, match=r"optimizer.name: required, and not set: .* for example defaults: \[NAME\]"):
        composed(here, "optimizer=mine")


def test_another_workloads_member_is_one_problem():
    with pytest.raises(UserError) as caught:
        composed("model=gemma3_test", "seed=-1")
    first, *lines = str(caught.value).splitlines()
    assert first == "the config has 2 problems:"
    assert any("model.name: must be 'ctc' for workload=asr, got 'gemma3'; choose another" in line for line in lines)


def test_all_problems_are_told_at_once():
    with pytest.raises(UserError) as caught:
        composed("+optimizer.nesterov=true", "seed=-1", "model.width=wide")
    lines = str(caught.value).splitlines()
    assert lines[0] == "the config has 3 problems:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["seed", "optimizer.nesterov", "model.width"]


def test_whole_numbers_stand_for_numbers_and_deleted_keys_for_null():
    config = composed("optimizer.learning_rate=1", "~training.gradient_clip", "~runtime.compilation_cache")
    assert config.optimizer.learning_rate == 1.0
    assert config.training.gradient_clip is None
    assert config.runtime.compilation_cache is None


def test_a_group_may_change_its_rate_alone():
    config = composed("+optimizer.groups.head.learning_rate=1e-2")
    assert config.optimizer.groups["head"].learning_rate == 1e-2
    assert config.optimizer.groups["head"].weight_decay is None


def test_import_is_light():
    code = (
        "import sys, trialfleet.config; "
        "heavy = {'jax', 'optuna', 'mlflow', 'numpy', 'optax'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_of_data_is_among_what_examples_are_read_from(tmp_path: Path):
    assert composed().data_files() == {}
    (tmp_path / "digits.npz").touch()
    assert composed(f"dataset.data_dir={tmp_path}").data_files() == {"dataset.data_dir": (str(tmp_path),)}

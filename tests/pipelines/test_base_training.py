"""The training that another one begins from: what it is told, who trains it, and what becomes of it."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from pipelines import base_overrides, base_training
from tests.config.test_load import composed
from tests.training.harness import CONF
from trialfleet.config import Config
from trialfleet.errors import UserError
from trialfleet.trial.run import Preempted, Stop

# In the place of Python: says how often it was called, and with what, and saves as much as is looked for.
TRAINER = """#!/bin/sh
echo "$@" >> {folder}/calls
trap 'echo stopped >> {folder}/calls; exit 143' TERM
for word in "$@"; do case "$word" in hydra.run.dir=*) own="${{word#*=}}";; esac; done
{does}
mkdir -p "$own/checkpoints/00000007"
"""


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes what is called in the place of Python."""

    def make(does: str = "sleep .3") -> Path:
        path = tmp_path / "python"
        path.write_text(TRAINER.format(folder=tmp_path, does=does))
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))
        monkeypatch.setattr(base_training, "POLL", 0.05)
        return tmp_path / "calls"

    return make


def config_with_base(folder: Path, *overrides: str) -> Config:
    return composed("+experiment=grpo_from_scratch", f"training.base.folder={folder / 'bases'}", *overrides)


def test_what_it_is_told_is_what_it_shares_and_then_its_own(tmp_path):
    config = config_with_base(tmp_path, "model.width=48", "model.window=null", "dataset.max_number=9")
    base = config.training.base
    assert base is not None
    words = base_overrides.told(config, base)
    assert {"model.width=48", "model.window=null", "dataset.max_number=9", "model.tied=true"} <= set(words)
    assert words.index("model.lora_rank=8") < words.index("model.lora_rank=null")
    base_training.check(config)


def test_it_has_the_keys_of_another_dataset_and_the_rewards_that_there_are(tmp_path):
    same = (
        "training.base.same=[model,dataset,rewards]",
        "+rewards.own={function: math.pow, weight: 1}",
        "~rewards.number",
    )
    config = config_with_base(tmp_path, "dataset=reasoning_gym", "++dataset.options={max_terms:3}", *same)
    base = config.training.base
    assert base is not None
    base_training.check(config)
    shared = base_overrides.composed(base_overrides.told(config, base))
    assert shared.dataset.options == {"max_terms": 3}
    assert "max_number" not in shared.dataset
    assert set(shared.rewards) == {"answer", "format_approximate", "format_exact", "own"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "bases").touch()
    with pytest.raises(UserError, match=r"training.base.folder: .* cannot be made"):
        base_training.ready(config_with_base(tmp_path))


@pytest.mark.parametrize("content", ["{}", '{"checkpoint":', '{"checkpoint": "../.."}'])
def test_a_damaged_record_of_its_end_is_named(tmp_path, content):
    (tmp_path / base_training.COMPLETE).write_text(content)
    with pytest.raises(UserError, match=r"complete\.json is damaged"):
        base_training._last(tmp_path)


@pytest.mark.slow
def test_trials_that_need_the_same_one_train_it_once(tmp_path, trainer):
    calls = trainer()
    configs = [config_with_base(tmp_path, f"model.lora_rank={rank}", "tags=[x]") for rank in (2, 4, 6)]
    with initialize_config_dir(str(CONF)), ThreadPoolExecutor(3) as pool:
        ready = [config.training for config in pool.map(base_training.ready, configs)]
    assert {one.init_from for one in ready} == {ready[0].init_from}
    assert Path(str(ready[0].init_from)).parts[-2:] == ("checkpoints", "00000007")
    assert all(one.base is None for one in ready)
    (call,) = calls.read_text().splitlines()
    assert call.startswith("-m pipelines.train ")
    assert "tracking.uri=" in call
    other = base_training.ready(config_with_base(tmp_path, "model.width=32"))
    assert other.training.init_from != ready[0].init_from
    assert len(calls.read_text().splitlines()) == 2


@pytest.mark.slow
def test_it_is_no_process_of_the_trials(tmp_path, trainer, monkeypatch):
    seen = trainer(f"env > {tmp_path}/environment")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("TRIALFLEET_RUN", "/a/trials/run")
    base_training.ready(config_with_base(tmp_path))
    assert seen.exists()
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert not names & set(base_training.OF_A_JOB)
    assert "PATH" in names


@pytest.mark.slow
def test_one_that_fails_says_why_and_where(tmp_path, trainer):
    trainer("echo error: training.global_batch: too large; exit 2")
    with pytest.raises(UserError) as refused:
        base_training.ready(config_with_base(tmp_path))
    assert "error: training.global_batch: too large" in refused.value.message
    assert "output.log" in refused.value.fix
    assert "python -m pipelines.train " in refused.value.fix


@pytest.mark.slow
def test_a_request_to_stop_reaches_it_and_the_next_run_goes_on_in_its_folder(tmp_path, trainer):
    calls = trainer("sleep 60 & wait")
    with pytest.raises(Preempted):
        base_training.ready(config_with_base(tmp_path), lambda: Stop.PREEMPT if calls.exists() else None)
    assert calls.read_text().splitlines()[-1] == "stopped"
    trainer("true")
    base_training.ready(config_with_base(tmp_path))
    first, _, second = calls.read_text().splitlines()
    assert first == second  # the same folder, in which a training goes on
    assert len(list((tmp_path / "bases").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.base.same=[modle]"], "training.base.same: .*modle"),
        (["++training.base.overrides.training.max_stepz=3"], "training.base.overrides: .*max_stepz"),
        (["++training.base.overrides.training.max_epochs=0"], "training.base.overrides: training.max_epochs"),
        (["training.base.same=[problems]"], "training.base.same: problems is no key"),
        (["++training.base.overrides.dataset=null"], "training.base.overrides: Config group"),
        (["++training.base.overrides.dry_run=true"], "training.base.overrides: dry_run"),
        (["++training.base.overrides.workload=nothing"], "training.base.overrides: .*nothing"),
    ],
)
def test_one_that_could_not_train_is_refused_before_anything_begins(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        base_training.check(config_with_base(tmp_path, *words))
    assert not (tmp_path / "bases").exists()


def test_a_checkpoint_that_is_given_needs_none(tmp_path, trainer):
    calls = trainer()
    config = config_with_base(tmp_path, "training.init_from=somewhere")
    base_training.check(config)
    assert base_training.ready(config) is config
    assert not calls.exists()

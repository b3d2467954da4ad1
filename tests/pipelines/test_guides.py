"""The lines of the guides: each is translated into a command whose config loads, or refused with its reason."""

import contextlib
import json
import re
import runpy
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipelines.guides import listing, table
from pipelines.guides.translate import Command, translate
from tests.config.test_load import composed
from tests.training.harness import CONF
from tests.workloads.asr import speech_files
from tests.workloads.mvfoul import rendered
from trialfleet.config import Config
from trialfleet.errors import UserError

GUIDES = {name: table.load(name) for name in table.GUIDES}
LINES = [(name, line) for name, guide in GUIDES.items() for line in guide.lines]
SPEECH = "speech/list.jsonl"
REQUIRED = {"grpo": ["training.init_from=somewhere"], "asr": [f"dataset.train=[{SPEECH}]"]}
FILES = {  # what stands for files that a line wants
    "+experiment=grpo_full_training": ["dataset=sums"],
    "dataset.data_dir=/path/to/data": ["dataset.data_dir=clips", "dataset.size=32", "dataset.frames=8"],
}
# What takes minutes to compile at its own size.
SMALLER = {"model=mvit": "model=mvit_tiny", "model=resnet3d": "model=resnet3d_tiny"}
JSON = "configs/experiments/test_config.json"
# Of keys and members that the guides have and we do not, each one is here, so that the list can only shrink knowingly.
LEFT_OUT = {
    "asr": {
        "training.report_to": "warned",  # of all but MLflow
        "data.dataset_configs": "warned",
        "data.train_splits": "warned",
        "data.eval_splits": "warned",
        "data.sample_rate": "refused",  # but for 16000
    },
    "grpo": {
        "model.mesh_shape": "refused",
        "optimizer.schedule_type": "refused",
        "checkpoint_dir": "warned",
        "wandb.mode": "warned",
        "wandb.entity": "warned",
    },
    "mvfoul": {
        "experiment.use_wandb": "warned",
    },
}


def translated(name: str, line: str) -> Command:
    return translate(GUIDES[name], shlex.split(line))


def first_of_each(name: str, command: Command) -> list[str]:
    """The overrides of the command's config, the first value of each list that is swept, and what it must be told."""
    swept = {"-m", "--multirun"} & set(command.options)
    settled = [word for word in command.settled() if not word.startswith(("checkpoint=", "hydra."))]
    more = [*REQUIRED.get(name, []), *(word for typed in settled for word in FILES.get(typed, []))]
    if name == "mvfoul" and "dataset=mvfoul" not in settled:
        more += rendered.FEW
    return [*_first(settled, bool(swept)), *more]


def _first(words: list[str], swept: bool) -> list[str]:
    return [re.sub(r"^([^=]+=[^\[,]+),.*$", r"\1", word) if swept else word for word in words]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who has followed the guides: experiments of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/my_experiment.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /optimizer: adamw\noptimizer:\n  learning_rate: 1e-5\n"
        "training:\n  num_batches: 100\n  num_epochs: 2\nexperiment_name: my_experiment\ntags: [custom, testing]\n"
    )
    (tmp_path / "configs/hydra/experiments").mkdir(parents=True)
    (tmp_path / "configs/hydra/experiments/my_experiment.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: full\n  - override /training: default\n"
        "training:\n  output_dir: ./outputs/my_experiment\n  learning_rate: 3e-5\n  max_steps: 10000\n"
        "model:\n  lora_r: 16\n"
    )
    (tmp_path / JSON).parent.mkdir(parents=True)
    (tmp_path / JSON).write_text(
        json.dumps(
            {
                "dataset_name": SPEECH,
                "sample_rate": 16000,
                "learning_rate": 5e-5,
                "max_steps": 100,
                "per_device_train_batch_size": 2,
                "lora_target_modules": ["q_proj", "o_proj"],
                "resume_from_checkpoint": None,
                "load_best_model_at_end": True,
                "bf16": True,
            }
        )
    )
    speech_files.write(tmp_path / "speech", 40)
    rendered.as_files(tmp_path / "clips")
    (tmp_path / "conf/presets").mkdir()
    (tmp_path / "conf/presets/my_best_run.yaml").write_text("training:\n  max_epochs: 7\n")
    return tmp_path


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(("name", "line"), LINES)
def test_a_line_becomes_a_command_whose_config_loads_or_is_refused(name: str, line: str) -> None:
    if name == "grpo" and "my_experiment" in line:
        Path("configs/hydra/experiments/my_experiment.yaml").unlink()
    if name == "asr" and "my_experiment" in line:
        Path("conf/experiment/my_experiment.yaml").unlink()
    try:
        command = translated(name, line)
    except UserError as error:
        reason = str(error)
        assert "yet" in reason or "scheduler=polynomial" in reason  # either way is right
        return
    assert command.module in ("pipelines.train", "pipelines.evaluate", "pipelines.doctor")
    if command.module != "pipelines.doctor":
        assert isinstance(composed(*first_of_each(name, command)), Config)


@pytest.mark.slow
@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("name", GUIDES)
def test_what_a_line_would_train_can_be_built(name: str) -> None:
    """The dry run of every line: its model, data, mesh and steps."""
    from trialfleet import training

    described = {}
    for line in GUIDES[name].lines:
        with contextlib.suppress(UserError):  # refused, as the test above has it
            command = translated(name, line)
            words = [SMALLER.get(word, word) for word in first_of_each(name, command)]
            if command.module == "pipelines.train" and tuple(words) not in described:
                config = composed(*words, "mesh.data=1", "dry_run=true", "runtime.compilation_cache=null")
                described[tuple(words)] = training.describe(config)
    assert len(described) > 5
    assert all(f"workload    {name}" in text for text in described.values())


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("name", ["test", "mac_minimal", "production"])
def test_a_preset_of_the_guide_is_one_of_ours(name: str) -> None:
    """Both ways lead to the same training."""
    line = composed(*first_of_each("asr", translated("asr", f"train_hydra.py +experiments={name}")))
    preset = composed(f"+experiment=asr_{name}", *REQUIRED["asr"])
    assert replace(preset, experiment_name=line.experiment_name, tags=line.tags) == line


def test_what_has_no_meaning_here_is_known() -> None:
    assert {name: listing.left_out(guide) for name, guide in GUIDES.items()} == LEFT_OUT


# Members that have keys which the workload's own choice has not.
CHOICES = {
    "asr": ("scheduler=constant",),
    "grpo": ("optimizer=sgd", "dataset=gsm8k"),
    "mvfoul": (
        "dataset=mvfoul",
        "model=mvit",
        "class_balance=class_balanced",
        "freezing=mvfoul_scheduled",
        "optimizer=sgd",
    ),
}


@pytest.mark.parametrize("name", GUIDES)
def test_each_key_becomes_one_of_ours(name: str) -> None:
    """Whatever a line can say: the key that it becomes is in the workload's config, or chooses a member of a group."""
    base = [*GUIDES[name].always["pipelines.train"], *REQUIRED.get(name, [])]
    with initialize_config_dir(str(CONF)):
        configs = [compose("config", overrides=[*base, *extra]) for extra in ([], *([one] for one in CHOICES[name]))]
    targets = {key.partition("=")[0] for one in GUIDES[name].keys.values() for key in one.to or ()}
    nullable = {"freezing.rate_boost.factor"}
    for target in targets - {"checkpoint", "hydra.run.dir"} - nullable:
        parent, _, key = target.rpartition(".")
        nodes = [OmegaConf.select(config, parent) if parent else config for config in configs]
        assert any(node is not None and key in list(node) for node in nodes), target


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("grpo", "run_training.py ~training.gradient_clip", "training.gradient_clip=null"),
        ("grpo", "run_training.py training.num_batches=50 training.epochs=2", "training.max_steps=100"),
        ("grpo", "run_training.py -m 'training.num_batches=range(1,4)'", "training.max_steps=1,2,3"),
        ("grpo", "run_training.py optimizer.learning_rate=1e-6,3e-6 -m", "optimizer.learning_rate=1e-6,3e-6"),
        (
            "grpo",
            "run_training.py '+model.custom_params={hidden_size:512,num_layers:8}'",
            "model.width=512 model.layers=8",
        ),
        (
            "grpo",
            "agent-tunix train --learning-rate=1e-5 --lora-rank 4",
            "optimizer.learning_rate=1e-5 model.lora_rank=4",
        ),
        (
            "asr",
            "train_hydra.py training.per_device_train_batch_size=4 training.gradient_accumulation_steps=2",
            "training.per_device_batch=4 training.global_batch=8",
        ),
        ("mvfoul", "train_hydra.py experiment.fast_dev_run=false", ""),
        (
            "mvfoul",
            "train_hydra.py training.max_epochs=3 experiment.limit_train_batches=5",
            "training.max_epochs=3 training.limit_train_batches=5",
        ),
        (
            "mvfoul",
            "training/train.py --use_class_balanced_sampler --progressive_class_balancing",
            "class_balance=progressive",
        ),
        (
            "mvfoul",
            "training/train.py --progressive_class_balancing --use_class_balanced_sampler",
            "class_balance=progressive",
        ),
        (
            "mvfoul",
            "train_hydra.py sampling.use_class_balanced_sampler=True sampling.use_action_balanced_sampler=False",
            "class_balance=class_balanced",
        ),
        (
            "mvfoul",
            "train_hydra.py freezing.backbone_lr_ratio_after_half=0.4 freezing.enable_backbone_lr_boost=true",
            "'freezing.rate_boost={group:backbone,share:0.5,of_group:heads,factor:0.6}' freezing.rate_boost.factor=0.4",
        ),
        (
            "mvfoul",
            "train_hydra.py --config-name quick_test experiment.fast_dev_run=true dataset.batch_size=8",
            "training.max_epochs=2 training.limit_train_batches=10 training.max_steps=1 training.report_every=1 "
            "training.limit_eval_batches=1 training.global_batch=8",
        ),
        (
            "mvfoul",
            "train_hydra.py training.early_stopping_patience=5",
            "'training.early_stopping={patience:5,min_delta:0}'",
        ),
        ("grpo", "agent-tunix train --checkpoint-dir here --dry-run", ""),
        ("grpo", "agent-tunix evaluate --temperature 0.5", "evaluation.temperature=0.5"),
        ("grpo", "run_training.py -m training.num_batches=10,20 training.epochs=1,2", "training.max_steps=10,20,40"),
        ("asr", "train_hydra.py eval_checkpoint=null", ""),
        ("asr", "train_hydra.py training.resume_from_checkpoint=null", "training.resume=auto"),
        ("asr", "train_hydra.py training.resume_from_checkpoint=./out/run", "training.resume=./out/run"),
        (
            "asr",
            "train_hydra.py 'model.lora_target_modules=[q_proj,k_proj,v_proj]' model.lora_dropout=0.1",
            "'model.decoder.lora_module_path=.*q_einsum|.*kv_einsum' model.decoder.lora_dropout=0.1",
        ),
        ("asr", "train_hydra.py data.sample_rate=16000 training.report_to=mlflow", ""),
        ("asr", "train_hydra.py data.dataset_name=./speech", "dataset.train=[./speech]"),
        (
            "mvfoul",
            "train_hydra.py dataset.batch_size=8 -- training.max_steps=3 seed=2",
            "training.global_batch=8 training.max_steps=3 seed=2",
        ),
    ],
)
def test_a_line_means(name: str, line: str, expected: str) -> None:
    command = translated(name, line)
    own = shlex.split(expected)
    typed = {word.partition("=")[0] for word in own}
    always = [word for word in GUIDES[name].always[command.module] if word.partition("=")[0] not in typed]
    assert command.settled() == [*always, *own]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "training=production",
            {"training.global_batch=32", "training.per_device_batch=8", "training=asr_production"},
        ),
        ("training.max_steps=7 training=production", {"training.global_batch=32", "training.max_steps=7"}),
        ("training=production training.per_device_train_batch_size=4", {"training.global_batch=16"}),
        ("training.max_steps=7 +experiments=test", {"training.max_steps=7", "optimizer=asr_default"}),
        ("+experiments=test training=mac", {"training.max_steps=100", "training=asr_mac", "training.global_batch=16"}),
        ("+experiments=production", {"training.global_batch=32", "scheduler=asr_cosine"}),
    ],
)
def test_what_is_typed_wins_over_presets_in_any_order(line: str, expected: set[str]) -> None:
    assert expected <= set(translated("asr", f"train_hydra.py {line}").settled())


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("asr", "src/train_hydra.py training.lerning_rate=1", "did you mean training.learning_rate?"),
        ("asr", "hatch run train-tset", "no line of the guide asr begins so"),
        ("asr", "src/train.py", "has no experiment file"),
        ("asr", "src/train.py nowhere.json", "nowhere.json: there is no such file"),
        ("asr", "src/train_hydra.py model=larg", "the guide's group model has no larg; did you mean large?"),
        ("asr", "src/train_hydra.py 'training.max_steps=[1'", "is no override"),
        ("grpo", "run_training.py training.num_batches=many", "must be numbers"),
        ("grpo", "run_training.py --config-name", "--config-name: has no value"),
        ("grpo", "agent-tunix train --learning-rate", "--learning-rate: has no value"),
        ("grpo", "agent-tunix train --model-size 9b", "9b has no meaning here"),
        ("grpo", "run_training.py --quiet", "--quiet: is no option"),
        ("mvfoul", "train_hydra.py --config-path there --config-name quick_test", "fix: use --config-name, -cn, --cfg"),
        ("mvfoul", "training/train.py --backbone_l 1", "did you mean --backbone_lr?"),
        ("mvfoul", "training/train.py extra", "extra: is neither a flag nor the value of one"),
        ("mvfoul", "training/train.py --use_class_weights=false", "is a switch, which takes no value"),
        ("mvfoul", "train_hydra.py experiment.debug=maybe", "is a switch"),
        ("asr", "train_hydra.py +experiments=test,production -m", "presets cannot be swept"),
        ("asr", "train_hydra.py -m training=default,production", "cannot be swept together"),
        ("asr", "train_hydra.py data.sample_rate=8000", "hear 16 kHz"),
        ("asr", "train_hydra.py model.lora_target_modules=[q_pro]", "q_pro has no meaning here; did you mean q_proj?"),
        ("asr", "train_hydra.py ~model", "a group cannot be taken out"),
        ("asr", "train_hydra.py --config-name=", "--config-name: has no value"),
        ("asr", "train_hydra.py -m 'training.learning_rate=glob(*)'", "list the values"),
        ("grpo", "run_training.py -m 'training.num_batches=range(1,9,0)'", "list the values"),
        ("asr", "train_hydra.py model@other=tiny", "leave out @other"),
        ("grpo", "run_training.py training.num_batches=nan", "must be numbers above 0"),
        ("grpo", "run_training.py -m grpo.num_iterations=1,2", "would have to change together"),
    ],
)
def test_what_cannot_be_translated_is_named(name: str, line: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        translated(name, line)
    assert message in str(refused.value)


def test_the_flags_of_a_line_reach_its_translation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["guide", "--show", "grpo", "run_training.py", "--dry-run", "--info", "config-groups"]
    )
    runpy.run_module("pipelines.guide", run_name="__main__")
    expected = "python -m pipelines.train --dry-run --info config-groups +experiment=grpo_from_scratch\n"
    assert capsys.readouterr().out == expected


def test_what_a_file_lacks_is_named(tmp_path: Path) -> None:
    for content, message in (
        ("{", "cannot be read"),
        ("[1]", "is no mapping"),
        ('{"training": {"lr": 1}}', "has no training.lr"),
        ('{"defaults": "model"}', "defaults: is no list"),
        ('{"defaults": [{"model": ["tiny"]}]}', "is no member's name"),
    ):
        (tmp_path / "one.json").write_text(content)
        with pytest.raises(UserError, match=message):
            translate(GUIDES["asr"], ["train.py", str(tmp_path / "one.json")])


@pytest.mark.parametrize(
    ("name", "content"),
    [("deep.json", '{"a":' * 100_000), ("deep.yaml", "a: " + "[" * 5000), ("itself.yaml", "a: &a\n  b: *a\n")],
)
def test_a_file_that_is_nested_without_end_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=name):
        translate(GUIDES["asr"], ["train.py", str(tmp_path / name)])


def test_text_is_quoted_where_hydra_would_read_something_else(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"run_name": "a, b", "experiment_name": "it's", "output_dir": ""}))
    command = translate(GUIDES["asr"], ["train.py", str(tmp_path / "one.json")])
    words = [word for word in command.argv()[1:] if not word.startswith("hydra")]
    assert composed(*words, *REQUIRED["asr"]).experiment_name == "it's"
    assert "hydra.run.dir=''" in command.argv()

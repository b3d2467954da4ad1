"""python -m pipelines.evaluate [workload=NAME] [checkpoint=PATH|latest|STUDY/NUMBER] …: the scores of a checkpoint.

They are computed by the code that trials are judged by, with the config that the checkpoint was trained with; what is
typed changes it: +evaluation=greedy, split=test, training.limit_eval_batches=2. Prints a table (format=json: the
record), and leaves the record, samples and figures in the run's folder.
"""

import json
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from pipelines import cli
from pipelines.chosen_checkpoint import Chosen, choose, merged
from trialfleet.config.location import conf_directory
from trialfleet.errors import UserError

OWN = ("checkpoint", "split", "format")  # keys of conf/evaluate.yaml that no training has
SPLITS = ("train", "val", "test")
FORMATS = ("table", "json")
QUESTIONS = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i")  # for which no checkpoint is looked for


def task(cfg: DictConfig) -> None:
    """What Hydra calls."""
    cli.single(evaluate, cfg)


def evaluate(cfg: DictConfig) -> None:
    """Evaluate the checkpoint that the config names.

    Raises:
        UserError: the config is wrong, or does not fit the checkpoint.
    """
    from trialfleet.config import load

    for key, members in (("split", SPLITS), ("format", FORMATS)):
        if cfg[key] not in members:
            raise UserError(f"{key}: must be one of {', '.join(members)}, got {cfg[key]!r}")
    config = load(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in OWN]))
    from trialfleet import training
    from trialfleet.trial.sweep_run import LocalRun

    if config.dry_run:
        print(training.describe(config))
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    run = LocalRun(folder, lambda: False)
    try:
        metrics = training.evaluate(config, run, cfg.checkpoint, cfg.split)
    finally:
        run.close()
    files = sorted(path.name for path in run.artifacts.glob("*")) if run.artifacts.is_dir() else []
    record = {
        "workload": config.workload.name,
        "checkpoint": cfg.checkpoint,
        "step": int(Path(cfg.checkpoint).name),
        "split": cfg.split,
        "metrics": metrics,
        "files": [str(run.artifacts / name) for name in files],
    }
    text = json.dumps(record, indent=2)
    (folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    print(text if cfg.format == "json" else _table(record, folder))


def _table(record: dict[str, object], folder: Path) -> str:
    metrics = record["metrics"]
    assert isinstance(metrics, dict)
    width = max(map(len, metrics))
    return "\n".join(
        [
            f"{record['checkpoint']}, step {record['step']}, {record['split']}",
            *(f"  {name:{width}}  {value:.6g}" for name, value in sorted(metrics.items())),
            f"record: {folder / 'evaluation.json'}",
        ]
    )


def entry() -> None:
    """Find the checkpoint, say its training's overrides before those that are typed, and let Hydra compose."""
    words = sys.argv[1:]
    if not any(word.partition("=")[0] in QUESTIONS for word in words):
        chosen = _chosen(words)
        # The decoding presets are a group that is chosen already: +evaluation=greedy chooses another member.
        typed = [word.removeprefix("+") if word.startswith("+evaluation=") else word for word in words]
        typed = [word for word in typed if key(word) != "checkpoint"]
        sys.argv[1:] = merged(chosen.overrides, [*typed, f"checkpoint={quoted(str(chosen.folder))}"])
    hydra.main(config_path=str(conf_directory()), config_name="evaluate")(task)()


def _chosen(words: list[str]) -> Chosen:
    said = {key(word): text(word) for word in words if "=" in word}
    return choose(said.get("checkpoint", "latest"), said.get("workload", "asr"), Path.cwd())


def key(word: str) -> str:
    """The key of an override."""
    return word.lstrip("+~").partition("=")[0]


def text(word: str) -> str:
    """The value of an override, without the quotes that Hydra would take off."""
    value = word.partition("=")[2]
    try:
        parsed = OverridesParser.create().parse_override(word).value()
    except HydraException:  # Hydra says so itself, unless it is a path that only we read
        return value
    return parsed if isinstance(parsed, str) else value


def quoted(value: str) -> str:
    """A text as an override says it, whatever is in it."""
    return QuotedString(value, Quote.single).with_quotes()


if __name__ == "__main__":
    cli.main(entry)

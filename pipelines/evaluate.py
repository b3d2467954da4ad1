"""python -m pipelines.evaluate [workload=NAME] [checkpoint=PATH|latest|STUDY/NUMBER] …: the scores of a checkpoint.

They are computed by the code that trials are judged by, with the config that the checkpoint was trained with; what is
typed changes it: +evaluation=greedy, split=test, training.limit_eval_batches=2. Prints a table (format=json: the
record), and leaves the record, samples and figures in the run's folder.
"""

import json
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipelines import as_trained, cli
from pipelines.chosen_checkpoint import step_of

OWN = ("checkpoint", "split", "format")  # keys of conf/evaluate.yaml that no training has
MEMBERS = {"split": ("train", "val", "test"), "format": ("table", "json")}


def task(cfg: DictConfig) -> None:
    """What Hydra calls."""
    cli.single(evaluate, cfg)


def evaluate(cfg: DictConfig) -> None:
    """Evaluate the checkpoint that the config names.

    Raises:
        UserError: the config is wrong, or does not fit the checkpoint.
    """
    config = as_trained.checked(cfg, OWN, MEMBERS)
    from trialfleet import training
    from trialfleet.trial.sweep_run import LocalRun

    if config.dry_run:
        print(f"checkpoint  {cfg.checkpoint}, split {cfg.split}")
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
        "step": step_of(Path(cfg.checkpoint)),
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
    """Evaluate as the checkpoint was trained."""
    as_trained.run("evaluate", task)


if __name__ == "__main__":
    cli.main(entry)

"""python -m pipelines.export [workload=NAME] [checkpoint=PATH|latest|STUDY/NUMBER] to=FOLDER [form=merged|adapter] …

Writes a checkpoint's language model as others read it. merged: a folder that the library transformers loads, with the
adapters added into the weights. adapter: the adapters alone, as the library peft loads them. The config is that of the
training; what is typed changes it, such as the mesh. Refuses a folder that is there.
"""

from pathlib import Path

from omegaconf import DictConfig

from pipelines import as_trained, cli
from trialfleet.config.location import expanded
from trialfleet.errors import UserError

OWN = ("checkpoint", "to", "form", "dtype", "part_gb", "base")  # keys of conf/export.yaml that no training has
MEMBERS = {"form": ("merged", "adapter"), "dtype": ("float32", "bfloat16")}


def task(cfg: DictConfig) -> None:
    """What Hydra calls."""
    cli.single(export, cfg)


def export(cfg: DictConfig) -> None:
    """Write the checkpoint that the config names.

    Raises:
        UserError: the config is wrong, or does not fit the checkpoint.
    """
    config = as_trained.checked(cfg, OWN, MEMBERS, begun=cfg.form != "adapter")
    folder = _folder(cfg)
    from trialfleet import training
    from trialfleet.training import environment

    if config.dry_run:
        print(training.describe(config))
        return
    environment.prepare(config)  # before jax is imported, which reads it once
    from trialfleet.training.exporting import export as write
    from trialfleet.training.publishing import Order

    files = write(config, cfg.checkpoint, Order(folder, cfg.form, cfg.dtype, cfg.part_gb * 1e9, cfg.base))
    print(f"{cfg.checkpoint}, {cfg.form}, {cfg.dtype}: {files} file{'s' if files > 1 else ''} of weights in {folder}")


def _folder(cfg: DictConfig) -> Path:
    """Where to write."""
    if not isinstance(cfg.part_gb, int | float) or cfg.part_gb <= 0:
        raise UserError(f"part_gb: must be a number above 0, got {cfg.part_gb!r}", "say for example part_gb=5")
    if not isinstance(cfg.to, str) or not cfg.to.strip():
        raise UserError(f"to: must be a folder that is not there yet, got {cfg.to!r}", "add to=FOLDER")
    return expanded(cfg.to).absolute()


def entry() -> None:
    """Export as the checkpoint was trained."""
    as_trained.run("export", task)


if __name__ == "__main__":
    cli.main(entry)

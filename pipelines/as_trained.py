"""Commands about a checkpoint: what its training was told is said before what is typed now, which wins."""

import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf

from pipelines import base_training
from pipelines.chosen_checkpoint import TOLD, Chosen, choose, merged
from trialfleet.config.location import conf_directory
from trialfleet.errors import UserError

if TYPE_CHECKING:
    from trialfleet.config import Config

DECODING = {"asr_decoder": "transcription"}  # by workload, the group of its decoding presets; else evaluation
QUESTIONS = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i")  # for which no checkpoint is looked for


def run(name: str, task: Callable[[DictConfig], None]) -> None:
    """Find the checkpoint, say its training's overrides first, and let Hydra compose.

    Args:
        name: the file of conf/ that the command begins with.
        task: what Hydra is to call.
    """
    words = sys.argv[1:]
    if not any(word.partition("=")[0] in QUESTIONS for word in words):
        chosen = _chosen(words)
        if not (told := chosen.folder.parent.parent / TOLD).is_file():
            print(
                f"note: {told} is missing, so that nobody knows what the training was told: the config is the "
                "defaults and what is typed",
                file=sys.stderr,
            )
        # The decoding presets are a group that is chosen already: +evaluation=greedy chooses another member.
        group = DECODING.get(str(chosen.workload), "evaluation")
        typed = [f"{group}={text(word)}" if word.startswith("+evaluation=") else word for word in words]
        typed = [word for word in typed if key(word) != "checkpoint"]
        sys.argv[1:] = merged(chosen.overrides, [*typed, f"checkpoint={quoted(str(chosen.folder))}"])
    try:
        hydra.main(config_path=str(conf_directory()), config_name=name)(task)()
    except ConfigCompositionException as error:
        if "Could not override 'evaluation'" not in str(error):
            raise
        raise UserError(
            "evaluation: this workload's scores need no decoding that could be chosen",
            "leave it out; workload=grpo and workload=asr_decoder have presets of it",
        ) from error


def checked(
    cfg: DictConfig, own: Collection[str], members: Mapping[str, Collection[str]], begun: bool = True
) -> "Config":
    """The training's config, without the keys of the command.

    Args:
        own: keys of the command, which no training has.
        members: what some of them must be one of.
        begun: whether what the training began from is needed, too.

    Raises:
        UserError: naming the key.
    """
    from trialfleet.config import load

    for name, choices in members.items():
        if cfg[name] not in choices:
            raise UserError(
                f"{name}: must be one of {', '.join(choices)}, got {cfg[name]!r}", f"give one of them: {name}=…"
            )
    config = load(OmegaConf.masked_copy(cfg, [str(each) for each in cfg if each not in own]))
    return config if config.dry_run or not begun else base_training.ready(config)


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

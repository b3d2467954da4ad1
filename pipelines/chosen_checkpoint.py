"""Which checkpoint a person means, found by files alone."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from trialfleet.config.location import expanded
from trialfleet.errors import UserError
from trialfleet.trial import records

TRIAL = re.compile(r"(?P<study>[^/]+)/(?P<number>\d+)")
TOLD = Path(".hydra", "overrides.yaml")  # in a training's folder
PLACES = ("outputs", "sweeps")  # where trainings and studies lie


class Chosen(NamedTuple):
    """A whole checkpoint, and how it came to be.

    Attributes:
        folder: with manifest.json.
        overrides: of the training that saved it; none if it is not known.
        meta: the checkpoint's meta.json.
    """

    folder: Path
    overrides: list[str]
    meta: dict[str, object]

    @property
    def workload(self) -> object:
        """The name of its workload; None if it is not known."""
        return _workload_of(self.meta)


def choose(word: str, workload: str, place: Path) -> Chosen:
    """The checkpoint that a person means.

    Args:
        word: a folder: a checkpoint, one of checkpoints, or that of a training, of which the furthest is taken;
            'latest'; or STUDY/NUMBER, a trial whose best is taken.
        workload: of which 'latest' is.
        place: the folder that paths start from.

    Raises:
        UserError: there is none.
    """
    if not word.strip():
        raise UserError("checkpoint=: is empty", "give a folder, STUDY/NUMBER, or latest")
    folder = place / expanded(word)
    trial = TRIAL.fullmatch(word)
    if word == "latest":
        found = [one for base in PLACES for one in _whole((place / base).glob("**/checkpoints/*"))]
        mine = [one for one in found if _workload(one) == workload]
        if not mine:
            raise UserError(
                f"checkpoint=latest: no checkpoint of workload={workload} is under outputs/ or sweeps/ in {place}",
                "train first, or give its folder: checkpoint=PATH",
            )
        return _chosen(max(mine, key=_saved_at))
    if trial is not None and not folder.exists():
        return _chosen(_best_of_trial(word, trial, place))
    if not folder.is_dir():
        raise UserError(
            f"checkpoint={word}: there is no such folder in {place}",
            "give a folder such as outputs/…/checkpoints/00000900, STUDY/NUMBER, or latest",
        )
    if (folder / "manifest.json").is_file():  # itself a checkpoint, whatever it is called
        return _chosen(folder.resolve() if folder.is_symlink() else folder)
    within = _whole(folder.glob("*")) or _whole(folder.glob("checkpoints/*"))
    if within:
        return _chosen(max(within, key=lambda one: int(one.name)))
    within = _whole(folder.glob("**/checkpoints/*"))
    if not within:
        raise UserError(f"checkpoint={word}: holds no whole checkpoint", "give a folder that has a manifest.json")
    return _chosen(max(within, key=_saved_at))


def _best_of_trial(word: str, trial: re.Match[str], place: Path) -> Path:
    study = place / "sweeps" / trial["study"]
    if not study.is_dir():
        raise UserError(
            f"checkpoint={word}: there is no such folder in {place}, and no study {study}",
            "type it where the study was started, or give a folder such as outputs/…/checkpoints/00000900",
        )
    runs = study / "trials" / f"{int(trial['number']):05d}" / "runs"
    found = _whole(runs.glob("*/checkpoints/*"))
    if not found:
        having = sorted({int(one.parents[3].name) for one in _whole(study.glob("trials/*/runs/*/checkpoints/*"))})
        raise UserError(
            f"checkpoint={word}: {runs} has no checkpoint; a study keeps those of its best trials "
            "(hydra.sweeper.keep_checkpoints)",
            f"choose one of those that have: {', '.join(f'{study.name}/{number}' for number in having) or 'none yet'}",
        )
    scored = [one for one in found if _meta(one).get("score") is not None]
    if scored:
        return min(scored, key=lambda one: (records.number(_meta(one)["score"]), int(one.name)))
    return max(found, key=lambda one: int(one.name))


def _whole(folders: Iterable[Path]) -> list[Path]:
    """Those that are checkpoints which were saved to their end."""
    return [one for one in folders if one.name.isdecimal() and (one / "manifest.json").is_file()]


def _saved_at(folder: Path) -> float:
    return (folder / "manifest.json").stat().st_mtime


def _chosen(folder: Path) -> Chosen:
    return Chosen(folder, _overrides(folder.parent.parent), _meta(folder))


def _meta(folder: Path) -> dict[str, object]:
    """What the checkpoint says of itself; nothing where it is damaged, which is told when it is read as a whole."""
    try:
        return records.read(folder / "meta.json") or {}
    except records.Damaged:
        return {}


def step_of(folder: Path) -> int | None:
    """The step of a checkpoint; None if neither it nor its folder's name says so."""
    step = _meta(folder).get("step", folder.name)
    return int(step) if isinstance(step, int) or (isinstance(step, str) and step.isdecimal()) else None


def _workload(folder: Path) -> object:
    return _workload_of(_meta(folder))


def _workload_of(meta: dict[str, object]) -> object:
    signature = meta.get("signature")
    return signature.get("workload.name") if isinstance(signature, dict) else None


def _overrides(run: Path) -> list[str]:
    """What the training in this folder was told, without what is said of Hydra and of the place."""
    path = run / TOLD
    if not path.is_file():
        return []
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: cannot be read: {error}", "put it back, or remove it and type the overrides"
        ) from error
    return [
        word
        for word in (told if isinstance(told, list) else [])
        if isinstance(word, str) and not word.lstrip("+~").startswith("hydra")
    ]


def merged(recorded: Sequence[str], typed: Sequence[str]) -> list[str]:
    """The overrides that a training was told, and those that are typed now, which win."""
    keys = {word.lstrip("+~").partition("=")[0] for word in typed}
    return [*(word for word in recorded if word.lstrip("+~").partition("=")[0] not in keys), *typed]

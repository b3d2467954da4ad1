"""study.yaml: what a study is, so that a resume goes on with the same one or says what differs."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from os.path import relpath
from pathlib import Path, PurePath
from typing import Any
from uuid import uuid4

import yaml

from trialfleet.errors import UserError
from trialfleet.trial import records, secrets

SPACE = "space."  # begins the keys of an identity that are parameters, whose values are Optuna's JSON


@dataclass(frozen=True)
class StudyRecord:
    """A study's identity.

    Attributes:
        uid: what MLflow runs and Optuna trials are found by.
        folder: where the folder was when the study last ran; tells a copy from a move.
        seed: what the sampler of each trial is seeded from.
        identity: dotted keys with their values: the config without sampled keys, the space, the objectives.
        code: version of the code that the study's jobs run.
        former_uids: what the study was called before its folder was copied; its trials bear them still.
        format: of the records in the folder; version 1 did not say. Jobs of an older one cannot read today's.
    """

    uid: str
    name: str
    folder: str
    created: str
    seed: int
    sampler: str
    storage: str
    identity: dict[str, Any]
    code: dict[str, Any] = field(default_factory=dict)
    former_uids: list[str] = field(default_factory=list)
    format: int = 1

    @property
    def uids(self) -> list[str]:
        """The study's uid, and those that it had before."""
        return [self.uid, *self.former_uids]


def read(path: Path) -> StudyRecord | None:
    """The record in study.yaml, or None before the first run."""
    if not path.exists():
        return None
    try:
        found = yaml.safe_load(records.tail(path, records.MAX_BYTES))
        if not isinstance(found, dict):
            raise TypeError("it is empty" if found is None else "it is no mapping")
        if isinstance(found["name"], int | float):  # of an earlier version, whose user typed a number
            found["name"] = str(found["name"])
        record = StudyRecord(**found)
        for name, kind in _TYPES.items():
            if not isinstance(getattr(record, name), kind):
                raise TypeError(f"{name} is {getattr(record, name)!r}")
    except (yaml.YAMLError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: is no study record: {error}",
            "restore it from a copy, or start anew with hydra.sweeper.study.fresh=true",
        ) from None
    if record.format > records.FORMAT:
        raise UserError(f"{path}: was written by a newer version of trialfleet", "resume the study with that one")
    return record


_TYPES = {
    **dict.fromkeys(("uid", "name", "folder", "created", "sampler", "storage"), str),
    **dict.fromkeys(("seed", "format"), int),
    **dict.fromkeys(("identity", "code"), dict),
    "former_uids": list,
}


def write(path: Path, record: StudyRecord) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w") as file:
        yaml.safe_dump(asdict(record), file, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def create(
    name: str, folder: Path, seed: int, sampler: str, storage: str, identity: Mapping[str, Any], code: Mapping[str, Any]
) -> StudyRecord:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = (uuid4().hex, name, str(folder), now, seed, sampler, storage, dict(identity), dict(code))
    return StudyRecord(*made, format=records.FORMAT)


def archive_of(folder: Path) -> Path:
    """Where a study's folder is packed to, if nothing else is said: beside it."""
    return folder.with_name(f"{folder.name}.tar.gz")


def at_home(record: StudyRecord, folder: Path) -> StudyRecord:
    """The record as it must be in `folder`: a moved folder keeps its uid, a copied one gets a new one."""
    if record.folder == str(folder):
        return record
    if same_folder(Path(record.folder), folder):  # its path goes through a symbolic link, now or before
        return replace(record, folder=str(folder))
    other = read(Path(record.folder) / "study.yaml")
    if other is not None and other.uid == record.uid:
        return replace(record, uid=uuid4().hex, folder=str(folder), former_uids=[*record.former_uids, record.uid])
    return replace(record, folder=str(folder))


def same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same folder."""
    try:
        return one == other or one.samefile(other)
    except FileNotFoundError:
        return False


def accept(record: StudyRecord, identity: Mapping[str, Any], allowed: Sequence[str]) -> StudyRecord:
    """The record with what changed by permission.

    Args:
        identity: that of the command that wants to resume the study.
        allowed: dotted keys, or parents of them, that may differ.

    Raises:
        UserError: the command describes another study; it shows each difference.
    """
    refused = [key for key in differences(record.identity, identity) if not covered(key, allowed)]
    if refused:
        sides = record.identity, identity
        lines = [f"    {key}: {' → '.join(shown_of(side, key) for side in sides)}" for key in refused]
        raise UserError(
            f"study {record.name!r} was started with other settings:\n" + "\n".join(lines),
            "give them as they were; or allow it with 'hydra.sweeper.study.allow_changes=[" + ",".join(refused) + "]'; "
            "or start anew with hydra.sweeper.study.fresh=true or another hydra.sweeper.study_name",
        )
    return replace(record, identity=dict(identity))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ, or that only one side has."""
    keys = [*old, *(key for key in new if key not in old)]
    return [key for key in keys if (key in old, repr(old.get(key))) != (key in new, repr(new.get(key)))]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping of dotted keys."""
    items: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{_key(key)}"
        if isinstance(value, Mapping) and value:
            items |= flat(value, f"{name}.")
        else:
            items[name] = value
    return items


def recordable(value: Any) -> Any:
    """A value of a config as YAML has it: structured configs may hold enums and paths. Without passwords."""
    if isinstance(value, str):
        return secrets.masked(value)
    if value is None or (isinstance(value, bool | int | float | bytes) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Mapping):
        return {_key(key): recordable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [recordable(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, PurePath):
        return str(value)
    return type(value).__qualname__  # the text of an object may have its address in memory


def _key(key: Any) -> Any:
    return key.name if isinstance(key, Enum) else key


def covered(key: str, parents: Sequence[str]) -> bool:
    """Whether a dotted key is one of `parents`, or below one of them."""
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def shown_of(values: Mapping[str, Any], key: str) -> str:
    """The same of a key that one may not have."""
    return shown(key, values[key]) if key in values else "(not there)"


def shown(key: str, value: Any) -> str:
    """A value of an identity for people: of a parameter, what is searched over as it is written in a space."""
    if key.startswith(SPACE):
        # Whoever reads a study without these starts in half of the time.
        from optuna.distributions import json_to_distribution

        from trialfleet.sweep.study.search_space import in_words

        with contextlib.suppress(ValueError, KeyError, TypeError):
            return in_words(json_to_distribution(value))
    return secrets.masked(repr(value))


def is_of(folder: Path, uid: str) -> bool:
    """Whether the folder holds the study of this uid, or one that was copied from it."""
    try:
        record = read(folder / "study.yaml")
    except UserError:
        return True  # it cannot be told: better to ask than to take a study from its folder
    return record is not None and uid in record.uids


def check_storage(record: StudyRecord, storage: str, allowed: bool) -> None:
    """A study lives in one storage: another one would know nothing of its trials and number new ones like them.

    Args:
        storage: that of the command, as `store.described` has it.
        allowed: whether the user permits another address of it, or has the study made anew there.

    Raises:
        UserError: it is another one than the study's.
    """
    if record.storage == storage or allowed:
        return
    if record.format == 1 and storage.startswith("{"):
        return  # of a node the earlier version recorded the class of the config alone
    if record.format == 1 and record.storage in (storage, storage.replace(f"sqlite:///{Path.cwd()}/", "sqlite:///")):
        return  # it was recorded as it was typed
    raise UserError(
        f"study {record.name!r} is in the storage {_named(record.storage)}, and this command names {_named(storage)}",
        f"give hydra.sweeper.storage={record.storage}; or if it is the same one under another address, allow it with "
        "'hydra.sweeper.study.allow_changes=[hydra.sweeper.storage]'; or make the study anew there from its folder "
        "with hydra.sweeper.study.rebuild=true",
    )


def check_script(
    record: StudyRecord, script: Path, folder: Path, digest: Callable[[], str], allowed: Sequence[str]
) -> None:
    """A study is named after its script, and another one may have the same name.

    A script that was moved or renamed is no other one; nor is one that is where it was as seen from the study, or that
    comes with the same code.

    Args:
        script: the file of the command's task function.
        folder: of the study.
        digest: tells that of today's code.
        allowed: what may differ.

    Raises:
        UserError: it is another script than the study's.
    """
    if "script" not in record.code or {"script", "code"} & set(allowed):
        return
    before = Path(record.code["script"])
    moved = not before.is_file() or relpath(before, record.folder) == relpath(script, folder)
    if before == script or moved or digest() == record.code.get("digest"):
        return
    raise UserError(
        f"study {record.name!r} was started by another script:\n    {before} → {script}",
        "give this one a study of its own with hydra.sweeper.study_name; if it is the same application, "
        "'hydra.sweeper.study.allow_changes=[script]' goes on with the study's copy of the code, [code] with today's",
    )


METRICS = "hydra.sweeper.metric"  # the key of an identity that is no key of the application's


def check_metrics(
    record: StudyRecord, metrics: Sequence[str], key: str, has_values: Callable[[], bool], allowed: Sequence[str]
) -> StudyRecord:
    """The record with the objectives' names; they are refused where the values so far are another metric's.

    Args:
        metrics: names of the command's objectives.
        key: what names them on the command line.
        has_values: tells whether the study has any value yet; without one the names may change.
        allowed: dotted keys, or parents of them, that may differ.

    Raises:
        UserError: the study has values, of another metric.
    """
    before = record.identity.get(METRICS, metrics)  # earlier versions did not write it
    if before != metrics and not covered(key, allowed) and has_values():
        was, now = (
            str(names[0]) if len(names) == 1 else f"[{','.join(map(str, names))}]" for names in (before, metrics)
        )
        raise UserError(
            f"{key}: the values that study {record.name!r} has are those of {was}, and this command names {now}",
            f"give {key}={was}; if these are the same values under another name, allow it with "
            f"'hydra.sweeper.study.allow_changes=[{key}]'; or begin another study, with hydra.sweeper.study.fresh=true "
            "or another hydra.sweeper.study_name",
        )
    return replace(record, identity={**record.identity, METRICS: list(metrics)})


def _named(storage: str) -> str:
    return "in its own folder (null)" if storage == "null" else storage

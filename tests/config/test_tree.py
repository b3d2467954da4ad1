"""The tree of conf/: every member composes and loads. That every key has a reader, the whole run says (reads.py)."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from tests.config.test_load import composed
from trialfleet.config import Config

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
GENERAL = ("optimizer", "scheduler", "freezing", "mesh", "runtime")  # groups of which any workload takes any member
WORKLOADS = sorted(path.stem for path in (CONF / "workload").glob("*.yaml"))
PRESETS = {
    "grpo_full_training": ["dataset.train_path=somewhere", "model.weights=somewhere"],
    "mvfoul_production": ["dataset.data_dir=."],
    "asr_few_recordings": ["dataset.train=[somewhere]", "model.encoder.weights=somewhere"],
    **{f"asr_{name}": ["dataset.train=[somewhere]"] for name in ("test", "mac_minimal", "production")},
}
REQUIRED = {
    "grpo": ["training.init_from=somewhere"],
    "asr_decoder": ["dataset.train=[somewhere]"],
}  # what a user must say


def schemas(root: type, seen: set[type] | None = None) -> set[type]:
    """All dataclasses that a schema is made of."""
    seen = set() if seen is None else seen
    if root not in seen and dataclasses.is_dataclass(root):
        seen.add(root)
        for hint in get_type_hints(root).values():
            for part in parts(hint):
                schemas(part, seen)
    return seen


def parts(hint: object) -> Iterator[type]:
    if isinstance(hint, type) and not get_args(hint):
        yield hint
    for argument in get_args(hint):
        yield from parts(argument)


def workload(name: str) -> Config:
    return composed(f"workload={name}", *REQUIRED.get(name, []))


ALL = set().union(*(schemas(type(workload(name))) for name in WORKLOADS))


@pytest.mark.parametrize(
    "override", [f"{group}={path.stem}" for group in GENERAL for path in sorted((CONF / group).glob("*.yaml"))]
)
def test_every_member_of_a_general_group_loads(override):
    assert isinstance(composed(override), Config)


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "experiment").glob("*.yaml"))])
def test_every_preset_loads(name):
    config = composed(f"+experiment={name}", *PRESETS.get(name, []))
    assert config.experiment_name == name


def defaults_lists() -> Iterator[tuple[str, list[Any]]]:
    """Each file of conf/ and of the package's configs that builds on others, and what it builds on."""
    for folder in (CONF, ROOT / "src" / "trialfleet" / "conf"):
        for path in sorted(folder.rglob("*.yaml")):
            content = yaml.safe_load(path.read_text()) or {}
            if "defaults" in content and len(content) > 1:
                yield str(path.relative_to(ROOT)), content["defaults"]


@pytest.mark.parametrize(("name", "defaults"), list(defaults_lists()))
def test_a_file_overrides_what_it_builds_on(name, defaults):
    """`_self_` is last; in the base of every command alone it is first: all that is chosen there overrides it."""
    assert defaults.index("_self_") == (0 if name == "conf/config.yaml" else len(defaults) - 1)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_chosen_optimizer_brings_its_own_rate(name):
    config = composed(f"workload={name}", "optimizer=sgd", *REQUIRED.get(name, []))
    assert (
        config.optimizer.learning_rate == yaml.safe_load((CONF / "optimizer" / "sgd.yaml").read_text())["learning_rate"]
    )
    assert all(group.learning_rate is None for group in config.optimizer.groups.values())


def test_no_default_hides_in_the_schema():
    for schema in ALL:
        for field in dataclasses.fields(schema):
            assert field.default is dataclasses.MISSING, f"{schema.__name__}.{field.name}"
            assert field.default_factory is dataclasses.MISSING, f"{schema.__name__}.{field.name}"

"""The private names of Hydra: which of them are there, and that what is made of them does what it promises."""

import copy
import importlib
import pickle
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution

from tests.compat.versions import gone, locked
from tests.conftest import Composed
from trialfleet.compat.hydra import (
    SEEN,
    RememberingLoader,
    _own_parse,
    _parsed,
    compose_quickly,
    failure_of,
    forget_files,
    read_search_path_again,
    remembered_loader,
    set_singletons,
)
from trialfleet.sweep.study import search_space


def test_the_locked_version_was_seen() -> None:
    assert locked("hydra-core") in SEEN, "if all else here passes with it, add it to SEEN in compat/hydra.py"


def test_the_private_names_are_there(tmp_path: Path, composed: Composed) -> None:
    (tmp_path / "config.yaml").write_text("lr: 0.1\n")
    loader = composed(tmp_path)[0].config_loader
    module = importlib.import_module("hydra._internal.config_repository")
    assert hasattr(module, "ConfigRepository"), gone("hydra-core", "hydra._internal's ConfigRepository", SEEN)
    names = ("repository", "_active_repository", "config_search_path")
    for name in (*names, "_parse_overrides_and_create_caching_repo", "_compose_config_from_defaults_list"):
        assert hasattr(loader, name), gone("hydra-core", f"ConfigLoaderImpl.{name}", SEEN)
    plugins = Plugins.instance()
    assert set(vars(plugins)) == {"plugin_type_to_subclass_list", "class_name_to_class", "stats"}
    assert Singleton._instances[Plugins] is plugins
    assert hasattr(JobReturn(), "_return_value"), gone("hydra-core", "JobReturn._return_value", SEEN)


def test_an_override_that_was_parsed_before_is_the_same_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OverridesParser, "parse_rule", _own_parse)
    texts = ["a=[1,{b: 2}]", "+model@x=tiny", "~c", "d=interval(0,1)", "e=choice(1,2)", "f='a b'"]
    theirs = OverridesParser.create().parse_overrides(texts)
    monkeypatch.setattr(OverridesParser, "parse_rule", _parsed)
    first, second = (OverridesParser.create().parse_overrides(texts) for _ in range(2))
    assert repr(first) == repr(second) == repr(theirs)
    first[0]._value.append("more")
    assert repr(second) == repr(OverridesParser.create().parse_overrides(texts)) == repr(theirs)
    functions = create_functions()
    functions.functions.pop("choice")
    functions.definitions.pop("choice")
    functions.register("choice", lambda first, second: first + second)
    assert OverridesParser(functions).parse_override("e=choice(1,2)").value() == 3  # somebody's own functions count
    for _ in range(2):  # what is wrong is said each time
        with pytest.raises(HydraException, match="a=\\["):
            OverridesParser.create().parse_overrides(["a=["])


def test_what_a_parser_of_other_functions_reads_and_what_is_new_each_time_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OverridesParser, "parse_rule", _parsed)
    assert search_space.parse(["a=choice(null,1)"]).distributions == {"a": CategoricalDistribution([None, 1])}
    assert not search_space.parse(["a=choice(x,y)"]).fixed
    with pytest.raises(HydraException, match="choice"):
        OverridesParser.create().parse_override("a=choice(null,1)")
    orders = [OverridesParser.create().parse_override(f"a=shuffle({list(range(50))})").value() for _ in range(2)]
    assert orders[0] != orders[1]


def test_a_loader_reads_its_search_path_again(tmp_path: Path, composed: Composed) -> None:
    for folder, size in (("one", 1), ("two", 2)):
        (tmp_path / folder / "model").mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text("lr: 0.1\n")
        (tmp_path / folder / "model" / "tiny.yaml").write_text(f"size: {size}\n")
    context, config = composed(tmp_path / "one")
    loader = context.config_loader

    def size() -> int:
        return int(loader.load_sweep_config(config, ["+model=tiny"]).model.size)

    for element in loader.get_search_path().get_path():
        element.path = element.path and element.path.replace(str(tmp_path / "one"), str(tmp_path / "two"))
    assert size() == 1, "Hydra sees a changed search path by itself: read_search_path_again has nothing to do"
    read_search_path_again(loader)
    assert size() == 2


def test_a_loader_forgets_what_it_read_and_reads_it_again(tmp_path: Path, composed: Composed) -> None:
    (tmp_path / "config.yaml").write_text("lr: 0.1\npassword: s3cret-in-a-file\n")
    context, config = composed(tmp_path)
    loader = copy.copy(context.config_loader)
    assert b"s3cret-in-a-file" in pickle.dumps(loader), "Hydra keeps no files any more: forget_files has nothing to do"
    forget_files(loader)
    assert b"s3cret-in-a-file" not in pickle.dumps(loader)
    assert loader.load_sweep_config(config, ["lr=0.5"]).lr == 0.5


def test_a_loader_that_keeps_nothing_is_left_alone() -> None:
    class Loader:
        pass

    loader = Loader()
    forget_files(loader)
    assert vars(loader) == {}


def test_a_failed_job_says_what_it_failed_of_and_nothing_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("no")
    failed = JobReturn(cfg=DictConfig({}), status=JobStatus.FAILED)
    failed.return_value = error
    assert failure_of(failed) is error
    assert capsys.readouterr().err == ""
    assert str(failure_of(pickle.loads(pickle.dumps(failed)))) == "no"  # from a launcher's other process


GROUPS = {
    "config.yaml": "defaults:\n  - model: small\n  - head@extra: ${model}\n  - _self_\nlr: 0.1\nwidth: ${model.width}\n"
    "list: [1]\ninner:\n  size: 1\n",
    "model/small.yaml": "width: 1\n",
    "model/large.yaml": "defaults:\n  - /opt: sgd\nwidth: 2\n",
    "head/small.yaml": "bias: false\n",
    "head/large.yaml": "bias: true\n",
    "more/deep.yaml": "# @package _global_\ninner:\n  depth: 3\n",  # changes what another file brought
    "opt/sgd.yaml": "momentum: 0.9\n",
    "opt/adam.yaml": "beta: 0.99\n",
}
OVERRIDES = [
    [],
    ["lr=0.5"],
    ["lr=0.5", "model=large"],
    ["model=large", "model.width=7"],
    ["model=large", "opt@model.opt=adam"],
    ["+opt=adam", "lr=1"],
    ["+new.key=3", "~lr"],
    ["list=[2,3]", "hydra.sweep.subdir=5"],
    ["+more=deep"],
    ["head@extra=large"],
    ["hydra.searchpath=[file://elsewhere]", "model=other"],
    ["lr=0.25"],
]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program's config folder, and another one with a model more."""
    for name, content in {
        **{f"conf/{name}": text for name, text in GROUPS.items()},
        "elsewhere/model/other.yaml": "width: 9\n",
        "elsewhere/head/other.yaml": "bias: 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "conf"


@pytest.mark.slow
def test_a_remembering_loader_composes_what_hydras_composes(groups: Path, composed: Composed) -> None:
    """Each config twice, so that one comes from memory; and none is changed by what is done to another."""
    context, config = composed(groups)
    loader = RememberingLoader(context.config_loader)  # type: ignore[arg-type]  # Hydra's own
    for overrides in [*OVERRIDES, *reversed(OVERRIDES)]:
        expected = context.config_loader.load_sweep_config(config, overrides)
        found = loader.load_sweep_config(config, overrides)
        assert found == expected, overrides
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)  # the order of the keys, too
        assert OmegaConf.get_type(found, "hydra") is OmegaConf.get_type(expected, "hydra")
        assert OmegaConf.is_struct(found)
        OmegaConf.set_struct(found, False)
        found.model, found["of a task"] = None, 1


def test_a_remembering_loader_composes_from_the_files_as_they_were(groups: Path, composed: Composed) -> None:
    context, config = composed(groups)
    loader = RememberingLoader(context.config_loader)  # type: ignore[arg-type]  # Hydra's own
    assert loader.load_sweep_config(config, ["lr=1"]).model.width == 1
    (groups / "model" / "small.yaml").write_text("width: 100\n")
    assert loader.load_sweep_config(config, ["lr=2"]).model.width == 1
    assert context.config_loader.load_sweep_config(config, ["lr=2"]).model.width == 100


@pytest.mark.parametrize("overrides", [["modle=small"], ["model=absent"], ["no.such=1"], ["hydra/launcher=absent"]])
def test_a_remembering_loader_refuses_what_hydras_refuses(
    overrides: list[str], groups: Path, composed: Composed
) -> None:
    context, config = composed(groups)
    loader = RememberingLoader(context.config_loader)  # type: ignore[arg-type]  # Hydra's own
    for _ in range(2):
        with pytest.raises(HydraException) as expected:
            context.config_loader.load_sweep_config(config, overrides)
        with pytest.raises(HydraException) as found:
            loader.load_sweep_config(config, overrides)
        assert (type(found.value), str(found.value)) == (type(expected.value), str(expected.value))


def test_only_the_launcher_that_composes_in_this_process_remembers(groups: Path, composed: Composed) -> None:
    class Subclass(BasicLauncher):
        """May do anything with its context."""

    context, _ = composed(groups)
    for launcher, remembers in ((BasicLauncher(), True), (Subclass(), False)):
        launcher.hydra_context = context
        compose_quickly(launcher)
        assert isinstance(launcher.hydra_context.config_loader, RememberingLoader) == remembers
    assert not isinstance(context.config_loader, RememberingLoader)  # jobs elsewhere get it


def test_a_process_has_one_remembering_loader_of_a_name(groups: Path, composed: Composed) -> None:
    first: Any = composed(groups)[0].config_loader
    second = copy.copy(first)
    found = remembered_loader(first, str(groups))
    assert isinstance(found, RememberingLoader)
    assert remembered_loader(second, str(groups)) is found
    assert remembered_loader(second, "another") is not found
    users = object()
    assert remembered_loader(users, str(groups)) is users


def test_singletons_of_another_process_come_with_the_plugins_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    own, state = Plugins.instance(), Singleton.get_state()
    assert Plugins not in state["instances"], "Hydra sends plugins along: set_singletons has nothing to do"
    monkeypatch.setattr(Plugins, "_initialize", lambda self: pytest.fail("plugins were looked for again"))
    before = Singleton._instances
    try:
        set_singletons(state)
        assert Plugins.instance() is own
        assert Singleton._instances.keys() == before.keys()
        assert Plugins not in state["instances"]
    finally:
        Singleton._instances = before

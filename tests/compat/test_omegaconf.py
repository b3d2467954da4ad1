"""The private names of OmegaConf: which of them are there, and that quick copies are the same as its own."""

import copy
import enum
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.base import Metadata, Node
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import MissingMandatoryValue

from tests.compat.versions import gone, locked
from trialfleet.compat.omegaconf import SEEN, VALUES, _own_content, be_quick


class Color(enum.Enum):
    RED = 1


@dataclass
class Inner:
    path: Path = Path("a")
    width: int | str = 1
    raw: bytes = b"x"
    color: Color = Color.RED
    word: Literal["a", "b"] = "a"


@dataclass
class Schema:
    inner: Inner = field(default_factory=Inner)
    several: list[Inner] = field(default_factory=lambda: [Inner()])
    by_name: dict[str, float] = field(default_factory=lambda: {"a": 0.5})
    missing: int = MISSING
    nothing: Inner | None = None
    other: Any = "${inner.width}"


def config() -> DictConfig:
    made = OmegaConf.create(
        {
            "typed": OmegaConf.structured(Schema),
            "plain": {"a": [1, 2.5, None, True, {"b": "text"}], "to": "${plain}", "all": "${plain.a}", "none": None},
            "cached": "${compat_counts:}",
        }
    )
    OmegaConf.set_readonly(made.typed, True)
    OmegaConf.set_struct(made.plain, True)
    assert made.cached == made.cached  # from the cache
    assert made.typed._get_flag("struct") is None  # which fills the cache of flags
    return made


@pytest.fixture(autouse=True)
def resolver() -> None:
    numbers = iter(range(1000))
    OmegaConf.register_resolver("compat_counts", lambda: next(numbers), use_cache=True, replace=True)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """OmegaConf's own copies, until the test begins to copy quickly."""
    for kind in (*VALUES, DictConfig, ListConfig):
        monkeypatch.setattr(kind, "__deepcopy__", kind.__deepcopy__)
    monkeypatch.delattr(Metadata, "__deepcopy__", raising=False)
    monkeypatch.setattr(BaseContainer, "_to_content", staticmethod(_own_content))


def parts(node: Node, of: Node | None = None) -> Any:
    """A node and all below it, taken apart; whether each one's parent is the node above it."""
    own = {name: value for name, value in vars(node).items() if name not in ("_content", "_parent", "_metadata")}
    content = vars(node).get("_content")
    below: Any = content
    if isinstance(content, dict):
        below = {key: parts(child, node) for key, child in content.items()}
    elif isinstance(content, list):
        below = [parts(child, node) for child in content]
    elif isinstance(content, Node):
        below = parts(content, node)
    return type(node), own, vars(node._metadata), node._get_parent() is of, below


def nodes(node: Any) -> list[Node]:
    content = vars(node).get("_content")
    children = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return [node, *(found for child in children for found in nodes(child))]


def test_the_locked_version_was_seen() -> None:
    assert locked("omegaconf") in SEEN, "if all else here passes with it, add it to SEEN in compat/omegaconf.py"


def test_the_private_names_are_there() -> None:
    made = config()
    assert set(vars(made)) == {"_metadata", "_flags_cache", "_parent", "_content"}, gone("omegaconf", "parts", SEEN)
    assert set(vars(made._get_node("cached"))) == {"_metadata", "_flags_cache", "_parent", "_val"}
    assert set(vars(made._metadata)) == {
        *("ref_type", "object_type", "optional", "key", "flags", "flags_root", "resolver_cache"),
        *("key_type", "element_type"),
    }, gone("omegaconf", "Metadata's fields", SEEN)


@pytest.mark.usefixtures("own")
def test_quick_copies_are_the_same_ones() -> None:
    made = config()
    below = made.plain.a  # whose parent is shared, as OmegaConf does it
    theirs, theirs_below = copy.deepcopy(made), copy.deepcopy(below)
    be_quick()
    ours, ours_below = copy.deepcopy(made), copy.deepcopy(below)
    assert parts(ours) == parts(theirs) == parts(made)
    assert parts(ours_below, made.plain) == parts(theirs_below, made.plain)
    assert ours.cached == made.cached
    assert isinstance(ours._metadata.resolver_cache, defaultdict)


@pytest.mark.usefixtures("own")
def test_a_quick_copy_shares_nothing_that_changes() -> None:
    be_quick()
    made = config()
    copied = copy.deepcopy(made)
    for before, after in zip(nodes(made), nodes(copied), strict=True):
        assert before is not after
        assert before._metadata is not after._metadata
        assert before._metadata.flags is not after._metadata.flags or before._metadata.flags is None
        assert before._metadata.resolver_cache is not after._metadata.resolver_cache
    OmegaConf.set_readonly(copied.typed, False)
    copied.typed.inner.width = 3
    copied.plain.a[4].b = "other"
    assert OmegaConf.is_readonly(made.typed)
    assert made.typed.inner.width == 1
    assert made.plain.a[4].b == "text"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("enum_to_str", [True, False])
@pytest.mark.parametrize("resolve", [True, False])
def test_plain_python_of_a_config_is_the_same(resolve: bool, enum_to_str: bool) -> None:
    usual = OmegaConf.create(
        {"a": [1, 2.5, None, True, "${b}", "???", {"c": None}], 3: "x", "b": "${a}", "d": Color.RED}
    )
    usual.none, usual.b = OmegaConf.structured(Schema).nothing, "y"
    made = [usual, usual.a]
    if not resolve:
        made += [config(), OmegaConf.create({Color.RED: {1.5: "${x}"}}), OmegaConf.structured(Schema)]
        made += [DictConfig("???"), DictConfig(None), ListConfig("???"), DictConfig("${a}")]

    def contents() -> list[Any]:
        return [OmegaConf.to_container(one, resolve=resolve, enum_to_str=enum_to_str) for one in made]

    escaped = OmegaConf.create("a: \\???\nb: [\\???]\n")  # a text, of which nothing is missing
    theirs, yaml = contents(), [OmegaConf.to_yaml(one) for one in (usual, escaped)]
    be_quick()
    assert repr(contents()) == repr(theirs)
    assert [OmegaConf.to_yaml(one) for one in (usual, escaped)] == yaml
    with pytest.raises(MissingMandatoryValue):
        OmegaConf.to_container(OmegaConf.create({"a": "???"}), throw_on_missing=True)


@pytest.mark.usefixtures("own")
def test_plain_python_of_a_usual_config_is_made_without_omegaconfs_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialfleet.compat.omegaconf._own_content", None)
    be_quick()
    usual = OmegaConf.create({"a": [1, "${b}", {"c": None}]})
    assert OmegaConf.to_container(usual) == {"a": [1, "${b}", {"c": None}]}
    assert OmegaConf.to_yaml(usual) == "a:\n- 1\n- ${b}\n- c: null\n"


def test_in_another_version_nothing_is_changed() -> None:
    code = (
        "from omegaconf import DictConfig; from trialfleet.compat import omegaconf;"
        "before = DictConfig.__deepcopy__; omegaconf.SEEN = ('0',); omegaconf.be_quick();"
        "assert DictConfig.__deepcopy__ is before; assert not hasattr(omegaconf.Metadata, '__deepcopy__');"
        "omegaconf.SEEN = (omegaconf.version('omegaconf'),); omegaconf.be_quick();"
        "assert DictConfig.__deepcopy__ is not before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The search space: what a user wrote must reach each job with the very same meaning."""

import math
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from trialfleet.errors import UserError
from trialfleet.sweep.study import search_space as spaces
from trialfleet.sweep.study.search_space import Space, parse


def read_back(text: str) -> Any:
    """The value that a job's Hydra reads in an override."""
    override = OverridesParser.create().parse_override(text)
    assert not override.is_sweep_override(), text
    return override.value()


def same(one: Any, other: Any) -> bool:
    """Equal in value and type, all the way down; nan is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


_words = ["null", "true", "1", "1e3", "nan", "${a}", "é", "日"]
special = st.sampled_from([*"=,'\"\\ []{}():${}%@?+-.~/|&*#!\t", *_words])
text = st.one_of(
    st.lists(special, max_size=6).map("".join),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
)
scalar = st.one_of(text, st.integers(), st.floats(), st.booleans(), st.none())
key = st.text("abcxyz_019", min_size=1, max_size=5).map(lambda name: "k" + name)
nested = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(key, inner, max_size=3), max_leaves=5
)


@settings(max_examples=150)
@given(scalar)
@example("")
@example("\\")
@example("a\\'")
@example("it's")
@example("c=d")
@example("a,b")
@example(" a ")
@example("${oc.env:HOME}")
@example("\\${a}")
@example("choice(1,2)")
@example("1e400")
def test_a_value_reaches_the_job_as_it_was_stored(value: Any) -> None:
    """A choice goes to Optuna and comes back as an override that reads as the very same value."""
    space = parse([f"x=choice({spaces.element(value)})"])
    (choice,) = space.distributions["x"].choices  # type: ignore[attr-defined]
    assert same(choice, value)
    (override,) = space.overrides({"x": choice})
    assert same(read_back(override), value)


@settings(max_examples=80)
@given(nested)
@example(["1", 1, "true", None, "a,b", "[", "", " a"])
@example({"k": "null", "other": ["1e3", 1e-5]})
def test_lists_and_mappings_reach_the_job_whole(value: Any) -> None:
    (argument,) = spaces.arguments_of({"x": [value]})
    assert same(read_back(argument), [value])
    space = parse([f"x=choice({spaces.element([value])},other)"])
    stored = space.distributions["x"].choices[0]  # type: ignore[attr-defined]
    assert isinstance(stored, str)  # Optuna stores no lists
    assert same(read_back(space.overrides({"x": stored})[0]), [value])


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("x='c=d',e", ["c=d", "e"]),
        ("x='a,b',c", ["a,b", "c"]),
        ("x=[1,2],[3]", [[1, 2], [3]]),
        ("x=null,1", [None, 1]),
        ("x=choice(null,a)", [None, "a"]),
        ("x='1',2", ["1", 2]),
        ("x='true',true", ["true", True]),
        ('x="it\'s",b', ["it's", "b"]),
        ("x={a:1},{a:'1'}", [{"a": 1}, {"a": "1"}]),
        ("x=a b,c", ["a b", "c"]),
        ("x=1.0,2.5", [1.0, 2.5]),
        ("x=${y},b", ["${y}", "b"]),
        ("x=int(choice(1.0,2.0))", [1, 2]),
        ("x='',a", ["", "a"]),
    ],
)
def test_choices_mean_to_a_job_what_was_typed(argument: str, values: list[Any]) -> None:
    space = parse([argument])
    distribution = space.distributions["x"]
    assert isinstance(distribution, CategoricalDistribution)
    overrides = [space.overrides({"x": choice})[0] for choice in distribution.choices]
    assert all(map(same, map(read_back, overrides), values))


def test_a_group_choice_stays_bare() -> None:
    """Hydra selects `optimizer=adam` from a group, but takes optimizer='adam' for a value."""
    space = parse(["optimizer=adam,sgd", "model@encoder=small/x,large"])
    assert space.overrides({"optimizer": "adam", "model@encoder": "small/x"}) == [
        "optimizer=adam",
        "model@encoder=small/x",
    ]


@given(text)
def test_text_of_a_custom_space_is_one_plain_value(value: str) -> None:
    """As upstream pastes it where Hydra can read it ('1' is a number), quoted where it cannot."""
    read = read_back(f"x={spaces.quoted('x', value)}")
    try:
        assert same(read, read_back(f"x={value}"))
    except (HydraException, AssertionError):
        assert read == value


@pytest.mark.parametrize(
    ("argument", "distribution"),
    [
        ("x=interval(0,1)", FloatDistribution(0, 1)),
        ("x=interval(0.0,1)", FloatDistribution(0, 1)),
        ("x=interval(-2,1.5)", FloatDistribution(-2, 1.5)),
        ("x=tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("x=tag(log,interval(1,64))", FloatDistribution(1, 64, log=True)),
        ("x=int(interval(1,64))", IntDistribution(1, 64)),
        ("x=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("x=float(interval(1,64))", FloatDistribution(1, 64)),
        ("x=range(0,10,3)", IntDistribution(0, 9, step=3)),
        ("x=range(0,9,3)", IntDistribution(0, 6, step=3)),
        ("x=range(4)", IntDistribution(0, 3)),
        ("x=range(10,0,-5)", IntDistribution(5, 10, step=5)),
        ("x=range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("x=range(0.1,0.7,0.2)", FloatDistribution(0.1, 0.5, step=0.2)),
        ("x=range(0.0,0.3,0.1)", FloatDistribution(0.0, 0.2, step=0.1)),
        ("x=range(1.0,0.0,-0.5)", FloatDistribution(0.5, 1.0, step=0.5)),
        ("x=choice(a,b)", CategoricalDistribution(["a", "b"])),
        ("x=choice(1)", CategoricalDistribution([1])),
        ("x=shuffle(3,1,2)", CategoricalDistribution([3, 1, 2])),
        ("x=shuffle(range(1,5))", CategoricalDistribution([1, 2, 3, 4])),
    ],
)
def test_distributions(argument: str, distribution: object) -> None:
    for _ in range(5):  # the same in every process that reads it
        assert parse([argument]).distributions == {"x": distribution}


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(-9, 9).filter(bool), st.sampled_from([1, 10, 100]))
def test_a_range_holds_what_hydra_would_run(start: int, stop: int, step: int, scale: int) -> None:
    """The stop is exclusive, and decimal fractions are exact: 0.3, not 0.30000000000000004."""
    as_text = [str(number / scale) if scale > 1 else str(number) for number in (start, stop, step)]
    argument = f"x=range({','.join(as_text)})"
    wanted = list(OverridesParser.create().parse_override(argument).sweep_iterator())
    if not wanted:
        with pytest.raises(UserError, match="x=range"):
            parse([argument])
        return
    assert sorted(spaces.grid(parse([argument]))["x"]) == sorted(wanted)


def test_a_range_of_enormous_floats_is_a_list_of_choices() -> None:
    """Optuna steps in floats and would never leave 1e16 in steps of 1."""
    space = parse(["x=range(9007199254740993.0,9007199254740996.0,1.5)"])
    assert isinstance(space.distributions["x"], CategoricalDistribution)


def test_the_grid_has_every_value() -> None:
    space = parse(["a=1,2,'3'", "b=range(0,0.3,0.1)", "c=range(1,6,2)", "d=int(interval(1,3))", "e=[1],null"])
    assert spaces.grid(space) == {
        "a": [1, 2, "3"],
        "b": [0.0, 0.1, 0.2],
        "c": [1, 3, 5],
        "d": [1, 2, 3],
        "e": ["[1]", None],
    }


@pytest.mark.parametrize("argument", ["lr=interval(0.0,1)", "lr=tag(log,interval(1,9))"])
def test_a_grid_over_an_interval_is_refused(argument: str) -> None:
    with pytest.raises(UserError, match="lr: the grid sampler"):
        spaces.grid(parse([argument]))


def test_fixed_values_go_to_each_job_as_typed() -> None:
    space = parse(["seed=1", "name='a,b'", "~callbacks", "+extra=[1, 2]", "lr=1,2", "++forced=x"])
    assert space.overrides({"lr": 2}) == ["seed=1", "name='a,b'", "~callbacks", "+extra=[1, 2]", "++forced=x", "lr=2"]


def test_the_last_word_on_a_key_counts() -> None:
    """The command line comes behind hydra.sweeper.params."""
    assert parse(["x=1,2", "x=5"]) == Space({}, {"x": "x=5"})
    assert parse(["x=5", "x=interval(0,1)"]) == Space({"x": FloatDistribution(0, 1)}, {})
    assert list(parse(["x=a,b", "x=c,d"]).texts["x"]) == ["c", "d"]


@pytest.mark.parametrize(
    "argument",
    [
        "lr=interval(2,1)",
        "lr=tag(log,interval(0,1))",
        "lr=range(1,1)",
        "lr=range(0.0,0.0,0.1)",
        "lr=range(0,1,0)",
        "lr=1,1",
        "lr=1,1.0",
        "lr=1,true",
        "lr=[1,(2]",
        "lr=choice()",
        "lr=glob(*)",
        "lr=choice(a,b),c",
        "lr=interval(0,inf)",
        "lr=interval(nan,1.0)",
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(argument: str) -> None:
    with pytest.raises(UserError, match="lr") as refusal:
        parse([argument])
    assert refusal.value.fix


def test_params_of_the_config_are_grammar_where_they_are_text() -> None:
    params = {"lr": "interval(0,1)", "depth": 3, "wide": True, "none": None, "sizes": [1, "2"], "+new": "a,b"}
    assert spaces.arguments_of(params) == [
        "lr=interval(0,1)",
        "depth=3",
        "wide=true",
        "none=null",
        "sizes=[1,'2']",
        "+new=a,b",
    ]
    assert spaces.arguments_of(None) == []


@pytest.mark.parametrize(
    "written",
    [
        "range(1,6)",
        "interval(1.0,5.0)",
        "tag(log,int(interval(1,5)))",
        "tag(log,interval(0.0001,0.01))",
        "range(1,9,2)",
        "range(0.0,1.0,0.25)",
        "range(1.0,4.0,1.0)",
        "choice(1,2.5,false,null,adam)",
        "choice('1','a,b')",
    ],
)
def test_a_distribution_is_shown_as_it_is_written(written: str) -> None:
    assert spaces.in_words(parse([f"x={written}"]).distributions["x"]) == written

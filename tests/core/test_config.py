"""Settings from JSON: what is wrong is named."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.config import from_dict, to_dict
from glint.errors import GlintError, InputError
from glint.types import FrameSize


@dataclass(frozen=True)
class Inner:
    size: int = 3
    scale: float = 1.0


@dataclass(frozen=True)
class Place:
    size: FrameSize


@dataclass(frozen=True)
class Outer:
    name: str
    flag: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    limit: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    anything: Any = None
    lookup: Mapping[str, int] = field(default_factory=dict)


def read(**data):
    return from_dict(Outer, {"name": "n", **data}, where="file.json")


def test_missing_keys_take_their_defaults():
    assert from_dict(Outer, {"name": "n"}, where="file.json") == Outer("n")


def test_lists_become_tuples_objects_dataclasses_and_whole_numbers_floats():
    outer = read(pair=[1, 2], many=[3, 4], inner={"size": 5, "scale": 2}, parts=[{}, {"size": 7}], limit=4)
    assert outer == Outer("n", pair=(1.0, 2.0), many=(3, 4), inner=Inner(5, 2.0), parts=(Inner(), Inner(7)), limit=4.0)
    assert isinstance(outer.pair[0], float)
    assert isinstance(outer.inner.scale, float)
    assert isinstance(outer.limit, float)


def test_null_is_taken_where_none_is_allowed_and_only_there():
    assert read(maybe=None, limit=None).maybe is None
    with pytest.raises(InputError, match="inner"):
        read(inner=None)
    with pytest.raises(InputError, match="name: expected str, got None"):
        read(name=None)


def test_an_optional_dataclass_is_read():
    assert read(maybe={"size": 9}).maybe == Inner(9)


def test_values_of_any_type_are_passed_on():
    assert read(anything=[1, {"a": None}]).anything == [1, {"a": None}]
    assert read(extra={"a": [1]}).extra == {"a": [1]}


# Mistakes


def test_an_unknown_key_is_named_with_the_nearest_known_one():
    with pytest.raises(InputError, match=r"file\.json: unknown key 'falg'") as caught:
        read(falg=True)
    assert caught.value.hint == "did you mean 'flag'?"


def test_an_unknown_key_unlike_any_other_comes_with_the_list():
    with pytest.raises(InputError) as caught:
        from_dict(Inner, {"zzzz": 1}, where="file.json")
    assert caught.value.hint == "known keys: size, scale"


def test_an_unknown_key_inside_is_named_with_its_path():
    with pytest.raises(InputError, match=r"file\.json: parts\[1\]: unknown key 'sise'") as caught:
        read(parts=[{}, {"sise": 1}])
    assert "'size'" in caught.value.hint


def test_a_missing_key_is_named():
    with pytest.raises(InputError, match=r"file\.json: missing key 'name'"):
        from_dict(Outer, {}, where="file.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": 3}, "name: expected str, got 3"),
        ({"flag": 1}, "flag: expected bool, got 1"),
        ({"flag": "true"}, "flag: expected bool, got 'true'"),
        ({"inner": {"size": True}}, "inner: size: expected int, got True"),
        ({"inner": {"size": 2.0}}, r"inner: size: expected int, got 2\.0"),
        ({"inner": {"scale": False}}, "inner: scale: expected float, got False"),
        ({"inner": {"scale": "1"}}, "inner: scale: expected float, got '1'"),
        ({"inner": [1]}, "inner: expected an object, got list"),
        ({"pair": [1.0]}, "pair: expected 2 entries, got 1"),
        ({"pair": [1, 2, 3]}, "pair: expected 2 entries, got 3"),
        ({"pair": 1.0}, r"pair: expected a list, got 1\.0"),
        ({"pair": "ab"}, "pair: expected a list, got 'ab'"),
        ({"pair": [1, "x"]}, r"pair\[1\]: expected float, got 'x'"),
        ({"many": [1, 2, 3.5]}, r"many\[2\]: expected int, got 3\.5"),
        ({"many": {"0": 1}}, "many: expected a list"),
        ({"extra": [1]}, r"extra: expected an object, got \[1\]"),
        ({"lookup": 5}, "lookup: expected an object, got 5"),
        ({"limit": "none"}, "limit: expected float, got 'none'"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_arrived(data, message):
    with pytest.raises(InputError, match=f"file.json: {message}"):
        read(**data)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(InputError, match=r"file\.json: expected an object"):
        from_dict(Outer, data, where="file.json")


def test_a_number_too_large_for_a_float_is_refused():
    with pytest.raises(InputError, match="limit"):
        read(limit=10**400)


json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(data=st.dictionaries(st.sampled_from([*Outer.__dataclass_fields__, "other"]), json_value))
def test_any_json_gives_the_dataclass_or_an_input_error(data):
    try:
        outer = from_dict(Outer, data, where="file.json")
    except InputError as error:
        assert str(error).startswith("file.json: ")
    else:
        assert isinstance(outer, Outer)


# Round trip

inners = st.builds(Inner, st.integers(), st.floats(allow_nan=False, allow_infinity=False))
outers = st.builds(
    Outer,
    name=st.text(),
    flag=st.booleans(),
    pair=st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    many=st.lists(st.integers()).map(tuple),
    inner=inners,
    parts=st.lists(inners, max_size=2).map(tuple),
    maybe=st.none() | inners,
    limit=st.none() | st.floats(-9, 9),
)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(outer=outers)
def test_settings_survive_a_file(outer):
    text = json.dumps(to_dict(outer))
    assert from_dict(Outer, json.loads(text), where="file.json") == outer


def test_a_dict_holds_lists_and_dicts_only():
    config = Outer("n", many=(1, 2), parts=(Inner(1),), extra={"a": (1, {"b": (2,)})})
    plain = to_dict(config)
    assert plain["many"] == [1, 2]
    assert plain["parts"] == [{"size": 1, "scale": 1.0}]
    assert plain["extra"] == {"a": [1, {"b": [2]}]}


def test_the_checks_of_the_dataclass_are_run():
    @dataclass(frozen=True)
    class Checked:
        n: int

        def __post_init__(self):
            raise InputError("n is wrong")

    with pytest.raises(GlintError, match="n is wrong"):
        from_dict(Checked, {"n": 1}, where="file.json")


def test_a_named_tuple_comes_back_as_itself() -> None:
    again = from_dict(Place, to_dict(Place(FrameSize(640, 512))), where="place")
    assert again.size.width == 640
    with pytest.raises(InputError, match="2 entries"):
        from_dict(Place, {"size": [1]}, where="place")

"""Params of large messages: what is too long is refused before it is built, in the words of the decoder."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.inspect import DictType, ListType, StructType, type_info

from car_trio.methods.method import Method
from car_trio.methods.table import METHODS
from car_trio.wire import pieces
from car_trio.wire.errors import Refusal
from car_trio.wire.pieces import at_once


class Inner(Struct):
    words: Annotated[list[str], Meta(max_length=3)] = []
    free: Any = None


class Outer(Struct):
    name: str = ""
    turns: Annotated[list[Inner], Meta(max_length=2)] = []
    inner: Inner | None = None
    table: Annotated[dict[str, int], Meta(max_length=2)] | None = None
    raw: Raw | UnsetType = UNSET
    renamed: Annotated[list[int], Meta(max_length=2)] | None = msgspec.field(default=None, name="re-named")


KINDS = [Outer, Annotated[list[Inner], Meta(max_length=2)], Annotated[dict[str, Raw], Meta(max_length=2)]]


def told(method: Method, text: str, *, in_steps: bool) -> object:
    """What a method gets of these params, or how they are refused."""
    try:
        if in_steps:
            value = at_once(method.decode_in_steps("m", Raw(text.encode())))
        else:
            value = method.decode("m", Raw(text.encode()))
    except Refusal as refusal:
        return refusal.message
    return msgspec.json.encode(value)


words = st.lists(st.text("ab,[]{}", max_size=3) | st.integers(0, 1), max_size=4)
inners = (
    st.fixed_dictionaries({}, optional={"words": words, "free": words, "more": words}) | st.none() | words
)
outers = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text("ab", max_size=3) | words,
        "turns": st.lists(inners, max_size=4) | inners,
        "inner": inners,
        "table": st.dictionaries(st.text("ab", max_size=2), st.integers(0, 3), max_size=4) | words,
        "raw": inners,
        "re-named": st.lists(st.integers(0, 3), max_size=4),
        "unknown": inners,
    },
)


@given(st.one_of(outers, inners, st.lists(inners, max_size=4)), st.sampled_from(KINDS), st.booleans())
def test_params_are_decoded_and_refused_alike_in_one_go_and_in_steps(params, kind, is_free_form):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", 4)
        # What is free-form and what is raw do not go together: the one is decoded, the other is not.
        method = Method(kind, lambda *_: None, None, "", free_form=is_free_form and kind is not KINDS[2])
        text = json.dumps(params, separators=(",", ":"))
        in_one, in_steps = told(method, text, in_steps=False), told(method, text, in_steps=True)
    if isinstance(in_one, str):
        # Of several things that are wrong either may be named.
        assert isinstance(in_steps, str)
    else:
        assert in_steps == in_one


@pytest.mark.parametrize("in_steps", [False, True])
@pytest.mark.parametrize(
    ("params", "said"),
    [
        ('{"turns":[{},{},{}]}', "Expected array of length <= 2 - at $.turns"),
        ('{"inner":{"words":["a","b","c","d"]}}', "Expected array of length <= 3 - at $.inner.words"),
        ('{"table":{"a":1,"b":2,"c":3}}', "Expected object of length <= 2 - at $.table"),
        ('{"re-named":[1,2,3]}', "Expected array of length <= 2 - at $.re-named"),
        ('{"turns":{"a":1,"b":2,"c":3}}', "Expected array, got object - at $.turns"),
        ("[]", "Expected object, got array"),
    ],
)
def test_what_is_too_long_is_named_in_the_same_words(params, said, in_steps):
    method = Method(Outer, lambda *_: None, None, "")
    assert told(method, params, in_steps=in_steps) == f"m: params: {said}"


def test_a_list_of_params_has_no_place_of_its_own():
    method = Method(KINDS[1], lambda *_: None, None, "")
    for in_steps in (False, True):
        assert told(method, "[{},{},{}]", in_steps=in_steps) == "m: params: Expected array of length <= 2"


def test_of_a_member_that_stands_twice_only_the_last_is_built():
    method = Method(Outer, lambda *_: None, None, "")
    text = '{"turns":[1,2,3,4],"name":"a","turns":[{}],"name":"b"}'
    assert told(method, text, in_steps=True) == msgspec.json.encode(Outer("b", [Inner()]))


def test_params_of_null_are_none_whatever_their_size():
    method = Method(Outer, lambda *_: None, None, "")
    assert told(method, "null", in_steps=True) == msgspec.json.encode(Outer())


def test_params_that_hold_too_many_lists_are_refused(monkeypatch):
    monkeypatch.setattr(pieces, "FEW_CONTAINERS", 11)
    method = Method(Inner, lambda *_: None, None, "", free_form=True)
    assert told(method, json.dumps({"free": [[]] * 20}), in_steps=True) == (
        "m: params: one of them holds more than 11 lists and objects"
    )


@pytest.mark.parametrize("name", METHODS)
def test_whatever_a_method_takes_a_list_or_an_object_of_has_a_bound(name):
    unbounded = [path for path, most in parts_of(type_info(METHODS[name].params), "$") if most is None]
    assert unbounded == []


def parts_of(info: Any, path: str) -> list[tuple[str, int | None]]:
    """Each list and object inside of a type, and how long it may be."""
    found: list[tuple[str, int | None]] = []
    for part in getattr(info, "types", (info,)):
        if isinstance(part, (ListType, DictType)):
            inner = part.item_type if isinstance(part, ListType) else part.value_type
            found += [(path, part.max_length), *parts_of(inner, f"{path}[]")]
        elif isinstance(part, StructType):
            for each in part.fields:
                found += parts_of(each.type, f"{path}.{each.encode_name}")
    return found

"""Large JSON in pieces: the same value as in one go, however it is cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from car_trio.wire import pieces
from car_trio.wire.pieces import (
    Repeated,
    TooDeep,
    TooMany,
    at_once,
    decoded_in_steps,
    longer_than,
    most_containers,
    read_in_steps,
)
from tests.wire.large_json import counted, layouts, texts, values

ANY_DEPTH = 10_000


@pytest.fixture(params=[1, 2, 7, 40])
def piece_bytes(request, monkeypatch) -> int:
    monkeypatch.setattr(pieces, "PIECE_BYTES", request.param)
    return request.param


@contextmanager
def cut_at(size: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", size)
        yield


@given(values, layouts, st.integers(1, 60))
@example({"a": ["]", '\\"', {}], "b": {"c": [[[]]]}}, {}, 1)
def test_a_value_is_the_same_whether_it_is_decoded_at_once_or_in_pieces(value, layout, size):
    document = json.dumps(value, **layout).encode()
    with cut_at(size):
        whole = at_once(decoded_in_steps(document, ANY_DEPTH, unique=True))
    assert msgspec.json.encode(whole) == msgspec.json.encode(msgspec.json.decode(document))


members = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=3)),
    max_size=6,
)


@given(members, members, st.integers(1, 40))
@example([("a", 0), ("b", [2]), ("a", [1, 2, 3, 4])], [], 30)
@example([("a", 0), ("b", {}), ("a", [[1, 2], 3, 4])], [], 30)
@example([("a", 0), ("b", [[0]]), ("a", [[1, 2], 3, 4])], [], 33)
def test_of_a_key_that_stands_twice_the_last_value_counts_or_it_is_refused(outer, inner, size):
    def told(pairs: list[tuple[str, Any]]) -> str:
        return "{%s}" % ",".join(f'"{key}":{json.dumps(value)}' for key, value in pairs)

    document = f'[1,{{"x":{told(inner)},"y":{told(outer)},"z":[{told(inner)}]}}]'.encode()
    is_unique = all(len(dict(pairs)) == len(pairs) for pairs in (inner, outer))
    with cut_at(size):
        assert at_once(decoded_in_steps(document, ANY_DEPTH)) == msgspec.json.decode(document)
        if is_unique:
            at_once(decoded_in_steps(document, ANY_DEPTH, unique=True))
        else:
            with pytest.raises(Repeated):
                at_once(decoded_in_steps(document, ANY_DEPTH, unique=True))


def test_a_key_that_stands_in_two_pieces_of_one_object_is_seen(piece_bytes):
    document = b'{"a":1,"b":[2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20],"a":2}'
    with pytest.raises(Repeated):
        at_once(decoded_in_steps(document, ANY_DEPTH, unique=True))


def test_every_step_takes_one_piece(piece_bytes):
    document = b"[" + b",".join([b'{"k":[1,2.5,"three",null]}'] * 500) + b"]"
    for steps in (decoded_in_steps(document, 9), read_in_steps(document)):
        count, _ = counted(steps)
        # A piece ends at the first comma after so many bytes.
        assert count >= len(document) / (piece_bytes + 30)


def test_no_piece_is_much_longer_than_it_should_be_unless_a_string_is(piece_bytes):
    document = b'{"a":[' + b",".join([b'"%b"' % (b"x" * 200), b"[1,2]"] * 20) + b"]}"
    longest = max(len(piece.text) for piece in pieces.pieces(document, ANY_DEPTH))
    assert longest <= piece_bytes + 210


@pytest.mark.parametrize("document", [b"[[[1,2],3],4]", b'{"a":{"b":[1,2]},"c":3}'])
def test_a_document_may_nest_as_deep_as_there_is_room_and_no_deeper(document, piece_bytes):
    assert at_once(decoded_in_steps(document, 3)) == msgspec.json.decode(document)
    for steps in (decoded_in_steps(document, 2), read_in_steps(document, 2)):
        with pytest.raises(TooDeep, match="nests more than 2 deep"):
            at_once(steps)


@given(values, layouts, st.integers(1, 40))
@example([[], {"a": [], "[": "{"}, "[[["], {}, 3)
def test_a_document_may_hold_as_many_lists_and_objects_as_allowed_and_not_one_more(value, layout, size):
    def containers(of: Any) -> int:
        if isinstance(of, list):
            return 1 + sum(map(containers, of))
        return 1 + sum(map(containers, of.values())) if isinstance(of, dict) else 0

    document, count = json.dumps(value, **layout).encode(), containers(value)
    with cut_at(size):
        assert at_once(decoded_in_steps(document, ANY_DEPTH, count)) == msgspec.json.decode(document)
        at_once(read_in_steps(document, ANY_DEPTH, count))
        for steps in (
            decoded_in_steps(document, ANY_DEPTH, count - 1),
            read_in_steps(document, ANY_DEPTH, count - 1),
        ):
            if count:
                with pytest.raises(TooMany, match=f"^holds more than {count - 1} lists and objects$"):
                    at_once(steps)


def test_an_object_may_have_as_many_members_as_allowed_and_not_one_more(piece_bytes, monkeypatch):
    document = json.dumps([{"k": {str(n): [n] for n in range(50)}}, 1]).encode()
    monkeypatch.setattr(pieces, "MAX_MEMBERS", 50)
    assert at_once(decoded_in_steps(document, ANY_DEPTH)) == msgspec.json.decode(document)
    monkeypatch.setattr(pieces, "MAX_MEMBERS", 49)
    with pytest.raises(TooMany, match="^holds an object of more than 49 members$"):
        at_once(decoded_in_steps(document, ANY_DEPTH))


def test_too_many_lists_are_noticed_before_any_is_made(piece_bytes, monkeypatch):
    document = b"[" + b",".join([b"[]"] * 1000) + b"]"
    monkeypatch.setattr(pieces.msgspec.json, "decode", lambda _: pytest.fail("something was made"))
    with pytest.raises(TooMany):
        at_once(decoded_in_steps(document, ANY_DEPTH, 100))


def test_brackets_in_strings_are_no_lists(piece_bytes):
    document = b"[" + b",".join([b'"[{"'] * 1000) + b"]"
    assert at_once(decoded_in_steps(document, ANY_DEPTH, 1)) == ["[{"] * 1000


def test_a_large_document_may_hold_more_lists_than_a_small_one():
    assert most_containers(0) == most_containers(4_000_000) == 400_000
    assert most_containers(16 * 1024 * 1024) == 16 * 1024 * 1024 // 10


@given(
    st.lists(values, max_size=9) | st.dictionaries(texts, values, max_size=9),
    layouts,
    st.integers(1, 40),
    st.integers(-2, 2),
)
@example([[1, 2, 3], "a,b,c", {"a": 1, "b": 2}], {}, 1, 0)
@example([[1, [2, 3, 4, 5], 6], [7, 8]], {}, 5, -1)
@example({"a": [1, 2], "b": {"c": 3, "d": 4}, "e": ",,,"}, {}, 2, 0)
def test_only_a_documents_own_members_are_counted_however_it_is_cut(value, layout, size, more):
    document, most = json.dumps(value, **layout).encode(), max(1, len(value) + more)
    with cut_at(size):
        assert at_once(longer_than(document, most)) is (len(value) > most)


def test_a_list_is_longer_than_one_less_than_it_holds(piece_bytes):
    for document in (b"[1,2,3]", b'{"a":1,"b":2,"c":3}', b"[[],{},[]]"):
        assert [at_once(longer_than(document, most)) for most in (1, 2, 3, 4)] == [True, True, False, False]


def test_counting_stops_where_there_are_more_than_asked_for(piece_bytes):
    document = b"[" + b",".join([b"{}"] * 10_000) + b"]"
    count, is_longer = counted(longer_than(document, 100))
    assert is_longer
    assert count <= 100


def test_what_has_few_commas_at_all_is_not_looked_at_twice(piece_bytes):
    count, is_longer = counted(longer_than(b'["%b"]' % (b"x" * 1000), 2))
    assert (count, is_longer) == (0, False)


@pytest.mark.parametrize("bad", [b"1e999", b"-1E+400", b"1" * 400 + b".5", b"9" * 5000, b"1" * 250 + b"e99"])
def test_a_number_that_no_reader_takes_is_found_wherever_it_stands(bad, piece_bytes):
    document = b'{"a":[1,"1e999",{"b":%b}],"c":2}' % bad
    for steps in (decoded_in_steps(document, ANY_DEPTH), read_in_steps(document)):
        with pytest.raises(msgspec.ValidationError, match="out of range"):
            at_once(steps)


@pytest.mark.parametrize("fine", [b"1e99", b'"1e999"', b"1e-999", b"0e999", b'"' + b"7" * 9000 + b'"'])
def test_a_number_that_can_be_read_and_a_text_of_digits_pass(fine, piece_bytes):
    document = b"[%b,1]" % fine
    at_once(read_in_steps(document))
    assert at_once(decoded_in_steps(document, ANY_DEPTH)) == msgspec.json.decode(document)


@given(st.text(st.sampled_from('"\\x'), max_size=30), st.integers(1, 9))
def test_a_string_is_never_cut_whatever_is_escaped_in_it(text, size):
    document = json.dumps([text, text, text]).encode()
    with cut_at(size):
        shown = [json.loads(b"[%b]" % piece.text.strip(b"[] ")) for piece in pieces.pieces(document, 1)]
    assert [each for some in shown for each in some] == [text] * 3

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_trio import engine
from car_trio.engine import InvalidProposal, model, optimize
from car_trio.engine.explain import syntax_error
from car_trio.engine.model import parse, parse_strict
from car_trio.wire import pieces
from car_trio.wire.proposals import timestamp
from tests.engine.plans import plans


@pytest.fixture(autouse=True, params=["small", "large"])
def size(request: pytest.FixtureRequest) -> Iterator[str]:
    """Everything here holds for what is read in one go and for what is read piece by piece."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "large":
            patch.setattr(model, "LARGE_BYTES", 0)
            patch.setattr(model, "ACTIONS_AT_ONCE", 1)
            patch.setattr(pieces, "PIECE_BYTES", 16)
        yield request.param


def refusal(proposal: Any) -> str:
    with pytest.raises(InvalidProposal) as caught:
        parse_strict(proposal) if isinstance(proposal, bytes) else parse(proposal)
    return str(caught.value).removeprefix("invalid proposal JSON: ")


def action(**fields: Any) -> dict[str, Any]:
    return {"actions": [{"type": "tool_call", **fields}]}


@pytest.mark.parametrize(
    ("proposal", "reason"),
    [
        ({}, "missing field `actions` at /actions"),
        ([], "invalid type: sequence, expected struct ActionProposal at /"),
        ({"actions": [], "id": None}, "invalid type: null, expected a string at /id"),
        ({"actions": [], "context": True}, "invalid type: boolean `true`, expected a map at /context"),
        ({"actions": {}}, "invalid type: map, expected a sequence at /actions"),
        (
            {"actions": [], "timestamp": 1.5},
            "invalid type: floating point `1.5`, "
            "expected an RFC 3339 formatted date and time string at /timestamp",
        ),
        ({"actions": [{}]}, "missing field `type` at /actions/0/type"),
        ({"actions": [{"type": 5}]}, "expected value at /actions/0/type"),
        (
            action(failure_behavior="explode"),
            "unknown variant `explode`, expected one of `abort`, `retry`, `skip` "
            "at /actions/0/failure_behavior",
        ),
        (action(max_retries=None), "invalid type: null, expected u32 at /actions/0/max_retries"),
        (
            action(max_retries=2**32),
            "invalid value: integer `4294967296`, expected u32 at /actions/0/max_retries",
        ),
        (
            action(max_retries=1, timeout_ms=5, metadata=None),
            "invalid type: null, expected a map at /actions/0/metadata",
        ),
        (action(idempotent="yes"), 'invalid type: string "yes", expected a boolean at /actions/0/idempotent'),
        (action(tool=5), "invalid type: integer `5`, expected a string at /actions/0/tool"),
        (action(preconditions=[{}]), "missing field `key` at /actions/0/preconditions/0/key"),
        (
            action(compensation={"type": "zz"}),
            "unknown variant `zz`, expected `tool` or `action_ref` at /actions/0/compensation/type",
        ),
        (
            action(tool=None, timeout_ms=None, compensation={"type": "action_ref"}),
            "missing field `action_id` at /actions/0/compensation/action_id",
        ),
    ],
)
def test_a_document_that_is_no_proposal_is_refused_with_the_first_thing_wrong(
    proposal: Any, reason: Any
) -> None:
    text = refusal(proposal)
    assert text == reason
    assert refusal(json.dumps(proposal)) == text
    assert refusal(json.dumps(proposal).encode()) == text


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "EOF while parsing a value at line 1 column 0"),
        (b'{"actions":[]} x', "trailing characters at line 1 column 16"),
        (b'{"actions":[],}', "key must be a string at line 1 column 15"),
        (b'{"actions" []}', "expected `:` at line 1 column 12"),
        (b'{"actions":[1 2]}', "expected `,` or `}` at line 1 column 15"),
        (b'{"actions":nul}', "expected ident at line 1 column 15"),
        (b'{"actions":NaN}', "expected value at line 1 column 1"),
        (b'{"actions":?}', "expected value at line 1 column 12"),
        (b"\xff", "invalid unicode code point at line 1 column 1"),
        (b'{"id":"\\ud800","actions":[]}', "lone leading surrogate in hex escape at line 1 column 1"),
        (b'{"context":{"a":1e999},"actions":[]}', "number out of range at /"),
        (b'{"actions":[],"unknown":"\xff"}', "invalid unicode code point at line 1 column 1"),
        (b'{"context":' + b"[" * 5000 + b"]" * 5000 + b"}", "recursion limit exceeded at /"),
    ],
)
def test_bytes_that_are_no_json_are_refused_with_the_place(raw: bytes, reason: str) -> None:
    assert refusal(raw) == reason


def test_a_decoded_document_that_json_cannot_hold_is_refused() -> None:
    assert refusal({"actions": [], "context": {5: 1}}) == "invalid value at /"


def test_text_nested_beyond_every_reader_is_named_so() -> None:
    assert syntax_error("[" * 100_000) == "recursion limit exceeded at line 1 column 128"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"parameters": {"n": nested(125)}}, "/actions/0"),
        ({"metadata": {"n": nested(125)}}, "/actions/0"),
        ({"compensation": {"type": "tool", "tool": "x", "parameters": {"n": nested(125)}}}, "/actions/0"),
        ({"preconditions": [{"key": "k", "value": nested(126)}]}, "/actions/0"),
        ({"assumptions": [{"key": "k", "expected_value": nested(126)}]}, "/actions/0"),
    ],
)
def test_values_nested_deeper_than_serde_reads_are_refused(fields: dict[str, Any], place: str) -> None:
    text = json.dumps(action(**fields))
    for proposal in (action(**fields), text, text.encode()):
        assert refusal(proposal) == f"recursion limit exceeded at {place}"
    assert refusal({"actions": [], "context": {"n": nested(127)}}) == "recursion limit exceeded at /context"
    parse(action(parameters={"n": nested(124), "m": {"o": nested(100)}}))


def test_what_is_missing_gets_its_default_and_what_is_unknown_is_dropped() -> None:
    read = optimize({"actions": [{"type": "state_read", "unknown": 1, "dependencies": ["x"]}], "unknown": 1})
    assert list(read) == ["id", "source", "actions", "timestamp", "context"]
    assert len(read["id"]) == 12
    assert read["source"] == "unknown"
    (only,) = read["actions"]
    assert "unknown" not in only and "dependencies" not in only and "tool" not in only
    assert only["max_retries"] == 3
    assert only["failure_behavior"] == "abort"
    assert len(only["id"]) == 12 and only["id"] != read["id"]


def test_assumptions_and_compensations_are_kept_as_they_were_given() -> None:
    given_ = [{"key": "k", "expected_value": 1}, {"key": "k", "read_version": 3}, {"key": "k"}]
    undo = {"type": "action_ref", "action_id": "b"}
    read = optimize(action(assumptions=given_, compensation=undo, timeout_ms=5))
    assert read["actions"][0]["assumptions"] == given_
    assert read["actions"][0]["compensation"] == undo
    assert read["actions"][0]["timeout_ms"] == 5


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01t01:30:00+01:00", "2026-01-01T00:30:00Z"),
        ("2026-01-01 00:00:00.120000-00:30", "2026-01-01T00:30:00.120Z"),
        ("2026-01-01T00:00:00.123456789012Z", "2026-01-01T00:00:00.123456789Z"),
    ],
)
def test_timestamps_are_put_in_utc(written: str, read: str) -> None:
    assert parse({"actions": [], "timestamp": written}).timestamp == read


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("yesterday", "input contains invalid characters"),
        ("2026-13-01T00:00:00Z", "input is out of range"),
        ("0001-01-01T00:00:00+05:00", "input is out of range"),
    ],
)
def test_a_timestamp_that_is_none_is_refused(written: str, reason: str) -> None:
    assert refusal({"actions": [], "timestamp": written}) == f"{reason} at /timestamp"


def test_our_own_timestamps_have_nanoseconds() -> None:
    assert timestamp(1_767_225_600_000_000_001) == "2026-01-01T00:00:00.000000001Z"
    assert timestamp(1_767_225_601_500_000_000) == "2026-01-01T00:00:01.500000000Z"


def objects_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all objects that have a key."""
    found = [path] if isinstance(value, dict) and value else []
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in members:
        found += objects_in(inner, (*path, key))
    return found


class Doubled(dict[str, Any]):
    """Encodes with its first key twice."""

    def items(self) -> Any:
        first, *_ = pairs = list(super().items())
        return [*pairs, first]


def doubled_at(value: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        return Doubled(value)
    copy = value.copy()
    copy[path[0]] = doubled_at(value[path[0]], path[1:])
    return copy


@given(plans(most=3), st.data())
def test_a_key_that_stands_twice_is_refused_at_any_depth(
    proposal: dict[str, Any], data: st.DataObject
) -> None:
    proposal["unknown"] = {"deep": [[{"x": 1}]]}
    parse_strict(json.dumps(proposal).encode())
    path = data.draw(st.sampled_from(objects_in(proposal)))
    raw = json.dumps(doubled_at(proposal, path)).encode()
    victim: Any = proposal
    for step in path:
        victim = victim[step]
    key = next(iter(victim))
    pointer = "/" + "/".join(map(str, (*path, key)))
    assert refusal(raw) == f"duplicate key `{key}` at {pointer}"


@pytest.mark.parametrize(
    "parameters",
    [
        b'{"a":1,"a":1}',
        b'{ "a": 1, "\\u0061": 1 }',
        b'{"a":[{"b":1.0,"b":1.0}]}',
        b'{"\xc3\xbc":1,"\\u00fc":1}',
    ],
)
def test_a_duplicate_key_is_found_however_it_is_spelled(parameters: bytes) -> None:
    raw = b'{"actions":[{"type":"tool_call","parameters":%b}]}' % parameters
    assert "duplicate key" in refusal(raw)


@pytest.mark.parametrize(
    "value", [b"1e5", b"0.10", b'"\\/"', b'"\\u0041"', b"12345678901234567890123", b"-0"]
)
def test_a_text_that_we_would_write_otherwise_is_read_all_the_same(value: bytes) -> None:
    raw = b'{"actions":[{"type":"tool_call","parameters":{"a":%b}}]}' % value
    assert parse_strict(raw).actions[0].parameters == {"a": json.loads(value)}


def test_a_duplicate_key_in_a_field_too_deep_to_search_is_refused_too() -> None:
    def reason(depth: int) -> str:
        raw = b'{"actions":[],"unknown":' + b'{"a":' * depth + b'{"b":1,"b":2}' + b"}" * depth + b"}"
        return refusal(raw)[:15]

    # Somewhere in between the decoder, which skips the field, still manages and the search does not.
    assert {reason(depth) for depth in range(100, 1000, 10)} == {"duplicate key `", "recursion limit"}


def test_looking_for_duplicates_does_not_read_numbers(size: str) -> None:
    raw = b'{"actions":[],"unknown":' + b"9" * 100_000 + b"}"
    if size == "large":
        assert refusal(raw) == "number out of range at /"
    else:
        assert parse_strict(raw).actions == []


def test_the_pure_functions_load_no_trio_and_keep_their_names() -> None:
    script = """
import sys
from car_trio.engine import InvalidProposal, harness_metrics, optimize, permission_classify
from car_trio.engine import equivalent, simulate, transaction_check, verify
assert "trio" not in sys.modules
import car_trio.engine.execute
from car_trio.engine import execute
for function in (optimize, simulate, verify, execute):
    assert callable(function), function
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = engine.nothing


def test_a_large_plan_that_holds_too_many_lists_is_refused_before_they_are_made(monkeypatch, size):
    monkeypatch.setattr(pieces, "FEW_CONTAINERS", 20)
    plan = json.dumps({"actions": [], "context": {"k": [[]] * 20}}).encode()
    if size == "large":
        assert refusal(plan) == "holds more than 20 lists and objects at /"
    else:
        assert parse_strict(plan).context == {"k": [[]] * 20}

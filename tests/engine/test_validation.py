"""A tool's schema: what is too large to be compiled, and what is checked however large the parameters are."""

from __future__ import annotations

import pytest

from car_trio.engine.validation import MAX_BYTES, BadSchema, ParameterCheck


def test_a_schema_is_bounded_in_bytes():
    with pytest.raises(BadSchema, match=f"at most {MAX_BYTES}"):
        ParameterCheck("t", {"description": "x" * MAX_BYTES})


def test_a_reference_to_the_whole_schema_and_into_a_list_leads_there():
    check = ParameterCheck(
        "t",
        {
            "properties": {"next": {"$ref": "#"}, "n": {"$ref": "#/anyOf/0"}},
            "anyOf": [{"type": ["object", "number"]}],
        },
    )
    assert check.problems({"next": {"next": {"n": 1}}}) == []
    assert check.problems({"next": {"n": "s"}}) == ["tool 't': parameter '/next/n' violates type"]


def test_large_parameters_have_their_first_violation_told():
    check = ParameterCheck("t", {"properties": {"list": {"items": {"type": "string"}}}})
    said = check.problems({"list": list(range(100_000))})
    assert said == ["tool 't': parameter '/list/0' violates type"]


def test_parameters_too_large_for_a_large_schema_are_refused():
    check = ParameterCheck("t", {"properties": {f"p{n}": {"maxLength": 9} for n in range(1000)}})
    assert check.problems({"p1": "x", "rest": "y" * 1_000_000})[0].endswith(
        "too deep to be checked by its schema"
    )


def test_a_value_is_never_quoted():
    check = ParameterCheck(
        "t", {"required": ["a"], "properties": {"b": {"const": 1}}, "propertyNames": {"maxLength": 3}}
    )
    said = "; ".join(check.problems({"b": "sk-secret", "name": 1}))
    assert said == (
        "tool 't': missing required parameter 'a'; tool 't': parameter '/b' violates const; "
        "tool 't': parameter '/' violates propertyNames"
    )


def test_a_false_place_in_a_schema_forbids_what_stands_there():
    check = ParameterCheck("t", {"properties": {"b": False}})
    assert check.problems({"b": "sk-secret"}) == ["tool 't': parameter '/b' violates falseSchema"]

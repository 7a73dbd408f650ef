"""What verify, simulate, transaction_check and the permissions say beyond the recorded cases."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_trio.engine import (
    equivalent,
    harness_metrics,
    optimize,
    permission_classify,
    permission_evaluate,
    simulate,
    transaction_check,
    verify,
)
from car_trio.engine.model import parse
from car_trio.engine.ordering import edges, levels
from car_trio.engine.permissions import fingerprint, tier_of_fingerprint
from car_trio.engine.preconditions import problem_with
from car_trio.engine.values import Uncanonical, canonical, debug, digest, identity, same
from tests.engine.plans import call, plan, plans, values_or_nested, write


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (5.0, "5"),
        (-0.5, "-0.5"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (1.5e25, "1.5e+25"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.25e-9, "1.25e-9"),
        (123.456, "123.456"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740993.0, "9007199254740992"),
    ],
)
def test_the_canonical_form_prints_numbers_as_ecmascript_does(number: float, shown: str) -> None:
    assert canonical({"a": [number]}) == f'{{"a":[{shown}]}}'.encode()


def test_the_canonical_form_sorts_keys_by_utf_16() -> None:
    assert canonical({"\ue000": 1, "\U0001f600": 2, "a": "\u00e9"}) == '{"a":"é","😀":2,"\ue000":1}'.encode()
    assert canonical({"b": None, "a": True, "c": "é"}) == '{"a":true,"b":null,"c":"é"}'.encode()
    assert canonical([1.5] * 3000) == b"[" + b",".join([b"1.5"] * 3000) + b"]", "in parts"
    assert canonical([1.5, {"b": "x", "a": "\x1f\n"}]) == b'[1.5,{"a":"\\u001f\\n","b":"x"}]'


@pytest.mark.parametrize("value", [2**53, -(2**53), {"a": [2**53]}, math.inf, math.nan, [1.5, 2**60]])
def test_what_no_double_holds_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(Uncanonical):
        digest(value)


@given(values_or_nested)
def test_canonical_forms_read_back_as_the_same_numbers_and_texts(value: Any) -> None:
    assert json.loads(canonical(value), parse_int=float) == value


@given(values_or_nested, values_or_nested)
def test_values_are_the_same_exactly_when_their_identities_are(one: Any, other: Any) -> None:
    assert same(one, one)
    if "-0.0" not in json.dumps([one, other]):
        assert same(one, other) == (identity(one) == identity(other))


def test_values_compare_as_serde_does() -> None:
    assert not same(5, 5.0)
    assert not same(True, 1)
    assert same({"a": 1, "b": [None]}, {"b": [None], "a": 1})
    assert not same({"a": 1}, {"b": 1})
    assert not same({"a": 1}, {"a": 1, "b": 1})
    assert not same([1], [1, 2])


def test_values_are_shown_in_rusts_debug_form() -> None:
    shown = debug({"b": [None, False, 1.0, 'é\n"\\'], "a": "\x1b\u200b"})
    assert shown == (
        'Object {"a": String("\\u{1b}\\u{200b}"), '
        '"b": Array [Null, Bool(false), Number(1.0), String("é\\n\\"\\\\")]}'
    )


@given(plans(most=10))
def test_levels_respect_every_edge_and_keep_list_order(proposal: dict[str, Any]) -> None:
    actions = parse(proposal).actions
    order = levels(actions)
    depth = {place: number for number, level in enumerate(order) for place in level}
    assert sorted(depth) == list(range(len(actions)))
    assert all(level == sorted(level) for level in order)
    for place, earlier in enumerate(edges(actions)):
        assert all(other < place and depth[other] < depth[place] for other in earlier)
        # As early as its edges allow.
        assert depth[place] == max((depth[other] + 1 for other in earlier), default=0)


def writes_of(action: dict[str, Any]) -> set[str]:
    own = {action["parameters"]["key"]} if action["type"] == "state_write" else set()
    return own | set(action.get("expected_effects", {}))


def by_the_book(actions: list[dict[str, Any]]) -> list[set[int]]:
    """Section 6 read literally: which earlier places each action waits for, directly or not."""
    reached: list[set[int]] = []
    for j, action in enumerate(actions):
        direct: set[int] = set()
        for key in action.get("state_dependencies", []):
            writers = [i for i, other in enumerate(actions) if key in writes_of(other)]
            if writers and writers[-1] < j:
                direct.add(writers[-1])
        if action["type"] == "state_write":
            key = action["parameters"]["key"]
            same_key = [
                i
                for i, other in enumerate(actions[:j])
                if other["type"] == "state_write" and other["parameters"]["key"] == key
            ]
            direct |= set(same_key[-1:])
        reached.append(direct.union(*(reached[i] for i in direct)))
    return reached


@given(plans(most=8))
def test_transaction_check_finds_what_comparing_every_pair_finds(proposal: dict[str, Any]) -> None:
    actions = proposal["actions"]
    reached = by_the_book(actions)
    writes = [writes_of(action) | set(action.get("write_set", [])) for action in actions]
    reads = [
        set(action.get("read_set", []))
        | set(action.get("state_dependencies", []))
        | ({action["parameters"]["key"]} if action["type"] == "state_read" else set())
        for action in actions
    ]
    expected = set()
    for j in range(len(actions)):
        for i in set(range(j)) - reached[j]:
            expected |= {("write_write", key, f"a{i}", f"a{j}") for key in writes[i] & writes[j]}
            expected |= {("read_write", key, f"a{i}", f"a{j}") for key in reads[i] & writes[j]}
            expected |= {("read_write", key, f"a{j}", f"a{i}") for key in reads[j] & writes[i]}
    answer = transaction_check(json.dumps(proposal))
    found = [(each["kind"], each["key"], *each["actions"]) for each in answer["conflicts"]]
    assert sorted(found) == sorted(expected)
    assert answer["consistent"] == (not expected)


@given(plans(most=8))
def test_verify_finds_each_pair_of_writers_once(proposal: dict[str, Any]) -> None:
    actions = proposal["actions"]
    expected = [
        [one["id"], other["id"], key]
        for i, one in enumerate(actions)
        for other in actions[i + 1 :]
        for key in writes_of(one) & writes_of(other)
        if key not in one.get("state_dependencies", []) and key not in other.get("state_dependencies", [])
    ]
    answer = verify(proposal)
    assert sorted(answer["conflicts"]) == sorted(expected)
    assert answer["valid"] == all(issue["severity"] == "warning" for issue in answer["issues"])


def test_verify_takes_its_arguments_as_json_text_too() -> None:
    proposal = plan(call("a", parameters={"m": 1}), call("b", "nope"))
    arguments: list[Any] = [
        proposal,
        {"k": 1},
        None,
        1,
        [{"name": "ok", "parameters": {"required": ["x", 5]}}],
    ]
    assert verify(
        *(each if each is None else json.dumps(each) for each in arguments[:3]), *arguments[3:]
    ) == verify(*arguments)
    messages = [issue["message"] for issue in verify(*arguments)["issues"]]
    assert messages == [
        "excessive actions: 2 (limit 1)",
        "tool 'ok': missing required parameter 'x'",
        "tool 'nope' is not registered",
    ]


def test_a_proposal_without_actions_is_within_any_limit() -> None:
    answer = verify(plan(), None, None, -1)
    assert answer["valid"] and answer["issues"] == []
    assert answer["evidence"]["confidence"] == 1.0


def test_the_bounds_check_names_its_limit_and_skipped_checks_say_so() -> None:
    checks = {each["name"]: each for each in verify(plan(), None, None, 7)["evidence"]["checks"]}
    assert checks["resource_bounds"]["verifies"] == "action count is within the limit (7)"
    assert checks["tool_existence"]["verifies"] == "(skipped — no tool registry supplied)"
    assert checks["compensation_resolution"]["verifies"].startswith("a declared compensation names")


@pytest.mark.parametrize(
    ("schema", "parameters", "problems"),
    [
        ({"type": "object"}, {"m": 1}, []),
        ({"properties": {"m": True}}, {"m": 1}, []),
        ({"properties": {"m": {"type": 5}}}, {"m": 1}, []),
        ({"properties": {"m": {"type": "zz"}}}, {"m": 1}, []),
        ({"properties": {"m": {"type": "integer"}}}, {"m": 10**400}, []),
        ({"properties": {"m": {"type": "integer"}}}, {"m": 1.0}, []),
        ({"properties": {"m": {"type": "integer"}}}, {"m": 1.5}, ["integer"]),
        ({"properties": {"m": {"type": ["string", "null"]}}}, {"m": 1}, ["string|null"]),
        ("not a schema", {"m": 1}, []),
    ],
)
def test_a_schema_is_read_as_far_as_it_makes_sense(schema: Any, parameters: Any, problems: list[str]) -> None:
    answer = verify(
        plan(call("a", parameters=parameters)), None, None, None, [{"name": "ok", "parameters": schema}]
    )
    found = [issue["message"].partition("expected ")[2].partition(",")[0] for issue in answer["issues"]]
    assert found == problems


def test_a_tool_call_without_a_tool_is_an_error_and_leaves_no_output_untested() -> None:
    answer = verify(plan(call("a", None, expected_effects={"k": 1})))
    assert [issue["message"] for issue in answer["issues"]] == ["tool_call action has no tool specified"]
    assert answer["evidence"]["untested_regions"] == ["state key 'k' (value set at runtime by action a)"]


def test_compensations_inside_the_proposal_are_checked_without_a_registry() -> None:
    def ran(*actions: dict[str, Any]) -> bool:
        checks = verify(plan(*actions))["evidence"]["checks"]
        return next(each["ran"] for each in checks if each["name"] == "compensation_resolution")

    assert ran(write("a", "k", 1, reversibility="compensable"))
    assert ran(call("a"), call("b", compensation={"type": "action_ref", "action_id": "a"}))
    assert not ran(call("a", reversibility="compensable", compensation={"type": "tool", "tool": "undo"}))


def test_compensations_that_name_nothing_are_errors() -> None:
    answer = verify(
        plan(
            call("a", reversibility="compensable"),
            call("b", compensation={"type": "tool", "tool": "undo"}),
            call("c", compensation={"type": "action_ref", "action_id": "zz"}),
            call("d", compensation={"type": "action_ref", "action_id": "d"}),
        ),
        None,
        ["ok"],
    )
    errors = [issue["message"] for issue in answer["issues"] if issue["severity"] == "error"]
    assert errors[1:] == [
        "action declares reversibility 'compensable' but no compensation",
        "compensation names tool 'undo', which is not registered",
        "compensation references action 'zz', which is not in this proposal",
    ]


@given(plans())
def test_optimize_changes_no_order_and_no_final_state(proposal: dict[str, Any]) -> None:
    optimized = optimize(proposal)
    written = set().union(*map(writes_of, proposal["actions"]))
    for action in optimized["actions"]:
        assert set(action["state_dependencies"]) <= written
    assert levels(parse(optimized).actions) == levels(parse(proposal).actions)
    assert optimize(optimized) == optimized


@given(plans())
def test_every_proposal_is_equivalent_to_itself(proposal: dict[str, Any]) -> None:
    assert equivalent(proposal, json.dumps(proposal))


def test_simulate_starts_from_the_given_state_and_leaves_it_alone() -> None:
    state = {"k": 1}
    blocked = write("b", "z", 1, preconditions=[{"key": "nope", "operator": "exists"}])
    assert simulate(plan(write("a", "k", 2), blocked), state) == {"k": 2}
    assert state == {"k": 1}


def test_parameters_of_any_size_are_compared_once_for_each_call() -> None:
    text = "x" * 200_000
    loop = plan(*(call(f"a{n}", parameters={"text": text}) for n in range(3)))
    assert "repeated identical tool call: ok (3x) — likely loop" in [
        issue["message"] for issue in verify(loop)["issues"]
    ]


@pytest.mark.parametrize(
    ("tool", "parameters", "tier"),
    [
        ("sendEmail", {}, "full_access"),
        ("GETUSER", {}, "sandbox_edit"),
        ("undelete", {}, "sandbox_edit"),
        ("s3_put", {}, "sandbox_edit"),
        ("runmkfs", {}, "full_access"),
        ("zz", {"apiKey": 1}, "full_access"),
        ("zz", {"api-key": None}, "full_access"),
        ("zz", {"deep": {"access_token": ["x"]}}, "full_access"),
        ("zz", {"max_tokens": 5}, "sandbox_edit"),
        ("zz", {"deep": [{"q": ["SUDO rm"]}]}, "full_access"),
        ("zz", {"filePath": ["x.pem"]}, "full_access"),
        ("zz", {"path": "config/.env.local"}, "full_access"),
        ("zz", {"path": "config/environment"}, "sandbox_edit"),
        ("zz", {"url": "x.pem"}, "sandbox_edit"),
        ("zz", {"cmd": "rm x"}, "full_access"),
        ("zz", {"cmd": "cat .ssh/config"}, "full_access"),
        ("zz", {"command": "ls"}, "sandbox_edit"),
        (None, {}, "sandbox_edit"),
    ],
)
def test_words_decide_the_tier(tool: str | None, parameters: dict[str, Any], tier: str) -> None:
    proposal = plan(call("a", tool, parameters=parameters))
    (row,) = permission_classify(proposal)
    assert row["required_tier"] == tier
    if tool:
        assert tier_of_fingerprint(fingerprint(parse(proposal).actions[0])) == tier


def test_a_missing_compensation_is_told() -> None:
    (row,) = permission_classify(plan(call("a", reversibility="compensable")))
    assert row["missing_compensation"] is True


@pytest.mark.parametrize("mark", ["", "nonsense", "tool_call|x|{", "zz|x|{}", "tool_call|x"])
def test_an_unreadable_fingerprint_needs_the_highest_tier(mark: str) -> None:
    assert tier_of_fingerprint(mark) == "full_access"


def test_the_ledger_decides_what_it_knows() -> None:
    proposal = plan(call("a", "send"), call("b", "look"), write("c", "k", 1), call("d", "post"))
    ledger = {
        "tool_call|send|{}": {"decision": "approved", "reviewer": "me", "reason": None},
        "tool_call|look|{}": {"decision": "rejected", "reviewer": "me", "reason": "no"},
        'state_write|-|{"key":"k","value":1}': {"decision": "rejected", "reviewer": "me", "reason": None},
    }
    rows = permission_evaluate(proposal, "full_access", ledger)
    assert [(row["decision"], row.get("reason"), row.get("granted")) for row in rows] == [
        ("allow", None, "full_access"),
        ("deny", "previously rejected by me (no)", None),
        ("deny", "previously rejected by me", None),
        ("allow", None, "full_access"),
    ]
    assert permission_evaluate(proposal)[3]["granted"] == "sandbox_edit"


def test_an_unknown_tier_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"invalid tier 'zzz' \(expected read_only\|sandbox_edit\|full_access\)"
    ):
        permission_evaluate(plan(), "zzz")


@given(st.text(max_size=20), values_or_nested)
def test_any_tool_call_can_be_classified(tool: str, parameters: Any) -> None:
    (row,) = permission_classify(plan(call("a", tool, parameters={"q": parameters})))
    assert row["required_tier"] in ("sandbox_edit", "full_access")


def test_metrics_count_events_and_tell_lines_that_are_none() -> None:
    lines = [
        {"kind": "permission_decision", "data": {"decision": "needs_approval"}},
        {"kind": "permission_decision", "data": {"decision": "deny"}, "timestamp": "2026-01-01T00:00:00Z"},
        {"kind": "approval_recorded", "data": {"decision": "rejected"}, "timestamp": "2026-01-01T00:00:02Z"},
        {"kind": "action_retrying", "data": {"decision": 5}},
    ]
    answer = harness_metrics("\n\n".join([*map(json.dumps, lines), "no json", '{"kind": 5}']))
    assert answer["safety"] == {
        "permission_decisions": 2,
        "escalations": 1,
        "denials": 1,
        "approvals_recorded": 1,
        "approvals_rejected": 1,
    }
    assert answer["recovery"]["retries"] == 1
    assert answer["trajectory_efficiency"]["wall_clock_ms"] == 2000.0
    assert answer["parse_errors"] == 2
    assert answer["replayability"]["total_events"] == 4


@pytest.mark.parametrize(
    ("operator", "current", "wanted", "problem"),
    [
        ("gte", 5, 5.0, None),
        ("lt", 5, 6, None),
        ("gt", 5, 5, "'k' is Number(5), need gt Number(5)"),
        ("lte", "a", 5, "cannot compare 'k': String(\"a\") lte Number(5)"),
        ("zz", 5, 5, "unknown operator 'zz'"),
    ],
)
def test_numbers_alone_are_compared(operator: str, current: Any, wanted: Any, problem: str | None) -> None:
    condition = {"key": "k", "operator": operator, "value": wanted}
    found = problem_with(
        parse(plan(call("a", preconditions=[condition]))).actions[0].preconditions[0], {"k": current}
    )
    assert found == problem


@pytest.mark.parametrize(
    ("value", "name"), [(None, "null"), (True, "boolean"), (1.5, "number"), ([], "array"), ({}, "object")]
)
def test_a_wrong_type_is_told_by_its_name_in_json(value: Any, name: str) -> None:
    schema = {"properties": {"m": {"type": "string"}}}
    answer = verify(
        plan(call("a", parameters={"m": value})), None, None, None, [{"name": "ok", "parameters": schema}]
    )
    messages = [issue["message"] for issue in answer["issues"]]
    assert messages == [f"tool 'ok': parameter 'm' has wrong type: expected string, got {name}"]


def test_a_plan_that_was_made_on_an_older_version_is_stale() -> None:
    believed = [{"key": "k", "read_version": 3}, {"key": "gone", "read_version": 1}, {"key": "new"}]
    answer = transaction_check(plan(call("a", assumptions=believed)), {"k": 5})
    assert [(each["kind"], each["key"], each["actions"]) for each in answer["conflicts"]] == [
        ("stale_assumption", "k", ["a"]),
        ("stale_assumption", "gone", ["a"]),
    ]
    assert [each["explanation"].partition(" — ")[0] for each in answer["conflicts"]] == [
        "action 'a' planned against 'k' at version 3 but the shared state is now at 5",
        "action 'a' planned against 'gone' at version 1 but the shared state is now at absent",
    ]
    assert transaction_check(plan(call("a", assumptions=believed[:1])), {"k": 3})["consistent"]


def test_reading_needs_the_lowest_tier_and_deleting_cannot_be_undone() -> None:
    read = {"id": "r", "type": "state_read", "parameters": {"key": "k"}}
    rows = permission_classify(plan(read, call("d", "delete_file")))
    assert [(row["required_tier"], row["reversibility"]) for row in rows] == [
        ("read_only", "reversible"),
        ("full_access", "irreversible"),
    ]

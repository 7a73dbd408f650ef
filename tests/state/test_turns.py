"""What goes into a record and how big (`runs.md` section 2): cuts, digests, line limits, verdicts."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from car_trio.state.turns import (
    CUT_MARK,
    FIELD_MARK,
    MAX_LINE_BYTES,
    MAX_STRING_BYTES,
    TurnTooLarge,
    cut_outcome,
    cut_raw,
    cut_text,
    ended_line,
    executed,
    narrated,
    received_bytes,
    stamped,
    started_line,
)
from car_trio.wire.errors import Refusal
from car_trio.wire.pieces import PIECE_BYTES, at_once
from car_trio.wire.runs import (
    AgentOutcome,
    CliOutcome,
    Ended,
    Incomplete,
    NarratedTurn,
    Outcome,
    Started,
)


def line(turn: NarratedTurn, index: int = 0) -> dict:
    text = stamped(narrated(turn, "now"), index)
    assert b"\n" not in text
    assert len(text) <= MAX_LINE_BYTES
    return json.loads(text)


def row(**changes) -> dict:
    given = {
        "tool": "t",
        "parameters": Raw(b"{}"),
        "output": UNSET,
        "status": "succeeded",
        "error": None,
        "action_id": "a",
        "proposal_id": "p",
        "recorded_at": "now",
    } | changes
    return json.loads(stamped(executed(**given), 0))


def sha(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def test_a_turn_gets_its_position_when_it_is_stamped():
    assert line(NarratedTurn(prompt="p", tool="t"), 41) == {
        "record": "turn",
        "index": 41,
        "prompt": "p",
        "tool": "t",
        "verifier_verdict": "not_run",
        "recorded_at": "now",
    }


def test_payloads_pass_byte_for_byte():
    raw = b'{"a": 1.50, "a": 12345678901234567890123}'
    assert raw in stamped(narrated(NarratedTurn(output=Raw(raw)), "now"), 0)


def test_a_payload_with_line_breaks_is_folded_into_one_line():
    assert line(NarratedTurn(output=Raw(b'{\n "a": [1,\r\n 2]}')))["output"] == {"a": [1, 2]}


@pytest.mark.parametrize("bad", [b"1e999", b"1" * 5000, b"[" * 3000 + b"]" * 3000])
def test_a_payload_that_no_reader_decodes_is_refused_by_name(bad):
    with pytest.raises(Refusal, match="output cannot be read back") as caught:
        narrated(NarratedTurn(output=Raw(bad)), "now")
    assert caught.value.code == -32602


def test_a_text_of_exactly_the_limit_is_kept_and_one_byte_more_is_cut():
    at_limit = "x" * MAX_STRING_BYTES
    assert line(NarratedTurn(prompt=at_limit))["prompt"] == at_limit
    over = line(NarratedTurn(prompt=at_limit + "y"))
    assert over["prompt"] == at_limit + CUT_MARK
    assert over["truncated"] == {"prompt": {"bytes": MAX_STRING_BYTES + 1, "sha256": sha(at_limit + "y")}}


@given(st.integers(MAX_STRING_BYTES - 40, MAX_STRING_BYTES + 4), st.text("aé€😀", min_size=1, max_size=20))
def test_a_cut_keeps_whole_characters_and_at_most_the_limit(plain, odd):
    text = "x" * plain + odd
    cuts = {}
    kept = cut_text(text, "p", cuts)
    if cuts:
        head = kept.removesuffix(CUT_MARK)
        assert kept.endswith(CUT_MARK)
        assert text.startswith(head)
        assert MAX_STRING_BYTES - 4 < len(head.encode()) <= MAX_STRING_BYTES
        assert cuts["p"].bytes == len(text.encode()) > MAX_STRING_BYTES
        assert cuts["p"].sha256 == sha(text)
    else:
        assert kept == text
        assert len(text.encode()) <= MAX_STRING_BYTES


def test_strings_inside_payloads_are_cut_and_named_by_json_pointer():
    long = "z" * (MAX_STRING_BYTES + 5)
    payload = {"a": ["ok", long], "x/y~z": long, "n": 1, "none": None}
    turn = line(NarratedTurn(output=Raw(json.dumps(payload)), parameters=Raw(json.dumps({"p": long}))))
    assert set(turn["truncated"]) == {"output/a/1", "output/x~1y~0z", "parameters/p"}
    assert turn["output"]["a"] == ["ok", "z" * MAX_STRING_BYTES + CUT_MARK]
    assert (turn["output"]["n"], turn["output"]["none"]) == (1, None)


def test_a_large_payload_of_short_strings_is_not_touched():
    payload = json.dumps(["s" * 100] * 500).encode()
    assert payload in stamped(narrated(NarratedTurn(output=Raw(payload)), "now"), 0)


def test_a_string_that_is_long_only_in_its_escapes_is_not_touched():
    payload = b'{"a":"%b"}' % (b"\\u00e9" * 4_000)
    assert payload in stamped(narrated(NarratedTurn(output=Raw(payload)), "now"), 0)


def test_a_payload_that_no_cut_makes_fit_is_replaced_unread():
    hopeless = b"[" + b"[1e999]," * 40_000 + b"0]"
    turn = line(NarratedTurn(output=Raw(hopeless)))
    assert turn["output"] == FIELD_MARK
    assert turn["truncated"] == {"output": {"bytes": len(hopeless), "sha256": sha(hopeless)}}


def test_a_line_too_long_loses_output_first_and_only_as_far_as_needed():
    big = json.dumps(["s" * 1000] * 250).encode()
    turn = line(NarratedTurn(prompt="p", output=Raw(big), parameters=Raw(big)))
    assert turn["output"] == FIELD_MARK
    assert turn["parameters"] == json.loads(big)
    assert turn["truncated"] == {"output": {"bytes": len(big), "sha256": sha(big)}}


def test_a_replaced_field_names_what_was_received_not_what_its_cuts_left():
    big = json.dumps([["s" * 1000] * 300, "z" * 20_000]).encode()
    turn = line(NarratedTurn(output=Raw(big)))
    assert turn["truncated"] == {"output": {"bytes": len(big), "sha256": sha(big)}}


def test_parameters_and_then_the_prompt_go_when_the_line_is_still_too_long():
    big = json.dumps(["s" * 1000] * 300).encode()
    tool = "t" * (MAX_LINE_BYTES - 5000)
    prompt = "\x01" * 16_000
    turn = line(NarratedTurn(prompt=prompt, tool=tool, output=Raw(big), parameters=Raw(big)))
    assert (turn["output"], turn["parameters"], turn["prompt"]) == (FIELD_MARK,) * 3
    assert turn["truncated"]["prompt"] == {"bytes": 16_000, "sha256": sha(prompt)}


def test_of_a_string_that_is_replaced_the_digest_is_of_its_text():
    text = "\x01" * 16_384
    quoted = Raw(json.dumps(text).encode())
    turn = line(NarratedTurn(prompt=text, output=quoted, parameters=Raw(json.dumps({"a": text}).encode())))
    assert turn["output"] == FIELD_MARK
    assert turn["truncated"]["output"] == {"bytes": 16_384, "sha256": sha(text)}


def test_a_prompt_that_was_cut_and_then_replaced_keeps_the_digest_of_all_of_it():
    prompt = "\x01" * 40_000
    turn = line(NarratedTurn(prompt=prompt, tool="t" * (MAX_LINE_BYTES - 5000)))
    assert turn["prompt"] == FIELD_MARK
    assert turn["truncated"] == {"prompt": {"bytes": 40_000, "sha256": sha(prompt)}}


def test_a_turn_that_no_cut_makes_fit_is_too_large():
    with pytest.raises(TurnTooLarge):
        narrated(NarratedTurn(tool="t" * MAX_LINE_BYTES), "now")


def test_a_narrated_turn_keeps_the_verdict_it_came_with():
    turn = line(
        NarratedTurn(
            cli_outcome=CliOutcome(timed_out=False, output_tail="", exit_code=0),
            verifier_verdict="failed",
            policy_rejected=True,
        )
    )
    assert (turn["verifier_verdict"], turn["policy_rejected"]) == ("failed", True)
    assert turn["cli_outcome"] == {"exit_code": 0, "timed_out": False, "output_tail": ""}


@pytest.mark.parametrize(
    ("output", "verdict"),
    [
        ({"cli": "make", "exit_code": 0, "timed_out": False, "output_tail": "ok"}, "passed"),
        ({"exit_code": 0, "timed_out": True, "output_tail": ""}, "failed"),
        ({"exit_code": 1, "timed_out": False, "output_tail": ""}, "failed"),
        ({"timed_out": False, "output_tail": ""}, "failed"),
        ({"output_tail": "no timed_out"}, "not_run"),
        ({"other": 1}, "not_run"),
    ],
)
def test_the_verdict_of_a_tools_result_follows_its_exit_code(output, verdict):
    turn = row(output=Raw(json.dumps(output)))
    assert turn["verifier_verdict"] == verdict
    assert ("cli_outcome" in turn) == (verdict != "not_run")


def test_a_rejected_row_is_marked_and_carries_its_reason():
    turn = row(status="rejected", error="tool 't' is not registered", tool=None)
    assert turn["policy_rejected"] is True
    assert turn["error"] == "tool 't' is not registered"
    assert "tool" not in turn
    assert "output" not in turn


def test_the_prompt_of_a_row_is_its_prompt_parameter_when_that_is_a_string():
    assert row(parameters=Raw(b'{"prompt":"do"}'))["prompt"] == "do"
    assert "prompt" not in row(parameters=Raw(b'{"prompt":5}'))
    assert "prompt" not in row(parameters=Raw(b"[]"))


def test_every_text_of_a_row_is_cut_because_a_row_is_never_refused():
    long = "x" * 300_000
    tail = {"cli": long, "timed_out": False, "output_tail": long}
    turn = row(
        tool=long,
        error=long,
        action_id=long,
        proposal_id=long,
        output=Raw(json.dumps(tail)),
        parameters=Raw(json.dumps({"prompt": long})),
    )
    assert {"tool", "error", "action_id", "proposal_id", "cli_outcome/cli"} <= set(turn["truncated"])


def started(**changes) -> Started:
    return Started(**({"run_id": "r", "agent_id": "a", "intent": "i", "started_at": "t"} | changes))


def test_intent_and_outcome_description_are_cut_like_prompts():
    long = "i" * 20_000
    record = json.loads(started_line(started(intent=long, outcome_description=long)))
    assert set(record["truncated"]) == {"intent", "outcome_description"}
    assert record["intent"].endswith(CUT_MARK)
    assert "truncated" not in json.loads(started_line(started()))


def test_a_start_that_no_cut_makes_fit_is_refused():
    with pytest.raises(Refusal, match="at most 262144") as caught:
        started_line(started(agent_id="a" * MAX_LINE_BYTES))
    assert caught.value.code == -32602


def cut_and_ended(record: Ended) -> bytes:
    cuts: dict = {}
    if isinstance(record.termination, Outcome):
        at_once(cut_outcome(record.termination.outcome, cuts))
    return ended_line(record, cuts)


def end(outcome: AgentOutcome) -> dict:
    return json.loads(
        cut_and_ended(Ended(run_id="r", agent_id="a", termination=Outcome(outcome), ended_at="t"))
    )


def test_summary_and_evidence_are_cut_and_named_by_their_place():
    long = "s" * 20_000
    evidence = Raw(json.dumps({"kind": "tool_result", "deep": {"text": long}}))
    record = end(AgentOutcome(status="done", summary=long, evidence=[evidence]))
    assert set(record["truncated"]) == {
        "termination/outcome/summary",
        "termination/outcome/evidence/0/deep/text",
    }


@pytest.mark.parametrize("item", [b'{"kind":"gossip"}', b"{}", b"5", b"[]"])
def test_evidence_without_a_known_kind_is_refused_by_its_place(item):
    good = Raw(b'{"kind":"evaluator"}')
    with pytest.raises(Refusal, match=r"evidence\[1\].kind"):
        end(AgentOutcome(status="done", evidence=[good, Raw(item)]))


def test_everything_of_a_turn_that_has_to_be_looked_at_counts():
    assert received_bytes(NarratedTurn()) == 0
    assert received_bytes(NarratedTurn(prompt="12", parameters=Raw(b"[3]"), output=Raw(b'"45"'))) == 2 + 3 + 4


def test_much_evidence_is_cut_in_many_steps():
    item = Raw(json.dumps({"kind": "tool_result", "text": "s" * 20_000}))
    steps = cut_outcome(AgentOutcome(status="done", evidence=[item] * 30), {})
    assert len(list(steps)) == 30 // (PIECE_BYTES // 20_000 + 1)


NUMBERS = b"[" + b"1," * 90_000 + b"1]"


@pytest.mark.parametrize(
    ("before", "is_kept"),
    [
        (b'{"a":"%b","n":[1,2]}' % (b"x" * 500_000), True),
        (b'{"a":"%b","b":"%b"}' % (b"x" * 200_000, b'\\"\\\\' * 100_000), True),
        (b'{"a":"%b","n":%b}' % (b"x" * 500_000, NUMBERS), True),
        (b'{"a":"%b","n":[%b,%b]}' % (b"x" * 500_000, NUMBERS, NUMBERS), False),
        (b'{"n":[%b,%b],"a":"%b"}' % (NUMBERS, NUMBERS, b"x" * 500_000), False),
        (b'{"a":[%b"x"]}' % (b'"%b",' % (b"x" * 9000) * 60), False),
        (b'{"a":[%b"x"]}' % (b'"%b",' % (b"x" * 30_000) * 10), True),
        (b'{"a":[%b"x"]}' % (b'"%b",' % (b"x" * 30_000) * 40), False),
    ],
)
def test_a_very_large_payload_is_cut_when_its_long_strings_are_all_that_is_too_much(before, is_kept):
    turn = line(NarratedTurn(output=Raw(before)))
    if is_kept:
        assert all(cut["bytes"] > MAX_STRING_BYTES for cut in turn["truncated"].values())
        assert all(path.startswith("output/") for path in turn["truncated"])
    else:
        assert turn["output"] == FIELD_MARK
        assert turn["truncated"] == {"output": {"bytes": len(before), "sha256": sha(before)}}


def test_a_string_is_found_to_be_too_long_wherever_it_begins():
    for begin in (0, 1, 8190, 8191, 8192, 16_000):
        for length in (MAX_STRING_BYTES, MAX_STRING_BYTES + 1):
            payload = b'["%b","%b"]' % (b"a" * begin, b"x" * length)
            cuts: dict = {}
            cut_raw(Raw(payload), "output", cuts)
            assert set(cuts) == ({"output/1"} if length > MAX_STRING_BYTES else set())


def test_a_large_payload_with_a_number_that_cannot_be_read_is_refused():
    with pytest.raises(Refusal, match="output cannot be read back"):
        line(NarratedTurn(output=Raw(b'["%b",1e999]' % (b"x," * 10_000))))


def test_what_we_encoded_ourselves_is_not_read_again():
    assert bytes(cut_raw(Raw(b"[1e999]"), "parameters", {}, is_ours=True)) == b"[1e999]"


def test_a_prompt_that_is_no_string_is_no_prompt():
    assert "prompt" not in row(parameters=Raw(b'{"prompt":{"a":1}}'))


def test_an_incomplete_end_has_nothing_to_cut():
    record = Ended(run_id="r", agent_id="a", termination=Incomplete("shutdown"), ended_at="t")
    assert msgspec.json.decode(cut_and_ended(record))["termination"] == {
        "kind": "incomplete",
        "reason": "shutdown",
    }

"""The recorded answers of `execute`, through a real `proposal.submit` with a client that plays the tools."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
import trio

from car_trio.engine.execute import ToolFailed, _decoded
from car_trio.engine.model import parse
from car_trio.engine.ordering import levels
from tests.engine.test_cases import (
    POSITION,
    ROWS,
    Tools,
    answers,
    exact,
    needs_cases,
    with_placeholders,
)
from tests.peer import Peer, open_house

pytestmark = [pytest.mark.usefixtures("inline_threads"), needs_cases]

EXECUTE = [row for row in ROWS if row["fn"] == "execute"]
SHARES = 8
PREFIX = "invalid proposal JSON: "


async def play(peer: Peer, tools: Tools, submitted: int) -> Any:
    """Answers every call until the reply comes."""
    while True:
        frame = await peer.receive()
        if frame.get("method") == "tools.execute":
            await answer(peer, tools, frame["params"])
        elif frame.get("id") == submitted and "method" not in frame:
            return frame


async def answer(peer: Peer, tools: Tools, call: dict[str, Any]) -> None:
    try:
        result = _decoded(await tools(call["tool"], call["parameters"]))
    except ToolFailed as failure:
        await peer.answer(call, error={"code": 1, "message": failure.message})
    except Exception as error:
        said = f"Python tool error: {type(error).__name__}: {error}"
        await peer.answer(call, error={"code": 1, "message": said})
    else:
        await peer.answer(call, result)


def is_json(text: Any) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def names_of(proposal: Any, tool_names: Any) -> list[str]:
    if tool_names is not None:
        return [name for name in tool_names if name]
    document = json.loads(proposal) if isinstance(proposal, str) else proposal
    actions = document.get("actions", []) if isinstance(document, dict) else []
    found = [each.get("tool") for each in actions if isinstance(each, dict)]
    found += [
        each["compensation"].get("tool")
        for each in actions
        if isinstance(each, dict) and isinstance(each.get("compensation"), dict)
    ]
    return [name for name in dict.fromkeys(found) if isinstance(name, str) and name]


def aborting_level(proposal: Any, rows: list[dict[str, Any]]) -> set[int]:
    """The places of the level in which an action aborted; empty when none did."""
    actions = parse(proposal, prefix="").actions
    aborted = any(row["status"] == "skipped" and "abort" in row.get("error", "") for row in rows)
    aborted |= any(row.get("rolled_back") for row in rows)
    aborted |= any(
        row["status"] == "failed" and action.failure_behavior == "abort"
        for row, action in zip(rows, actions, strict=True)
    )
    failed = [place for place, row in enumerate(rows) if row["status"] == "failed"]
    return (
        {place for level in levels(actions) if set(level) & set(failed) for place in level}
        if aborted
        else set()
    )


def compare(row: dict[str, Any], result: dict[str, Any], tools: Tools) -> None:
    proposal = row["args"][0]
    assert result.pop("final_proposal")["actions"] is not None
    result.pop("accepted_proposal_preimages", None)
    candidates = deepcopy(answers(row))
    free = aborting_level(proposal, candidates[0]["results"])
    if len(free) > 1:
        for each in [result, *candidates]:
            each["cost"] = None
            for place in free:
                each["results"][place] = None
    else:
        assert tools.calls == row["calls"], row["name"]
    said = exact(with_placeholders(result, candidates[0]))
    assert said in [exact(each) for each in candidates], row["name"]


async def one(house: Any, row: dict[str, Any]) -> bool:
    """Plays a recorded case; whether it could be: what is no JSON is no request."""
    proposal, tool_names = row["args"]
    text = proposal if isinstance(proposal, str) else json.dumps(proposal)
    if not is_json(text):
        return False
    peer = await house.peer()
    await peer.call("tools.register", [{"name": name} for name in names_of(proposal, tool_names)])
    tools = Tools()
    await peer.send('{"id":999,"method":"proposal.submit","params":{"proposal":%s}}' % text)
    frame = await play(peer, tools, 999)
    await peer.drop()
    if "error" not in row:
        assert "result" in frame, (row["name"], frame)
        compare(row, frame["result"], tools)
        return True
    assert frame["error"]["code"] == -32602, row["name"]
    said = POSITION.sub("", frame["error"]["message"].removeprefix(PREFIX))
    assert said == POSITION.sub("", row["error"]["message"]), row["name"]
    return True


@pytest.mark.parametrize("share", range(SHARES))
async def test_a_submit_answers_as_recorded(tmp_path, autojump_clock, share):
    played = 0
    async with open_house(tmp_path) as house:
        for row in EXECUTE[share::SHARES]:
            played += await one(house, row)
    assert played > 20


async def test_the_pure_answers_come_over_the_wire_too(tmp_path, autojump_clock):
    methods = {
        "simulate": lambda args: {"proposal": args[0], "initial_state": args[1] if len(args) > 1 else None},
        "optimize": lambda args: {"proposal": args[0]},
        "equivalent": lambda args: {"p1": args[0], "p2": args[1]},
        "permission_classify": lambda args: {"proposal": args[0]},
        "transaction_check": lambda args: {"proposal": args[0], "versions": (args[1:] or [None])[0]},
    }
    asked = 0
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for row in ROWS:
            if row["fn"] not in methods or "error" in row:
                continue
            params = methods[row["fn"]](row["args"])
            if any(isinstance(value, str) for value in params.values()):
                continue
            method = row["fn"].replace("permission_", "permission.")
            with trio.fail_after(5):
                answer = await peer.call(method, params)
            if row["fn"] == "transaction_check":
                assert answer["consistent"] == row["result"]["consistent"]
                continue
            candidates = answers(row)
            said = exact(with_placeholders(answer, candidates[0]))
            assert said in [exact(each) for each in candidates], row["name"]
            asked += 1
    assert asked > 50

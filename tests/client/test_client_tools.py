"""Tools: how they are offered, executed, refused and cancelled."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from car_trio.client import Car, TerminalToolError, connect
from car_trio.wire.tools import CancelTool

RESULT = {
    "proposal_id": "p",
    "results": [
        {"action_id": "a", "status": "succeeded", "output": 1, "state_changes": {}, "timestamp": "t"},
        {"action_id": "b", "status": "failed", "error": "no", "state_changes": {}, "timestamp": "t"},
    ],
    "cost": {"tool_calls": 1},
    "unknown": 1,
}


async def reply_of(daemon: Any, request_id: str = "cb-0") -> Any:
    await wait_all_tasks_blocked()
    reply = daemon.peers[-1].replies.get(request_id)
    return reply and {key: reply[key] for key in reply if key not in {"jsonrpc", "id"}}


async def test_a_decorated_tool_is_registered_with_its_description_and_answers(daemon: Any, car: Car) -> None:
    @car.tool("echo", description="says it again", parameters={"type": "object"}, idempotent=True)
    async def echo(parameters: dict[str, Any]) -> Any:
        return parameters["m"]

    assert await car.register() == 1
    assert daemon.calls_of("tools.register") == [
        [
            {
                "name": "echo",
                "description": "says it again",
                "parameters": {"type": "object"},
                "idempotent": True,
            }
        ]
    ]
    await daemon.peers[0].execute("echo", {"m": [1, "ü"]})
    assert await reply_of(daemon) == {"result": [1, "ü"]}


async def test_a_submit_registers_what_is_new_once(daemon: Any, car: Car) -> None:
    async def tool(parameters: dict[str, Any]) -> None: ...

    daemon.methods["proposal.submit"] = RESULT
    car.tool("one")(tool)
    await car.submit([])
    await car.submit([])
    assert await car.register(two=tool) == 1
    assert await car.register(two=tool) == 0
    assert daemon.calls_of("tools.register") == [[{"name": "one"}], [{"name": "two"}]]


async def test_a_tool_described_anew_is_registered_anew(daemon: Any, car: Car) -> None:
    async def tool(parameters: dict[str, Any]) -> None: ...

    await car.register(one=tool)
    car.tool("one", idempotent=True)(tool)
    assert await car.register() == 1
    car.tool("one")(tool)
    assert await car.register() == 1
    assert daemon.calls_of("tools.register") == [
        [{"name": "one"}],
        [{"name": "one", "idempotent": True}],
        [{"name": "one"}],
    ]


async def test_a_submit_gives_typed_rows(daemon: Any, car: Car) -> None:
    daemon.methods["proposal.submit"] = RESULT
    done = await car.submit([{"id": "a", "type": "tool_call"}])
    assert (done["a"].output, done["b"].error, done.cost.tool_calls) == (1, "no", 1)
    assert not done.succeeded
    with pytest.raises(KeyError):
        done["c"]
    await car.submit({"id": "p", "actions": []}, session_id="s", scope={"tenantId": "t"})
    assert daemon.calls_of("proposal.submit") == [
        {"proposal": {"actions": [{"id": "a", "type": "tool_call"}]}},
        {"proposal": {"id": "p", "actions": []}, "session_id": "s", "scope": {"tenantId": "t"}},
    ]


@pytest.mark.parametrize(
    ("rolled_back", "succeeded"),
    [(False, True), (True, False)],
)
async def test_a_rolled_back_proposal_has_not_succeeded(
    daemon: Any, car: Car, rolled_back: bool, succeeded: bool
) -> None:
    row = {**RESULT["results"][0], "rolled_back": rolled_back}  # type: ignore[index]
    daemon.methods["proposal.submit"] = {**RESULT, "results": [row]}
    assert (await car.submit([])).succeeded is succeeded


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("bad"), {"code": -32603, "message": "ValueError: bad"}),
        (ExceptionGroup("g", [ValueError("bad")]), {"code": -32603, "message": "ValueError: bad"}),
        (
            ExceptionGroup("g", [ValueError("a"), ValueError("b")]),
            {"code": -32603, "message": "ExceptionGroup: g (2 sub-exceptions)"},
        ),
        (TerminalToolError("stop"), {"code": -32603, "message": "stop", "data": {"terminal": True}}),
    ],
)
async def test_what_a_tool_raises_becomes_the_error_of_its_reply(
    daemon: Any, car: Car, error: Exception, expected: Any
) -> None:
    async def fail(parameters: dict[str, Any]) -> None:
        raise error

    await car.register(fail=fail)
    await daemon.peers[0].execute("fail", {})
    assert await reply_of(daemon) == {"error": expected}


async def test_a_tool_that_returns_what_is_not_json_says_so(daemon: Any, car: Car) -> None:
    async def odd(parameters: dict[str, Any]) -> Any:
        return object()

    await car.register(odd=odd)
    await daemon.peers[0].execute("odd", {})
    assert (await reply_of(daemon))["error"]["message"].startswith("TypeError")


class Measured(msgspec.Struct):
    celsius: float | None
    raw: msgspec.Raw = msgspec.Raw(b"null")


@pytest.mark.parametrize(
    "output",
    [
        float("nan"),
        {"deep": [1, (None, float("-inf"))]},
        [Measured(20.5), Measured(float("inf"))],
        Decimal("NaN"),
    ],
)
async def test_a_number_that_json_cannot_write_is_a_tools_failure_and_no_null(
    daemon: Any, car: Car, output: Any
) -> None:
    async def measure(parameters: dict[str, Any]) -> Any:
        return output

    await car.register(measure=measure)
    await daemon.peers[0].execute("measure", {})
    assert (await reply_of(daemon))["error"]["message"] == (
        "ValueError: the result of tool 'measure' holds a number that JSON cannot write (NaN or an infinity); "
        "put null or a text in its place"
    )


async def test_a_null_that_a_tool_means_goes_out(daemon: Any, car: Car) -> None:
    async def measure(parameters: dict[str, Any]) -> Any:
        return {"a": None, "b": [Decimal("1.5"), (2, "NaN")], "c": Measured(None)}

    await car.register(measure=measure)
    await daemon.peers[0].execute("measure", {})
    assert (await reply_of(daemon))["result"] == {
        "a": None,
        "b": [1.5, [2, "NaN"]],
        "c": {"celsius": None, "raw": None},
    }


async def test_requests_that_the_client_cannot_serve_are_answered_with_an_error(
    daemon: Any, car: Car
) -> None:
    await daemon.peers[0].execute("nope", {})
    assert (await reply_of(daemon))["error"]["code"] == -32601
    await daemon.peers[0].send(method="agent.chat", id="cb-1", params={})
    assert (await reply_of(daemon, "cb-1"))["error"]["code"] == -32601
    await daemon.peers[0].send(method="tools.execute", id="cb-2", params={"tool": 5})
    assert (await reply_of(daemon, "cb-2"))["error"]["code"] == -32602


async def test_tools_run_side_by_side_and_may_call_the_daemon(daemon: Any, car: Car) -> None:
    released = trio.Event()

    @car.tool("wait")
    async def wait(parameters: dict[str, Any]) -> str:
        await released.wait()
        return "waited"

    @car.tool("release")
    async def release(parameters: dict[str, Any]) -> Any:
        released.set()
        return await car.call("ping")

    await daemon.peers[0].execute("wait", {}, "cb-0")
    await daemon.peers[0].execute("release", {}, "cb-1")
    assert await reply_of(daemon, "cb-1") == {"result": "pong"}
    assert await reply_of(daemon, "cb-0") == {"result": "waited"}


async def cancel(daemon: Any, request_id: str = "cb-0") -> None:
    await daemon.peers[0].notify("tools.cancel", {"request_id": request_id, "action_id": "a1", "reason": "r"})


async def test_a_cancelled_tool_is_stopped_and_nothing_is_sent_about_it(
    daemon: Any, car: Car, autojump_clock: Any
) -> None:
    ended: list[str] = []

    @car.tool("sleep")
    async def sleep(parameters: dict[str, Any]) -> str:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("stopped")
        return "never"

    await daemon.peers[0].execute("sleep", {})
    await wait_all_tasks_blocked()
    await cancel(daemon)
    assert await reply_of(daemon) is None
    assert ended == ["stopped"]


async def test_a_tool_that_answers_although_it_was_cancelled_is_not_heard(
    daemon: Any, car: Car, autojump_clock: Any
) -> None:
    @car.tool("stubborn")
    async def stubborn(parameters: dict[str, Any]) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        return "late"

    await daemon.peers[0].execute("stubborn", {})
    await wait_all_tasks_blocked()
    await cancel(daemon)
    await trio.sleep(2)
    assert await reply_of(daemon) is None


async def test_a_cancel_that_comes_right_behind_its_request_is_not_lost(daemon: Any, car: Car) -> None:
    begun: list[str] = []

    @car.tool("sleep")
    async def sleep(parameters: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        begun.append("passed a checkpoint")

    params = {
        "action_id": "a",
        "tool": "sleep",
        "parameters": {},
        "timeout_ms": 1,
        "attempt": 1,
        "session_id": "s",
    }
    link = await car.link()
    async with trio.open_nursery() as tools:
        link._serve(
            "tools.execute",
            b'"cb-0"',
            msgspec.Raw(msgspec.json.encode({**params, "request_id": "cb-0"})),
            tools,
        )
        link._cancel(CancelTool("cb-0", "a", "r"))
    assert begun == []
    assert await reply_of(daemon) is None


async def test_a_cancel_for_a_tool_that_has_answered_does_nothing(daemon: Any, car: Car) -> None:
    await cancel(daemon, "cb-77")
    assert await car.call("ping") == "pong"


async def test_the_end_of_the_connection_stops_the_tools_that_run(daemon: Any, autojump_clock: Any) -> None:
    stopped = trio.Event()
    async with connect() as car:

        @car.tool("sleep")
        async def sleep(parameters: dict[str, Any]) -> None:
            try:
                await trio.sleep_forever()
            finally:
                stopped.set()

        await daemon.peers[0].execute("sleep", {})
        await wait_all_tasks_blocked()
        await daemon.peers[0].drop()
        await stopped.wait()
        assert daemon.peers[0].replies == {}

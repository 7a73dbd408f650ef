"""Values come back in messages that the readers of the real clients take: they stop at 127 levels (`DEEPEST_VALUE`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from car_trio.wire.frames import DEEPEST_VALUE
from tests.peer import House, Peer, Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")

MOST_LEVELS = 127


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(levels, inner), default=0)


class Measured:
    """A peer that measures what it is sent."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.deepest = 0

    async def receive(self) -> dict[str, Any]:
        frame = await self.peer.receive()
        self.deepest = max(self.deepest, levels(frame))
        return frame

    async def call(self, method: str, params: Any = None, result: Any = None) -> Any:
        """Answers calls of its tool meanwhile."""
        request_id = await self.peer.request(method, params)
        while "method" in (frame := await self.receive()) or frame["id"] != request_id:
            if frame.get("method") == "tools.execute":
                await self.peer.answer(frame["params"], result)
        if "error" in frame:
            raise Refused(frame["error"])
        return frame["result"]


async def state(agent: Measured, host: Measured, value: Any) -> None:
    await agent.call("state.set", {"key": "k", "value": value})
    await agent.call("state.get", {"key": "k"})
    await agent.call("state.snapshot")


async def parameters(agent: Measured, host: Measured, value: Any) -> None:
    action = {"id": "a", "type": "tool_call", "tool": "t", "parameters": {"x": value[0]}}
    done = await agent.call("proposal.submit", {"proposal": {"actions": [action]}})
    assert done["results"][0]["status"] == "succeeded"


async def turn(agent: Measured, host: Measured, value: Any) -> None:
    turn = {"tool": "t", "parameters": {"x": value[0]}, "output": value}
    await agent.call("runs.record_turns", {"run_id": "run", "turns": [turn]})


async def evidence(agent: Measured, host: Measured, value: Any) -> None:
    item = {"kind": "evaluator", "x": value[0]}
    await agent.call("runs.complete", {"run_id": "run", "outcome": {"status": "done", "evidence": [item]}})


async def approval(agent: Measured, host: Measured, value: Any) -> None:
    await agent.call("host.request_approval", {"action": "a", "details": value})
    assert (await host.call("host.approvals"))["approvals"]


async def notice(agent: Measured, host: Measured, value: Any) -> None:
    await agent.call("host.notify", {"message": "m", "payload": value})
    assert (await host.call("host.events"))["events"]


async def metadata(agent: Measured, host: Measured, value: Any) -> None:
    await agent.call("host.register_agent", {"id": "a", "name": "a", "kind": "k", "metadata": value})
    assert await host.call("host.agents")


async def returns(agent: Measured, host: Measured, value: Any) -> None:
    await agent.call("tools.register", [{"name": "u", "returns": value}])
    await agent.call("tools.list")


WAYS: list[Callable[[Measured, Measured, Any], Awaitable[None]]] = [
    state, parameters, turn, evidence, approval, notice, metadata, returns,
]  # fmt: skip


async def measured(house: House) -> tuple[Measured, Measured]:
    agent, host = Measured(await house.peer("alice")), Measured(await house.peer(host=True))
    await agent.call("tools.register", [{"name": "t"}])
    await agent.call("runs.start", {"intent": "i", "idempotency_key": "run"})
    for each in (agent, host):
        await each.call("runs.subscribe", {"run_id": "run"})
    await host.call("host.subscribe")
    return agent, host


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_the_deepest_value_comes_back_in_a_message_that_clients_can_read(tmp_path, autojump_clock, way):
    async with open_house(tmp_path) as house:
        agent, host = await measured(house)
        await way(agent, host, nested(DEEPEST_VALUE))
        for each in (agent, host):
            await each.call("runs.get_trace", {"run_id": "run"})
            await each.call("runs.subscribe", {"run_id": "run"})
            await each.call("server.health")
            assert DEEPEST_VALUE - 20 < max(agent.deepest, host.deepest) <= MOST_LEVELS


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_deeper_one_is_refused(tmp_path, autojump_clock, way):
    async with open_house(tmp_path) as house:
        agent, host = await measured(house)
        with pytest.raises(Refused, match="deep|recursion limit"):
            await way(agent, host, nested(DEEPEST_VALUE + 1))


async def test_a_result_that_nests_deeper_is_no_result(tmp_path, autojump_clock):
    plan = {"proposal": {"actions": [{"id": "a", "type": "tool_call", "tool": "t"}]}}
    async with open_house(tmp_path) as house:
        agent, host = await measured(house)
        (row,) = (await agent.call("proposal.submit", plan, nested(DEEPEST_VALUE)))["results"]
        assert row["output"] == nested(DEEPEST_VALUE)
        (row,) = (await agent.call("proposal.submit", plan, nested(DEEPEST_VALUE + 1)))["results"]
        assert row["error"] == "invalid tool result JSON: nests more than 112 deep"
        await host.call("server.health")
        assert max(agent.deepest, host.deepest) <= MOST_LEVELS

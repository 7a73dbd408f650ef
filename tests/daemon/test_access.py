"""Plays the table of `access_table.py`, cell by cell, against a daemon in memory."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from car_trio.methods.table import METHODS
from car_trio.state.approvals import KEPT_SECONDS
from tests.daemon.access_table import WHO, Row, rows
from tests.peer import HOST_TOKEN, TOKEN, Closed, House, PageDoor, Peer, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")

WRITE = {"actions": [{"id": "w", "type": "state_write", "parameters": {"key": "k", "value": 1}}]}
FINGERPRINT = "tool_call|t|{}"


class Said(dict[str, Any]):
    """A frame, and the bytes that it was."""

    def __init__(self, frame: dict[str, Any], text: bytes) -> None:
        super().__init__(frame)
        self.text = text


class Caller(Peer):
    """A client that keeps what it is told as the bytes that it was."""

    def _take(self, frame: Any) -> None:
        count = len(self.frames)
        super()._take(frame)
        if len(self.frames) > count:
            self.frames.append(Said(self.frames.pop(), bytes(frame.data)))

    async def told(self, method: str, params: Any) -> bytes:
        """The reply, unread; what else comes is dropped. Empty when the connection is closed without one."""
        asked = await self.request(method, params)
        try:
            while True:
                frame = await self.receive()
                if "method" not in frame and frame.get("id") == asked:
                    assert isinstance(frame, Said)
                    return frame.text.replace(b'"id":%d,' % asked, b'"id":0,')
        except Closed:
            return b""


@dataclass
class Things:
    """What one connection made, by name; `unknown` has only names of what there is not."""

    name: str
    agent: str
    run: str
    ended: str
    session: str
    policies: str
    approval: str
    system: str
    chat: str
    code: str = ""
    key: str = ""

    @property
    def ids(self) -> list[str]:
        kinds = (f"{kind}-{self.name}" for kind in ("tool", "key", "tenant", "screen"))
        return [self.run, self.ended, self.session, self.policies, self.approval, self.system, self.chat,
                *kinds, self.agent]  # fmt: skip

    @property
    def marks(self) -> list[str]:
        """What a list shows when it shows this connection's things."""
        return [self.run, self.approval, f"key-{self.name}", f"screen-{self.name}"]


def nothing(name: str) -> Things:
    return Things(name, *(f"{name}-{kind}" for kind in ("agent", "run", "end", "session", "policy", "row", "sys", "chat")))  # fmt: skip


async def made(peer: Peer, name: str, *, agent_id: str | None = None, chat: str = "") -> Things:
    """One of everything that a connection can make."""
    owner = {"agent_name": name} if agent_id is None else {"agent_id": agent_id}
    ended = await peer.call("runs.start", {"intent": name, **owner})
    await peer.call("runs.complete", {"run_id": ended["run_id"], "outcome": {"status": "success"}})
    run = await peer.call("runs.start", {"intent": name, **owner})
    await peer.call("runs.subscribe", {"run_id": run["run_id"]})
    ready = await peer.call("session.init", {"tools": [{"name": f"tool-{name}"}]})
    for tenant in ({}, {"tenant_id": f"tenant-{name}"}):
        await peer.call("state.set", {"key": f"key-{name}", "value": name, **tenant})
    policies = await peer.call("session.policy.open")
    await peer.call("host.register_agent", {"id": f"screen-{name}", "name": name, "kind": "k"})
    rows = [
        await peer.call("host.request_approval", {"action": name, "details": f"secret of {name}", "system_level": system})
        for system in (False, True)
    ]  # fmt: skip
    return Things(
        name, run["agent_id"], run["run_id"], ended["run_id"], ready["session_id"], policies["session_id"],
        rows[0]["id"], rows[1]["id"], chat,
    )  # fmt: skip


def turns(run_id: str) -> dict[str, Any]:
    return {"run_id": run_id, "turns": [{"prompt": "p"}]}


def named(it: Things, **more: Any) -> dict[str, Any]:
    return {"id": f"screen-{it.name}", "name": "n", "kind": "k", **more}


PARAMS: dict[str, Callable[[Things], Any]] = {
    "session.auth": lambda it: {"token": TOKEN},
    "session.auth:wrong": lambda it: {"token": "wrong"},
    "session.auth:host": lambda it: {"host_token": HOST_TOKEN},
    "session.auth:code": lambda it: {"web_code": it.code},
    "session.auth:session": lambda it: {"web_session": it.key},
    "session.auth:agent": lambda it: {"token": TOKEN, "agent_id": it.agent},
    "server.handshake": lambda it: {"protocol_version": 3},
    "tools.register": lambda it: [{"name": "mine"}],
    "tools.unregister": lambda it: {"name": f"tool-{it.name}"},
    "state.set": lambda it: {"key": "k", "value": 1},
    "state.get": lambda it: {"key": f"key-{it.name}"},
    "state.get:tenant": lambda it: {"key": f"key-{it.name}", "tenant_id": f"tenant-{it.name}"},
    "state.exists": lambda it: {"key": f"key-{it.name}"},
    "policy.register": lambda it: {"name": "p", "rule": "deny_tool", "target": "t", **scope(it)},
    "policy.list": lambda it: {**scope(it)},
    "policy.unregister": lambda it: {"name": "p", **scope(it)},
    "session.policy.close": lambda it: {"session_id": it.policies},
    "permission.classify": lambda it: {"proposal": WRITE},
    "permission.evaluate": lambda it: {"proposal": WRITE},
    "permission.set_tier": lambda it: {"tier": "read_only", **({"client_id": it.session} if it.session else {})},
    "permission.approve": lambda it: {"fingerprint": FINGERPRINT},
    "permission.reject": lambda it: {"fingerprint": FINGERPRINT},
    "verify": lambda it: {"proposal": WRITE},
    "simulate": lambda it: {"proposal": WRITE},
    "optimize": lambda it: {"proposal": WRITE},
    "equivalent": lambda it: {"p1": WRITE, "p2": WRITE},
    "transaction_check": lambda it: {"proposal": WRITE},
    "proposal.submit": lambda it: {"proposal": WRITE, **scope(it)},
    "runs.start": lambda it: {"intent": "i", "agent_name": "caller"},
    "runs.start:agent": lambda it: {"intent": "i", "agent_id": it.agent},
    "runs.start:key": lambda it: {"intent": "i", "agent_name": "caller", "idempotency_key": it.run},
    "runs.start:agent+key": lambda it: {"intent": "i", "agent_id": it.agent, "idempotency_key": it.run},
    "runs.record_turns": lambda it: turns(it.run),
    "runs.complete": lambda it: {"run_id": it.run, "outcome": {"status": "success"}},
    "runs.subscribe": lambda it: {"run_id": it.run},
    "runs.unsubscribe": lambda it: {"run_id": it.run},
    "runs.get_trace": lambda it: {"run_id": it.run},
    "runs.list": lambda it: {"agent_id": it.agent},
    "runs.remove": lambda it: {"run_ids": [it.ended]},
    "host.register_agent": lambda it: named(it) if it.run else {"name": "n", "kind": "k"},
    "host.set_status": lambda it: {"agent_id": f"screen-{it.name}", "status": "running"},
    "host.unregister_agent": lambda it: {"agent_id": f"screen-{it.name}"},
    "host.notify": lambda it: {"agent_id": f"screen-{it.name}"} if it.run else {"message": "m"},
    "host.request_approval": lambda it: {"action": "a", **({"agent_id": f"screen-{it.name}"} if it.run else {})},
    "host.resolve_approval": lambda it: {"approval_id": it.approval, "resolution": "approve"},
    "host.resolve_approval:self": lambda it: {"approval_id": it.system, "resolution": "approve"},
    "agents.chat": lambda it: {"agent_id": it.agent, "prompt": "hello"},
    "agents.chat.cancel": lambda it: {"session_id": it.chat},
    "agents.chat.approve": lambda it: {"session_id": it.chat, "approval_id": "a", "decision": "approve"},
    "agent.chat.event": lambda it: {"session_id": it.chat, "kind": "token", "delta": "d"},
}  # fmt: skip
"""What is sent, of the things that the row speaks of; nothing for the others."""

MAKING = {
    "agent.chat.event", "runs.start", "host.register_agent", "host.notify", "host.request_approval", "session.auth",
    "proposal.submit",
}  # fmt: skip
"""These do something for an unknown name too, so their results cannot be compared with what they say of one."""
WITH_DETAILS = {"host.approvals", "host.events", "host.subscribe"}
CHANGES = {
    "session.auth", "session.policy.close", "tools.unregister", "policy.unregister", "runs.start", "runs.complete",
    "runs.unsubscribe", "runs.remove", "host.register_agent", "host.unregister_agent",
    "host.resolve_approval", "agents.chat.cancel",
}  # fmt: skip
LISTS = {"host.agents", "state.keys", "state.snapshot", "events.query", "runs.search", *WITH_DETAILS}

REFUSALS = {
    "auth": ["auth required"],
    "host": ["is for hosts", "needs the host role", "is decided by a host"],
    "foreign": [
        "owned by another session", "is owned by session", "was started by another host", "is about this connection",
        "idempotency_key cannot be used", "may not start a run for another agent",
    ],
    "wrong": ["token mismatch"],
    "page": ["takes no tokens and no agents", "is not for the page"],
    "bound": ["already attached on another connection", "already bound to agent"],
}  # fmt: skip


def scope(it: Things) -> dict[str, str]:
    return {"session_id": it.policies} if it.policies else {}


class World:
    """One caller of the column, and what `alice` and `free` have made before."""

    def __init__(self, house: House, caller: Caller, things: dict[str, Things]) -> None:
        self.house = house
        self.caller = caller
        self.things = things

    async def tell(self, row: Row, it: Things) -> bytes:
        params = PARAMS.get(f"{row.method}:{row.way}" if row.way else row.method, lambda it: {})
        return await self.caller.told(row.method, params(it))

    async def outcome(self, row: Row) -> str:
        """What the caller is told, in the table's words."""
        it = self.things[row.whose]
        dropped = self.house.daemon.counters["chat_events_dropped"]
        said = await self.tell(row, it)
        if not said:
            return "closed"
        reply = json.loads(said)
        if "error" in reply:
            return await self.refusal(row, it, said, reply["error"])
        if self.house.daemon.counters["chat_events_dropped"] > dropped:
            return "dropped"
        if row.method in LISTS:
            return self.shown(row, said.decode())
        if row.whose != "-" and row.method not in MAKING and await self.is_like_unknown(row, it, said):
            return "unknown"
        return "ok"

    async def refusal(self, row: Row, it: Things, said: bytes, error: dict[str, Any]) -> str:
        for word, texts in REFUSALS.items():
            if any(text in error["message"] for text in texts):
                assert error["code"] == (-32001 if word == "auth" else -32603)
                if word == "auth":
                    assert await self.caller.closed() == 1008
                return word
        return "unknown" if await self.is_like_unknown(row, it, said) else error["message"]

    async def is_like_unknown(self, row: Row, it: Things, said: bytes) -> bool:
        other = nothing("nowhere")
        return without(said, it) == without(await self.tell(row, other), other)

    def shown(self, row: Row, said: str) -> str:
        mine = self.things["own"].name
        others = [it for it in self.things.values() if it.name in {"alice", "free"} - {mine}]
        assert any(mark in said for mark in self.things["own"].marks)
        if not any(mark in said for it in others for mark in it.marks):
            return "own"
        secrets = any(f"secret of {it.name}" in said for it in others)
        return "lean" if row.method in WITH_DETAILS and not secrets else "all"


def without(said: bytes, it: Things) -> bytes:
    for name in sorted(it.ids, key=len, reverse=True):
        said = said.replace(name.encode(), b"X") if name else said
    return said


async def connect(house: House, **identity: str) -> Caller:
    caller = Caller((await house.stranger()).stream)
    assert (await caller.open()).status_code == 101
    if identity:
        await caller.call("session.auth", identity)
    return caller


async def mistaken(house: House) -> Caller:
    caller = await connect(house)
    assert await caller.told("session.auth", {"token": "wrong"})
    return caller


async def at_page(house: House, **identity: str) -> Caller:
    url = f"127.0.0.1:{PageDoor.port}"
    caller = Caller(house.visitor(), f"ws://{url}/rpc", f"http://{url}")
    assert (await caller.open()).status_code == 101
    await caller.call("session.auth", identity)
    return caller


async def signed_in(house: House) -> Caller:
    return await at_page(house, web_code=house.daemon.web.code()[0])


CALLERS: dict[str, Callable[[House], Awaitable[Caller]]] = {
    "nobody": connect,
    "wrong": mistaken,
    "unbound": lambda house: connect(house, token=TOKEN),
    "mallory": lambda house: connect(house, token=TOKEN, agent_id="mallory"),
    "host": lambda house: connect(house, host_token=HOST_TOKEN),
    "page": signed_in,
    "open": connect,
}


@asynccontextmanager
async def world(house: House, who: str) -> AsyncGenerator[World]:
    alice, free = await connect(house, token=TOKEN, agent_id="alice"), await connect(house, token=TOKEN)
    web = house.daemon.web
    of_page = {"code": web.code()[0], "key": web.redeem(web.code()[0])[0]}
    things = {
        "-": replace(nothing_named(), **of_page),
        "unknown": nothing(uuid4().hex),
        "alice's": await made(alice, "alice"),
    }
    async with trio.open_nursery() as nursery:
        caller = alice if who == "alice" else await CALLERS[who](house)
        asked = await free.request("agents.chat", {"agent_id": "alice", "prompt": "p"})
        if who == "alice":
            await accept_one(alice)
        else:
            nursery.start_soon(accept_for_ever, alice)
        chat = (await free.reply(asked))["session_id"]
        things["free's"] = await made(free, "free", agent_id="free", chat=chat)
        things["nobody's"] = replace(things["free's"], approval=things["free's"].system)
        things["own"] = await own(caller, who, things)
        await wait_all_tasks_blocked()
        yield World(house, caller, things)
        nursery.cancel_scope.cancel()
    for peer in {alice, free, caller}:
        await peer.drop()
    house.daemon.host.approvals.expire(trio.current_time() + KEPT_SECONDS)  # also what nobody owns
    await trio.sleep(1)


def nothing_named() -> Things:
    return Things(*[""] * 9)


async def own(caller: Caller, who: str, things: dict[str, Things]) -> Things:
    if who in {"nobody", "wrong"}:
        return nothing("caller")
    if who == "alice":
        return things["alice's"]
    it = await made(caller, "caller")
    if who != "mallory":
        it.chat = (await caller.call("agents.chat", {"agent_id": "alice", "prompt": "p"}))["session_id"]
    return it


async def accept_one(agent: Peer) -> None:
    """Accepts the next thing that the daemon asks for."""
    while "method" not in (frame := await agent.receive()) or "id" not in frame:
        pass
    await agent.send({"jsonrpc": "2.0", "id": frame["id"], "result": {}})


async def accept_for_ever(agent: Peer) -> None:
    while True:
        await accept_one(agent)


async def played(house: House, who: str) -> dict[str, str]:
    """A column of the table. What a row has changed is made anew before the next one."""
    told, waiting = dict[str, str](), deque(rows())
    while waiting:
        async with world(house, who) as here:
            while waiting:
                row = waiting.popleft()
                told[str(row)] = await here.outcome(row)
                if row.method in CHANGES and who not in {"nobody", "wrong"}:
                    break
                if who in {"nobody", "wrong"}:
                    await here.caller.drop()
                    here.caller = await CALLERS[who](house)
    return told


@pytest.mark.parametrize("who", WHO)
async def test_each_connection_is_told_what_the_table_says(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, who: str
) -> None:
    async with open_house(tmp_path, auth=who != "open", runs={"durability": "os"}, page=True) as house:
        told = await played(house, who)
    assert told == {str(row): row.told[who] for row in rows()}


def test_no_method_is_without_a_row() -> None:
    assert {row.method for row in rows()} == set(METHODS)

"""Who may call what: the method table says it, and the dispatch keeps it before it looks at anything else."""

from __future__ import annotations

from typing import get_args

import pytest

from car_trio.methods.table import METHODS
from car_trio.state.session import Who
from tests.peer import Closed, Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")

MAY = {
    "stranger": {"anybody"},
    "agent": {"anybody", "client"},
    "unbound": {"anybody", "client", "person"},
    "host": {"anybody", "client", "person", "host"},
}
"""What each kind of connection may call."""

NONSENSE = {"agent_id": 1, "run_id": 1, "proposal": 1, "fingerprint": 1, "approval_id": 1, "session_id": 1}
"""Params of which most are of a wrong shape: what is refused for another reason was let in."""

TURNED_AWAY = ("auth required", "needs the host role", "is for hosts")


async def connected(house, kind):
    if kind == "stranger":
        peer = await house.stranger()
        await peer.open()
        return peer
    return await house.peer("alice" if kind == "agent" else None, host=kind == "host")


async def is_let_in(house, kind, method):
    peer = await connected(house, kind)
    try:
        await peer.call(method, NONSENSE)
    except Refused as refused:
        return not any(words in refused.message for words in TURNED_AWAY)
    finally:
        await peer.drop()
    return True


@pytest.mark.parametrize("kind", MAY)
async def test_a_connection_is_let_in_where_the_table_says_so_and_nowhere_else(
    kind, tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        asked = [name for name in METHODS if name != "agent.chat.event"]
        let_in = {name for name in asked if await is_let_in(house, kind, name)}
        assert let_in == {name for name in asked if METHODS[name].who in MAY[kind]}


async def test_who_may_call_is_decided_before_the_params_are_looked_at(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        with pytest.raises(Refused, match="needs the host role"):
            await agent.call("runs.remove", {"run_ids": "malformed"})


async def test_an_unknown_method_tells_a_stranger_nothing_but_to_authenticate(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        stranger = await connected(house, "stranger")
        with pytest.raises(Refused, match="auth required"):
            await stranger.call("no.such.method")
        with pytest.raises(Closed):
            await stranger.receive()


async def test_discovery_tells_who_may_call(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        document = await (await house.peer()).call("rpc.discover")
    told = {method["name"]: method["x-who"] for method in document["methods"]}
    assert told == {name: method.who for name, method in METHODS.items()}
    assert set(told.values()) == set(get_args(Who))


def test_what_is_not_for_every_client_is_this_and_nothing_else():
    assert {name: method.who for name, method in METHODS.items() if method.who != "client"} == {
        "session.auth": "anybody",
        "server.health": "anybody",
        "permission.set_tier": "host",
        "permission.approve": "host",
        "permission.reject": "host",
        "runs.search": "host",
        "runs.remove": "host",
        "host.events": "person",
        "host.subscribe": "person",
        "host.resolve_approval": "person",
        "host.web_code": "host",
        "agents.chat": "person",
        "agents.chat.cancel": "person",
        "agents.chat.approve": "person",
    }

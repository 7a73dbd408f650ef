"""hostile: mutated frames against a daemon in memory. Whatever comes in, nothing inside breaks and nobody else notices.

Messages are recorded from ordinary work and made by a grammar, then mutated: bits, bytes, slices, doubled and crossed
messages, huge numbers and nesting, wrong types in every place of the JSON, wrong frames around it. They reach the
daemon through the WebSocket of a memory stream, from strangers, from an authenticated agent and from a host. Found is:
an error that only the daemon's log explains, a connection that ended by an error, a bystander that is not served, and
tasks or sessions that stay.
"""

from __future__ import annotations

import copy
import json
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio
from websockets.frames import Opcode

from car_trio.methods.table import METHODS
from tests.peer import HOST_TOKEN, TOKEN, Closed, House, Peer, open_house
from tests.process.raw import frame
from torture.orders import Orders, Verdict

FRAMES = 10_000_000
PER_CONNECTION = 60
PER_HOUSE = 200
PATIENCE = 60

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    1.5,
    -0.0,
    1e308,
    "",
    "x",
    "\x00",
    "\ud7ff",
    "é" * 300,
    "../../etc/passwd",
    "..",
    ".",
    "/",
    "%2e%2e",
    "a" * 300,
    "cb-0",
    "9" * 400,
    [],
    {},
    [[]],
    [{}],
    {"": None},
    {"a": {"b": {"c": {}}}},
    [None] * 300,
    {"kind": "outcome"},
    "success",
    "tool_call",
    "state_write",
]

RUN = "the-run"
ACTION = {
    "id": "a",
    "type": "tool_call",
    "tool": "t",
    "parameters": {"m": 1},
    "dependencies": [],
    "timeout_ms": 20,
    "preconditions": [{"key": "k", "operator": "eq", "value": 1}],
    "expected_effects": {"k": 2},
    "state_dependencies": ["k"],
    "idempotent": True,
    "max_retries": 1,
    "failure_behavior": "skip",
}
WRITE = {"id": "w", "type": "state_write", "parameters": {"key": "k", "value": [1]}, "dependencies": ["a"]}
SEEDS: list[tuple[str, Any]] = [
    ("session.auth", {"token": TOKEN, "agent_id": "other", "memory_namespace": "n"}),
    ("session.auth", {"host_token": HOST_TOKEN}),
    ("server.handshake", {"protocol_version": 3, "client_version": "1", "required_capabilities": ["x"]}),
    ("session.init", {"tools": [{"name": "t", "parameters": {"type": "object"}}], "policies": []}),
    (
        "tools.register",
        [{"name": "t", "description": "d", "parameters": {"type": "object", "required": ["m"]}}],
    ),
    ("tools.unregister", {"name": "t"}),
    ("state.set", {"key": "k", "value": {"v": [1, "2"]}, "tenant_id": "t"}),
    ("state.get", {"key": "k", "tenant_id": "t"}),
    ("state.keys", {"tenant_id": "t"}),
    (
        "proposal.submit",
        {"proposal": {"id": "p", "actions": [ACTION, WRITE], "context": {}}, "scope": {"tenantId": "t"}},
    ),
    (
        "runs.start",
        {"intent": "i", "agent_id": "mallory", "outcome_description": "o", "idempotency_key": "key"},
    ),
    (
        "runs.record_turns",
        {"run_id": RUN, "turns": [{"index": 1, "prompt": "p", "tool": "t", "output": {"exit_code": 0}}]},
    ),
    (
        "runs.complete",
        {"run_id": RUN, "outcome": {"status": "success", "evidence": [{"kind": "evaluator"}], "metrics": {}}},
    ),
    ("runs.subscribe", {"run_id": RUN, "from_cursor": 0}),
    ("runs.unsubscribe", {"run_id": RUN}),
    ("runs.list", {"agent_id": "mallory", "cursor": "c", "limit": 3}),
    ("runs.get_trace", {"run_id": RUN, "cursor": 0, "limit": 5}),
    (
        "runs.search",
        {
            "query": 'i* "x',
            "status": "in_progress",
            "since": "2026-11-20T09:06:30Z",
            "limit": 2,
            "cursor": "",
        },
    ),
    ("runs.remove", {"run_ids": ["key"], "older_than": "2026-11-20T09:06:30Z", "dry_run": True}),
]


class Witness(logging.Handler):
    """Keeps what the daemon logs as an error of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record)[-3000:])


@contextmanager
def witness() -> Iterator[Witness]:
    watching = Witness()
    logger = logging.getLogger("car_trio")
    logger.addHandler(watching)
    try:
        yield watching
    finally:
        logger.removeHandler(watching)


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    with witness() as watching:
        trio.run(attack, orders, verdict, watching)
    return verdict


async def attack(orders: Orders, verdict: Verdict, watching: Witness) -> None:
    done = 0
    while verdict.counts["mutated messages"] < FRAMES and orders.go_on(done) and len(verdict.findings) < 20:
        async with open_house(
            orders.directory / f"house-{done}", runs={"durability": "os", "grace_ms": 20}
        ) as house:
            bystander = await house.peer("bystander")
            tasks = trio.lowlevel.current_statistics().tasks_living
            for _ in range(PER_HOUSE):
                if not orders.go_on(done):
                    break
                seed = orders.seed * 1_000_000 + done
                with trio.move_on_after(PATIENCE) as limit:
                    await one_connection(house, verdict, random.Random(seed))  # noqa: S311 - chance, not secrets
                verdict.expect(not limit.cancelled_caught, f"connection {seed} hangs")
                verdict.expect(await served(bystander), f"connection {seed}: a bystander is not served")
                verdict.expect(not watching.said, f"connection {seed}: {' '.join(watching.said)}")
                watching.said.clear()
                done += 1
            await trio.sleep(0.2)
            await trio.testing.wait_all_tasks_blocked(0.05)
            left = trio.lowlevel.current_statistics().tasks_living - tasks
            verdict.expect(left <= 0, f"house {done}: {left} tasks stay")
            verdict.expect(
                not house.daemon.counters["connections_failed"], f"house {done}: a connection failed"
            )
    verdict.counts["connections"] += done


async def served(bystander: Peer) -> bool:
    with trio.move_on_after(PATIENCE):
        return bool((await bystander.call("server.health"))["ok"])
    return False


async def one_connection(house: House, verdict: Verdict, dice: random.Random) -> None:
    """Sends mutated messages until the daemon closes; reads what it says meanwhile."""
    peer = await house.stranger()
    await peer.open()
    kind = dice.choice(["stranger", "agent", "agent", "agent", "host"])
    run = RUN
    async with trio.open_nursery() as nursery:
        over = trio.Event()
        nursery.start_soon(listen, peer, over)
        with_token = (
            {"token": TOKEN, "agent_id": "mallory"} if kind == "agent" else {"host_token": HOST_TOKEN}
        )
        try:
            if kind != "stranger":
                await peer.request("session.auth", with_token)
                await peer.request(
                    "runs.start", {"intent": "i", "agent_id": "mallory", "idempotency_key": RUN}
                )
                await peer.request("tools.register", [{"name": "t", "parameters": {}}])
            for _ in range(PER_CONNECTION):
                verdict.counts["mutated messages"] += 1
                await peer.stream.send_all(mutated(dice, run))
                # What follows a close is not looked at any more, so nothing would be tried with it.
                for _ in range(4):
                    await trio.lowlevel.checkpoint()
                if over.is_set():
                    verdict.counts["closed by the daemon"] += 1
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            verdict.counts["cut by the daemon"] += 1
        with trio.move_on_after(0.005):
            await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    await peer.drop()


async def listen(peer: Peer, over: trio.Event) -> None:
    """Takes what comes, all of which must be JSON in right frames, until the daemon closes."""
    try:
        while True:
            await peer.receive()
            if peer.protocol.close_rcvd is not None:
                return
    except (Closed, trio.ClosedResourceError):
        pass
    finally:
        over.set()


# Mutations


def mutated(dice: random.Random, run: str) -> bytes:
    """Bytes for the socket: a message that went wrong somewhere, in a frame that may be wrong too."""
    method, params = copy.deepcopy(dice.choice(SEEDS))
    if dice.random() < 0.1:
        method = dice.choice([*METHODS, "", "x" * 500, "runs.\x00"])
    message: Any = {
        "jsonrpc": "2.0",
        "id": dice.choice([1, "a", None, 2**70, 1.5]),
        "method": method,
        "params": params,
    }
    if dice.random() < 0.1:
        message = {
            "jsonrpc": "2.0",
            "id": f"cb-{dice.randrange(5)}",
            dice.choice(["result", "error"]): copy.deepcopy(dice.choice(ODD)),
        }
    for _ in range(dice.choice([0, 1, 1, 2, 5])):
        message = wrong_value(dice, message)
    text = json.dumps(message, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    if dice.random() < 0.35:
        text = dice.choice(BYTE_WAYS)(dice, text)
    return framed(dice, text)


def wrong_value(dice: random.Random, value: Any) -> Any:
    """One place of the JSON, anywhere in it, gets another value, loses or gains one."""
    if not isinstance(value, dict | list) or not value or dice.random() < 0.1:
        return copy.deepcopy(dice.choice(ODD))
    key = dice.choice(list(value) if isinstance(value, dict) else range(len(value)))
    chance = dice.random()
    if chance < 0.1:
        del value[key]
    elif chance < 0.2 and isinstance(value, dict):
        value[dice.choice(["id", "run_id", "status", "x", "", "tenant_id", "agent_id"])] = copy.deepcopy(
            dice.choice(ODD)
        )
    elif chance < 0.25 and isinstance(value, list):
        value.extend(copy.deepcopy(value[:20]))
    else:
        value[key] = wrong_value(dice, value[key])
    return value


def flipped(dice: random.Random, text: bytes) -> bytes:
    changed = bytearray(text)
    for _ in range(dice.choice([1, 1, 4])):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def cut(dice: random.Random, text: bytes) -> bytes:
    begin = dice.randrange(len(text))
    return text[:begin] if dice.random() < 0.5 else text[:begin] + text[dice.randrange(begin, len(text)) :]


def nested(dice: random.Random, text: bytes) -> bytes:
    depth = dice.choice([10, 500, 1100, 20_000])
    opening, closing = dice.choice([(b"[", b"]"), (b'{"a":', b"}")])
    core = opening * depth + b"1" + closing * (depth if dice.random() < 0.8 else 0)
    return text.replace(b'"params": ', b'"params": {"value": ' + core + b', "key": "k", "p": ', 1) + b"}"


def swollen(dice: random.Random, text: bytes) -> bytes:
    return text.replace(
        b"1", dice.choice([b"1e999", b"-" + b"9" * 5000, b"1" * 30_000, b"0.1e-999", b"NaN"]), 1
    )


def foreign(dice: random.Random, text: bytes) -> bytes:
    at = dice.randrange(len(text))
    return (
        text[:at]
        + dice.choice([b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\x00", b"\\ud800", b"\\u0000"])
        + text[at:]
    )


BYTE_WAYS: list[Callable[[random.Random, bytes], bytes]] = [flipped, flipped, cut, nested, swollen, foreign]


def framed(dice: random.Random, text: bytes) -> bytes:
    chance = dice.random()
    if chance < 0.96:
        return frame(Opcode.TEXT, text)
    if chance < 0.98:
        middle = dice.randrange(len(text) + 1)
        return frame(Opcode.TEXT, text[:middle], fin=False) + frame(Opcode.CONT, text[middle:])
    return dice.choice(
        [
            frame(Opcode.BINARY, text),
            frame(Opcode.PING, text[:125]),
            frame(Opcode.PONG, text[:125]),
            frame(Opcode.CLOSE, text[:100]),
            frame(Opcode.CONT, text),
            frame(Opcode.TEXT, text, reserved=dice.randrange(8)),
            frame(dice.randrange(16), text),
            frame(Opcode.TEXT, text, masked=False),
            frame(Opcode.TEXT, text, length=dice.choice([0, 5, 125, 70_000, 2**40, 2**63])),
        ]
    )

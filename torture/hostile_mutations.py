"""Messages and frames that went wrong somewhere, for the hostile campaigns.

`wrong_message` makes one by the grammar: a right message of some method, with values of the wrong kind anywhere in it.
`wrong_bytes` damages one that was made before, which costs little, so that most of many millions can be damaged ones.
`framed` puts either into a WebSocket frame, which is seldom a wrong one: after that nothing more is heard.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from websockets.frames import Opcode

from car_trio.methods.table import METHODS
from tests.peer import HOST_TOKEN, TOKEN
from tests.process.raw import frame

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
    ("rpc.discover", {}),
    ("server.health", {}),
    ("tools.list", {}),
    ("state.exists", {"key": "k"}),
    ("state.snapshot", {"tenant_id": "t"}),
    (
        "policy.register",
        {"name": "p", "rule": "deny_tool_param", "target": "t", "key": "m", "pattern": "^a+$"},
    ),
    ("policy.list", {"session_id": "s"}),
    ("policy.unregister", {"name": "p", "session_id": "s"}),
    ("session.policy.open", {}),
    ("session.policy.close", {"session_id": "s"}),
    ("permission.classify", {"proposal": {"actions": [ACTION]}}),
    ("permission.evaluate", {"proposal": {"actions": [ACTION]}, "granted_tier": "read_only"}),
    ("permission.set_tier", {"tier": "full_access", "client_id": "c"}),
    ("permission.approve", {"fingerprint": "tool_call|t|{}", "reason": "r"}),
    ("permission.reject", {"fingerprint": "tool_call|t|{}", "reason": "r"}),
    ("verify", {"proposal": {"actions": [ACTION, WRITE]}, "initial_state": {"k": 1}, "max_actions": 3}),
    ("simulate", {"proposal": {"actions": [WRITE]}, "initial_state": {"k": 1}}),
    ("optimize", {"proposal": {"actions": [ACTION, WRITE]}}),
    ("equivalent", {"p1": {"actions": [WRITE]}, "p2": {"actions": [WRITE]}}),
    ("transaction_check", {"proposal": {"actions": [WRITE]}, "versions": {"k": 1}}),
    ("replan.set_config", {"max_replans": 1, "delay_ms": 1}),
    ("events.count", {}),
    (
        "events.query",
        {"kinds": ["run_started"], "since": "2026-11-20T09:06:30Z", "data_matches": {"a": 1}, "limit": 1},
    ),
    (
        "host.register_agent",
        {"id": "a", "name": "n", "kind": "k", "display": {"icon": "i"}, "metadata": {"m": [1]}},
    ),
    ("host.set_status", {"agent_id": "a", "status": "running", "payload": {"p": 1}}),
    ("host.unregister_agent", {"agent_id": "a"}),
    ("host.agents", {}),
    ("host.notify", {"kind": "k", "agent_id": "a", "message": "m", "payload": [1]}),
    ("host.events", {"limit": 2}),
    ("host.subscribe", {}),
    ("host.request_approval", {"agent_id": "a", "action": "x", "details": {"d": 1}, "timeout_secs": 0.1}),
    ("host.resolve_approval", {"approval_id": "a", "resolution": "approve", "approved": True}),
    ("host.approvals", {}),
    ("host.web_code", {}),
    (
        "agents.chat",
        {
            "agent_id": "mallory",
            "prompt": "p",
            "attachments": [{"type": "image_url", "url": "https://e.org/a"}],
        },
    ),
    ("agents.chat.cancel", {"session_id": "c"}),
    ("agents.chat.approve", {"session_id": "c", "approval_id": "a", "decision": True}),
    ("agent.chat.event", {"session_id": "c", "kind": "token", "delta": "d"}),
]
"""One right message for each method, at least."""
RARE = {"session.auth", "runs.start", "runs.remove", "rpc.discover"}
"""Ten wrong tokens end a connection, each run is a file, and the document is large: they come seldom."""
SOMETIMES = 0.05


def wrong_message(dice: random.Random) -> bytes:
    """A message by the grammar, with up to five values that are wrong."""
    method, params = dice.choice(SEEDS)
    while method in RARE and dice.random() > SOMETIMES:
        method, params = dice.choice(SEEDS)
    params = copy.deepcopy(params)
    if dice.random() < 0.1:
        method = dice.choice([*METHODS, "", "x" * 500, "runs.\x00"])
    message: Any = {
        "jsonrpc": "2.0",
        "id": dice.choice([1, "a", None, 2**70, 1.5]),
        "method": method,
        "params": params,
    }
    if dice.random() < 0.1:
        reply = dice.choice(["result", "error"])
        message = {"jsonrpc": "2.0", "id": f"cb-{dice.randrange(5)}", reply: copy.deepcopy(dice.choice(ODD))}
    for _ in range(dice.choice([0, 1, 1, 2, 5])):
        message = wrong_value(dice, message)
    return json.dumps(message, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")


def wrong_bytes(dice: random.Random, text: bytes) -> bytes:
    """The message with some bytes of it changed, without a part, or with one that swells. Nearly always still UTF-8:
    what is not ends the connection."""
    if not text:
        return text
    if dice.random() < SELDOM:
        return dice.choice(LARGE_WAYS)(dice, text)
    damaged = dice.choice(BYTE_WAYS)(dice, text)
    return damaged if damaged.isascii() else damaged.decode(errors="ignore").encode()


def wrong_value(dice: random.Random, value: Any) -> Any:
    """One place of the JSON, anywhere in it, gets another value, loses or gains one."""
    is_object = is_a(dict, value)
    if not (is_object or is_a(list, value)) or not value or dice.random() < 0.1:
        return copy.deepcopy(dice.choice(ODD))
    key = dice.choice(list(value) if is_object else range(len(value)))
    chance = dice.random()
    if chance < 0.1:
        del value[key]
    elif chance < 0.2 and is_object:
        value[dice.choice(["id", "run_id", "status", "x", "", "tenant_id", "agent_id"])] = copy.deepcopy(
            dice.choice(ODD)
        )
    elif chance < 0.25 and not is_object:
        value.extend(copy.deepcopy(value[:20]))
    else:
        value[key] = wrong_value(dice, value[key])
    return value


def is_a(kind: type, value: Any) -> bool:
    """`isinstance`, after which a checker still lets the value be anything."""
    return isinstance(value, kind)


def flipped(dice: random.Random, text: bytes) -> bytes:
    changed = bytearray(text)
    for _ in range(dice.choice([1, 1, 4])):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(7)
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


def escaped(dice: random.Random, text: bytes) -> bytes:
    at = dice.randrange(len(text))
    return text[:at] + dice.choice([b"\\ud800", b"\\u0000", b"\\", b'"', b"\x00", b"\xc3\xa9"]) + text[at:]


def foreign(dice: random.Random, text: bytes) -> bytes:
    at = dice.randrange(len(text))
    return text[:at] + dice.choice([b"\xff", b"\xed\xa0\x80", b"\xc0\xaf"]) + text[at:]


Way = Callable[[random.Random, bytes], bytes]
BYTE_WAYS: list[Way] = [flipped, flipped, flipped, cut, cut, escaped]
LARGE_WAYS: list[Way] = [nested, swollen, foreign]
SELDOM = 0.01
"""How often a message becomes large, or is not UTF-8."""


def framed(dice: random.Random, text: bytes) -> bytes:
    chance = dice.random()
    if chance < 0.97:
        return frame(Opcode.TEXT, text)
    if chance < 0.998:
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

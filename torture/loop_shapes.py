"""What the `loop` campaign sends: large JSON texts of every awkward shape, and the methods that take them in.

A shape is a JSON value of about so many bytes, as text: it is not made from Python objects, which would take the
campaign longer than the daemon. A carrier is a method whose params hold such a value where clients may put one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

AGENT = "large"
Shape = Callable[[int], str]


def repeated(item: str, size: int, brackets: str = "[]") -> str:
    count = max(1, size // (len(item.encode()) + 1))
    return brackets[0] + ",".join([item] * count) + brackets[1]


def small_lists(size: int) -> str:
    return repeated("[]", size)


def small_objects(size: int) -> str:
    return repeated('{"k":[1,2.5,"three",null]}', size)


def empty_objects(size: int) -> str:
    return repeated("{}", size)


def whole_numbers(size: int) -> str:
    return repeated("1", size)


def fractions(size: int) -> str:
    return repeated("1.5", size)


def short_strings(size: int) -> str:
    return repeated('""', size)


def deep(size: int) -> str:
    return repeated("[" * 100 + "]" * 100, size)


def deep_objects(size: int) -> str:
    return repeated('{"k":' * 100 + "1" + "}" * 100, size)


def keys(size: int) -> str:
    return "{" + ",".join(f'"k{number}":{number % 10}' for number in range(size // 13)) + "}"


def escapes(size: int) -> str:
    return '"' + "\\n" * (size // 2) + '"'


def quotes(size: int) -> str:
    return repeated('"' + '\\"' * 20 + '"', size)


def one_text(size: int) -> str:
    return '"' + "x" * size + '"'


def other_script(size: int) -> str:
    return '"' + "é" * (size // 2) + '"'


def texts_of_a_page(size: int) -> str:
    return repeated('"' + "p" * 20_000 + '"', size)


SHAPES: list[Shape] = [
    small_lists, small_objects, empty_objects, whole_numbers, fractions, short_strings, deep, deep_objects, keys,
    escapes, quotes, one_text, other_script, texts_of_a_page,
]  # fmt: skip


class Carrier(NamedTuple):
    """`params` are made of a value's text and the id of a run. `answer` is the member of the client's answers, when its
    tool is called, that the value is put into, and how; `parts`: into how many the size is divided. `first` is a key of
    state that is set to the value before, and the params are what looks at it; `who`: the agent that sends it, if it
    is one."""

    method: str
    params: Callable[[str, str], str]
    parts: int = 1
    answer: str = '"result":null'
    first: str | None = None
    who: str | None = AGENT


def action(parameters: str, more: str = "") -> str:
    return f'{{"id":"a{more}","type":"tool_call","tool":"known","parameters":{{"v":{parameters}}}}}'


def turns(value: str, run: str) -> str:
    turn = f'{{"tool":"t","output":{value}}}'
    return f'{{"run_id":"{run}","turns":[{",".join([turn] * 32)}]}}'


def many_actions(value: str, run: str) -> str:
    return f'{{"proposal":{{"actions":[{",".join(action(value, str(n)) for n in range(200))}]}}}}'


def many_tools(value: str, run: str) -> str:
    tools = ",".join(f'{{"name":"t{n}","parameters":{{"enum":[{value}]}}}}' for n in range(200))
    return f"[{tools}]"


def evidence(value: str, run: str) -> str:
    item = f'{{"kind":"evaluator","text":{value}}}'
    return f'{{"run_id":"{run}","outcome":{{"status":"success","evidence":[{",".join([item] * 64)}]}}}}'


def within(members: str) -> Callable[[str, str], str]:
    """Params that are an object with these members, in which `%s` is the value."""
    return lambda value, run: "{" + members.replace("RUN", run).replace("%s", value) + "}"


def members_of_a_chat(value: str, run: str) -> str:
    own = value[1:] if value.startswith("{") and value != "{}" else f'"v":{value}}}'
    return '{"session_id":"s","kind":"text",' + own


def looking(value: str, run: str) -> str:
    seen = (
        '{"id":"a","type":"tool_call","tool":"known","preconditions":[{"key":"large","operator":"exists"}]}'
    )
    read = '{"id":"r","type":"state_read","parameters":{"key":"large"}}'
    return f'{{"proposal":{{"actions":[{seen},{read}]}}}}'


IMAGE = '{"type":"image_base64","media_type":"image/png","data":%s}'
ONE_CALL = within(f'"proposal":{{"actions":[{action("1")}]}}')

CARRIERS: dict[str, Carrier] = {
    "a key of state": Carrier("state.set", lambda value, run: f'{{"key":"k","value":{value}}}'),
    "one turn": Carrier(
        "runs.record_turns", lambda value, run: f'{{"run_id":"{run}","turns":[{{"output":{value}}}]}}'
    ),
    "32 turns": Carrier("runs.record_turns", turns, parts=32),
    "a plan": Carrier(
        "proposal.submit", lambda value, run: f'{{"proposal":{{"actions":[{action(value)}]}}}}'
    ),
    "200 actions": Carrier("proposal.submit", many_actions, parts=200),
    "a result": Carrier("proposal.submit", ONE_CALL, answer='"result":%s'),
    "an error": Carrier("proposal.submit", ONE_CALL, answer='"error":{"message":"m","data":%s}'),
    "a key that a plan looks at": Carrier("proposal.submit", looking, first="large"),
    "scope": Carrier(
        "proposal.submit", lambda value, run: f'{{"proposal":{{"actions":[]}},"scope":{{"v":{value}}}}}'
    ),
    "200 tools": Carrier("tools.register", many_tools, parts=200),
    "a tool": Carrier("session.init", lambda value, run: f'{{"tools":[{{"name":"t","returns":{value}}}]}}'),
    "a policy": Carrier(
        "policy.register",
        lambda value, run: f'{{"name":"p","rule":"require_state","key":"k","value":{value}}}',
    ),
    "verify": Carrier(
        "verify", lambda value, run: f'{{"proposal":{{"actions":[]}},"initial_state":{{"k":{value}}}}}'
    ),
    "classify": Carrier(
        "permission.classify", lambda value, run: f'{{"proposal":{{"actions":[{action(value)}]}}}}'
    ),
    "an outcome": Carrier("runs.complete", evidence, parts=64),
    "details": Carrier("host.request_approval", lambda value, run: f'{{"action":"a","details":{value}}}'),
    "a notice": Carrier("host.notify", lambda value, run: f'{{"message":"m","payload":{value}}}'),
    "a word in a chat": Carrier(
        "agent.chat.event", lambda value, run: f'{{"session_id":"s","kind":"text","v":{value}}}'
    ),
    "members of a chat": Carrier("agent.chat.event", members_of_a_chat),
    "the turns": Carrier("runs.record_turns", within('"run_id":"RUN","turns":%s')),
    "the evidence": Carrier(
        "runs.complete", within('"run_id":"RUN","outcome":{"status":"done","evidence":%s}')
    ),
    "the actions": Carrier("proposal.submit", within('"proposal":{"actions":%s}')),
    "the tools": Carrier("tools.register", lambda value, run: value),
    "the state": Carrier("simulate", within('"proposal":{"actions":[]},"initial_state":%s')),
    "the options": Carrier("host.request_approval", within('"action":"a","options":%s')),
    "the attachments": Carrier(
        "agents.chat", within('"agent_id":"a","prompt":"p","attachments":%s'), who=None
    ),
    "an attachment": Carrier(
        "agents.chat", within(f'"agent_id":"a","prompt":"p","attachments":[{IMAGE}]'), who=None
    ),
    "what an event holds": Carrier("events.query", within('"data_matches":{"k":%s}')),
    "no such method": Carrier("no.such.method", lambda value, run: value),
    "a wrong shape": Carrier("runs.start", lambda value, run: f'{{"intent":{value}}}'),
}

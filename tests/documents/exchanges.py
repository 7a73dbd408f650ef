"""The examples of a page, replayed: what the client sends is sent, what the daemon answers must be what is shown.

An example is a block `text as NAME`; NAME is a client that stays the same through the page: `stranger` has not
authenticated (and is a new one each time), `host` has the host role, any other is bound to the agent of that name. A
line may name another client: `host → {…}`. Ids, times and durations differ each time; one that is shown stands for the
one that came, also where it is sent back.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from tests.peer import HOST_TOKEN, TOKEN, House, Peer

BLOCK = re.compile(r"^```text as (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^(?:(\w+) )?([→←]) ", re.MULTILINE)
DIFFERS = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[\d:.]+Z|(?:[a-z]+-)?[0-9a-f]{12,64}"
)
"""What is another one each time: ids, times, digests."""
LASTS = {"duration_ms", "total_duration_ms", "uptime_secs"}
MORE = "…"
SECRETS = {"<auth-token>": TOKEN, "<host-token>": HOST_TOKEN}


class Message(NamedTuple):
    """A line of an example."""

    client: str
    is_sent: bool
    body: Any


def examples(page: str) -> list[list[Message]]:
    return [list(_messages(name, text)) for name, text in BLOCK.findall(page)]


def _messages(name: str, text: str) -> Any:
    marks = list(LINE.finditer(text))
    for mark, after in zip(marks, [*marks[1:], None], strict=True):
        body = json.loads(text[mark.end() : after.start() if after else None])
        yield Message(mark[1] or name, mark[2] == "→", body)


class Replay:
    """The clients of a page, and what stands for what."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._peers: dict[str, Peer] = {}
        self._names: dict[str, str] = {}

    async def play(self, example: list[Message]) -> None:
        """Raises AssertionError where the daemon says something else than the example."""
        self._peers.pop("stranger", None)
        for message in example:
            peer = await self._peer(message.client)
            if message.is_sent:
                await peer.send(self._meant(message.body))
            else:
                self._expect(message.body, await peer.receive(), "")

    async def _peer(self, name: str) -> Peer:
        if name not in self._peers:
            if name == "stranger":
                self._peers[name] = await self._house.stranger()
                await self._peers[name].open()
            else:
                self._peers[name] = await self._house.peer(
                    None if name == "host" else name, host=name == "host"
                )
        return self._peers[name]

    def _meant(self, value: Any) -> Any:
        match value:
            case dict():
                return {key: self._meant(each) for key, each in value.items()}
            case list():
                return [self._meant(each) for each in value]
            case str():
                return SECRETS.get(value) or self._names.get(value, value)
            case _:
                return value

    def _expect(self, shown: Any, came: Any, where: str) -> None:
        match shown:
            case dict():
                assert isinstance(came, dict), (where, came)
                told = set(shown) - {MORE}
                assert told == set(came) or (MORE in shown and told <= set(came)), (
                    where,
                    sorted(told ^ set(came)),
                )
                for key in told:
                    if key not in LASTS:
                        self._expect(shown[key], came[key], f"{where}.{key}")
            case list():
                assert isinstance(came, list), (where, came)
                assert len(shown) == len(came), (where, came)
                for i, (each, other) in enumerate(zip(shown, came, strict=True)):
                    self._expect(each, other, f"{where}[{i}]")
            case str() if DIFFERS.fullmatch(shown):
                assert DIFFERS.fullmatch(came), (where, came)
                assert len(came) == len(shown), (where, came)
                assert self._names.setdefault(shown, came) == came or shown[10:11] == "T", (
                    where,
                    shown,
                    came,
                )
            case _:
                assert shown == came, (where, shown, came)

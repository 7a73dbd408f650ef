"""The ways to be hostile at a socket of the daemon, each with what may come back; `Odd` says that it was another."""

from __future__ import annotations

import json
import random
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.daemon.test_websocket_rules import ROWS
from tests.process.daemon_process import DaemonProcess
from tests.process.raw import (
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    UPGRADE,
    Gone,
    RawPeer,
    frame,
    http_request,
    request,
    text,
)
from tests.second_client import SecondClient
from torture.hostile_mutations import framed, wrong_bytes, wrong_message

CROWD = 24
"""How many half-open connections are held at once: fewer than there is room for, so that others get in."""
PATIENCE = 10.0
STRANGERS_LIMIT = 65_536
FULL = 503


class Odd(Exception):  # noqa: N818 - what was seen, not a defect of ours
    """The daemon answered what it may not, or not at all."""


@dataclass
class Door:
    """A socket of the daemon: how to connect, what makes a request one of its own, and what it takes for a token."""

    name: str
    connect: Callable[[], socket.socket]
    headers: dict[str, str]
    proof: dict[str, str]
    target: str = "/"
    held: deque[RawPeer] = field(default_factory=deque[RawPeer])

    def peer(self) -> RawPeer:
        return RawPeer(self.connect())

    def asking(self, *more: tuple[str, str], **changed: str | None) -> bytes:
        asked = http_request(*more, **(self.headers | changed))
        return asked.replace(b"GET / ", f"GET {self.target} ".encode(), 1)

    def upgraded(self) -> RawPeer:
        peer = self.peer()
        peer.send(self.asking())
        if (status := peer.status()) != 101:
            raise Full if status == FULL else Odd(f"a right request was answered with {status}")
        return peer

    def known(self) -> RawPeer:
        peer = self.upgraded()
        if "error" in (said := peer.call("session.auth", self.proof)):
            raise Odd(f"the right token was refused: {said}")
        return peer


class Full(Exception):  # noqa: N818 - a state of the daemon
    """There are too many strangers at this moment."""


def doors(daemon: DaemonProcess) -> list[Door]:
    said = json.loads((daemon.home / "run" / "daemon.json").read_text())
    page = int(said["web_url"].rstrip("/").rsplit(":", 1)[1])
    of_page = {"Host": f"127.0.0.1:{page}", "Origin": f"http://127.0.0.1:{page}"}
    with daemon.client(host=True) as host, page_client(page) as browser:
        code = host.call("host.web_code")["code"]
        key = browser.call("session.auth", {"web_code": code})["web_session"]
    token = {"token": daemon.token}
    return [
        Door("tcp", lambda: tcp(daemon.port), {}, token),
        Door("unix", lambda: unix(daemon.unix_socket), {}, token),
        Door("page", lambda: tcp(page), of_page, {"web_session": key}, "/rpc"),
    ]


def page_client(port: int) -> SecondClient:
    url = f"127.0.0.1:{port}"
    return SecondClient.dial(f"ws://{url}/rpc", origin=f"http://{url}")


def tcp(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def unix(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.settimeout(PATIENCE)
    peer.connect(str(path))
    return peer


# Ways to be hostile. Each is a connection, or some of them; `Odd` says what may not be.

GARBAGE = [
    b"",
    bytes(4096),
    bytes(range(256)) * 16,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n" * 500,
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /" + b"a" * 40_000,
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\nabcd",
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET ../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    request("server.health"),
]
FOREIGN: list[tuple[int, dict[str, str | None]]] = [
    (421, {"Host": "evil.example"}),
    (421, {"Host": "127.0.0.1.evil.example"}),
    (421, {"Host": "localhost@evil.example"}),
    (421, {"Host": "169.254.1.1"}),
    (400, {"Host": None}),
    (403, {"Origin": "https://evil.example"}),
    (403, {"Origin": "null"}),
    (403, {"Origin": "http://127.0.0.1:1"}),
]
BROKEN = [
    (sent, int.from_bytes(expected[-1].payload, "big"))
    for row in ROWS.values()
    for sent, expected in [(row[0] if isinstance(row[0], bytes) else b"".join(row[0]), row[1])]
    if expected and expected[-1].opcode == CLOSE and expected[-1].payload and len(sent) < 1000
]


def garbage(door: Door, dice: random.Random) -> None:
    sent = dice.choice(GARBAGE)
    if dice.random() < 0.5:
        changed = bytearray(door.asking())
        for _ in range(dice.choice([1, 2, 8])):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        sent = bytes(changed)
    with door.peer() as peer:
        with suppress(Gone, OSError):
            peer.send(sent)
            peer.socket.shutdown(socket.SHUT_WR)
        ended(peer)


def ended(peer: RawPeer) -> bytes:
    """What still comes until the daemon hangs up, which it has to."""
    try:
        return peer.rest()
    except TimeoutError:
        raise Odd("the daemon does not hang up") from None


def bad_upgrade(door: Door, dice: random.Random) -> None:
    changed: dict[str, str | None] = {
        dice.choice([*UPGRADE]).replace("-", "_"): dice.choice(
            [None, "", "x", "websocket, h2c", "0", "é" * 10]
        )
    }
    with door.peer() as peer:
        peer.send(
            door.asking(*[("X-Long", "y" * dice.choice([1, 9000]))] * dice.choice([0, 1, 300]), **changed)
        )
        peer.socket.shutdown(socket.SHUT_WR)
        ended(peer)


def foreigner(door: Door, dice: random.Random) -> None:
    status, headers = dice.choice(FOREIGN)
    with door.peer() as peer:
        peer.send(door.asking(**headers))
        if (said := peer.status()) not in (status, FULL):
            raise Odd(f"{headers} was answered with {said}, not {status}")
        ended(peer)


def broken_frames(door: Door, dice: random.Random) -> None:
    sent, code = dice.choice(BROKEN)
    with dice.choice([door.upgraded, door.known])() as peer:
        for piece in pieces(sent, dice):
            peer.send(piece)
        if (said := closes(peer)) != code:
            raise Odd(f"{sent[:40]!r} was closed with {said}, not {code}")


def closes(peer: RawPeer) -> int:
    try:
        return peer.close_code()
    except TimeoutError:
        raise Odd("the daemon does not close") from None


def pieces(sent: bytes, dice: random.Random) -> list[bytes]:
    size = dice.choice([1, 3, len(sent)]) if len(sent) < 200 else len(sent)
    return [sent[at : at + size] for at in range(0, len(sent), size)]


def reset_anywhere(door: Door, dice: random.Random) -> None:
    said = door.asking() + request("session.auth", door.proof)
    said += request("runs.start", {"intent": "i", "agent_name": "gone"}) + request("host.subscribe")
    said += frame(TEXT, b"{", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"}")
    peer = door.peer()
    with suppress(Gone):
        peer.send(said[: dice.randrange(len(said) + 1)])
    peer.reset() if dice.random() < 0.7 else peer.socket.close()


def hold(door: Door, dice: random.Random) -> None:
    """A connection that says part of something and then nothing, or little by little more."""
    peer = door.peer()
    said = door.asking() + frame(TEXT, b"x" * 50)
    with suppress(Gone):
        peer.send(said[: dice.randrange(1, len(said))])
    door.held.append(peer)
    for each in list(door.held):
        with suppress(Gone, OSError):
            each.send(b"\r" if dice.random() < 0.1 else b"")
    while len(door.held) > CROWD // 3:
        old = door.held.popleft()
        old.reset() if dice.random() < 0.5 else old.socket.close()


def oversized(door: Door, dice: random.Random) -> None:
    with door.upgraded() as peer:
        claimed = dice.choice([STRANGERS_LIMIT + 1, 2**31, 2**40, 2**63 - 1])
        peer.send(frame(TEXT, b"", length=claimed))
        if (said := closes(peer)) != 1009:
            raise Odd(f"a stranger's frame of {claimed} bytes was closed with {said}")


def stranger(door: Door, dice: random.Random) -> None:
    with door.upgraded() as peer:
        peer.send(request(dice.choice(["runs.list", "tools.list", "rpc.discover", "x", ""]), {}))
        refusal = peer.reply()
        if refusal["error"]["code"] != -32001:
            raise Odd(f"a stranger was told {refusal}")
        if (code := closes(peer)) != 1008:
            raise Odd(f"a stranger was told {refusal}, then {code}")


def guesser(door: Door, dice: random.Random) -> None:
    name = dice.choice(["token", "host_token", "web_code", "web_session"])
    with door.upgraded() as peer:
        for _ in range(10):
            if "error" not in (said := peer.call("session.auth", {name: "guess"})):
                raise Odd(f"a guess was right: {said}")
        if (code := closes(peer)) != 1008:
            raise Odd(f"ten guesses were closed with {code}")


def mutants(door: Door, dice: random.Random) -> None:
    said = [framed(dice, wrong_bytes(dice, wrong_message(dice))) for _ in range(12)]
    with dice.choice([door.known, door.upgraded])() as peer:
        with suppress(Gone):
            peer.send(b"".join(said))
            if dice.random() < 0.3:
                peer.reset()
                return
            peer.socket.shutdown(socket.SHUT_WR)
        ended(peer)


def flood(door: Door, dice: random.Random) -> None:
    with door.known() as peer:
        with suppress(Gone):
            peer.send(
                request("state.set", {"key": "k", "value": "v" * 500})
                + request("state.get", {"key": "k"}) * 400
            )
            peer.send(frame(PING, bytes(125)) * 200)
        peer.reset()


def abused_control(door: Door, dice: random.Random) -> None:
    with door.upgraded() as peer:
        peer.send(frame(PING, b"p") * dice.choice([1, 50, 300]) + frame(0xA, b"nobody asked"))
        code = dice.choice([1000, 1001, 3000, 4999])
        peer.send(frame(CLOSE, code.to_bytes(2, "big") + b"bye") + request("server.health"))
        if (said := closes(peer)) != code:
            raise Odd(f"a close with {code} was answered with {said}")
        ended(peer)


def endless_fragments(door: Door, dice: random.Random) -> None:
    with door.known() as peer:
        peer.send(frame(TEXT, b"[", fin=False) + frame(CONTINUATION, b"", fin=False) * 200)
        peer.send((frame(CONTINUATION, b"[", fin=False) + frame(PING)) * dice.choice([10, 200]))
        if dice.random() < 0.5:
            peer.send(frame(TEXT, b"{}"))
            if (said := closes(peer)) != 1002:
                raise Odd(f"a text inside of another was closed with {said}")


def deep(door: Door, dice: random.Random) -> None:
    depth = dice.choice([100, 1500, 20_000])
    value = b"[" * depth + b"]" * depth if dice.random() < 0.5 else b'{"a":' * depth + b"1" + b"}" * depth
    with door.known() as peer:
        peer.send(text(b'{"id":1,"method":"state.set","params":{"key":"k","value":%b}}' % value))
        said = peer.reply()
        if "error" not in said and depth > 1000:
            raise Odd(f"a value {depth} deep was taken")
        peer.send(text(b'{"id":%b,"method":"server.health"}' % (b"9" * dice.choice([20, 300, 9000]))))
        peer.reply()


WAYS: list[Callable[[Door, random.Random], None]] = [
    garbage, garbage, bad_upgrade, foreigner, broken_frames, broken_frames, broken_frames, reset_anywhere,
    reset_anywhere, reset_anywhere, hold, oversized, stranger, guesser, mutants, mutants, abused_control,
    endless_fragments, deep, flood,
]  # fmt: skip

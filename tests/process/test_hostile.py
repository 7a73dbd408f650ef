"""Connections that mean harm, or are merely broken (protocol `wire.md` section 1): no input may end the process.

Every test is followed by the same question: does the daemon still serve, and has it given back what it lent? The
descriptors must be as many as before, nothing may have been a surprise to it (a traceback in its log), and its
memory must not have grown.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from car_trio.nursery.limits import MIN_HELD, PASSING
from tests.process.daemon_process import PATIENCE, DaemonProcess, complete, record, start_run, until
from tests.process.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    LOST,
    PING,
    PONG,
    TEXT,
    Gone,
    RawPeer,
    frame,
    http_request,
    request,
    text,
)

MakeDaemon = Callable[..., DaemonProcess]
GROWTH_KIB = 96 * 1024
"""What the process may be larger afterwards: less than two connections' worth of buffers."""
MIB = 1024 * 1024


def is_well(daemon: DaemonProcess) -> bool:
    """Whether a new connection is let in and answered."""
    with RawPeer(daemon.port) as peer:
        return peer.ask() == 101 and peer.call("server.health")["result"]["ok"] is True


def warm(daemon: DaemonProcess) -> DaemonProcess:
    """Has done everything once, so that what it opens for good is open."""
    with daemon.client("warm") as client:
        complete(client, start_run(client))
    assert daemon.records(start_run_and_drop(daemon))
    return daemon


def start_run_and_drop(daemon: DaemonProcess) -> str:
    with daemon.client("warm") as client:
        run_id = start_run(client)
    until(lambda: daemon.end_of(run_id))
    return run_id


@contextlib.contextmanager
def unharmed(daemon: DaemonProcess) -> Iterator[None]:
    """The daemon is, after the block, what it was before."""
    assert is_well(daemon)
    until(lambda: daemon.sockets() == daemon.idle_sockets, "nobody is connected")
    descriptors, memory, log = daemon.descriptors(), daemon.resident_kib(), len(daemon.said())
    yield
    until(lambda: daemon.sockets() == daemon.idle_sockets, "connections are given back")
    assert is_well(daemon)
    until(lambda: daemon.descriptors() <= descriptors, "descriptors are given back")
    assert daemon.resident_kib() < memory + GROWTH_KIB
    assert "Traceback" not in daemon.said()[log:]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    # No test of this module is about these limits, and many hold connections that have said nothing yet.
    patient = {"CAR_TRIO_SERVER_HANDSHAKE_SECONDS": "3600", "CAR_TRIO_SERVER_AUTH_SECONDS": "3600"}
    daemon = DaemonProcess(tmp_path_factory.mktemp("hostile") / "home", environment=patient)
    try:
        yield warm(daemon.start())
    finally:
        daemon.clean_up()


@pytest.fixture
def target(shared: DaemonProcess) -> Iterator[DaemonProcess]:
    """One daemon for all tests of this module, which must survive each of them unharmed."""
    with unharmed(shared):
        yield shared


def upgraded(daemon: DaemonProcess) -> RawPeer:
    peer = RawPeer(daemon.port)
    assert peer.ask() == 101
    return peer


def known(daemon: DaemonProcess, **identity: str) -> RawPeer:
    peer = upgraded(daemon)
    assert "result" in peer.call("session.auth", {"token": daemon.token, **identity})
    return peer


# Before the handshake

GARBAGE = {
    "nothing": b"",
    "zeros": bytes(4096),
    "high bytes": bytes(range(256)) * 64,
    "a TLS hello": bytes.fromhex("160301020001000 1fc0303".replace(" ", "")) + bytes(500),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "only line ends": b"\r\n" * 2000,
    "a plain GET": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a POST": b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\nabcd",
    "an old HTTP": b"GET / HTTP/1.0\r\n\r\n",
    "an endless line": b"GET /" + b"a" * 200_000,
    "endless headers": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n",
    "a folded header": http_request(("X-Folded", "a\r\n b")),
    "a NUL in a header": http_request(("X-Nul", "a\0b")),
    "a wrong key": http_request(Sec_WebSocket_Key="short"),
    "no key": http_request(Sec_WebSocket_Key=None),
    "two keys": http_request(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")),
    "an old version": http_request(Sec_WebSocket_Version="8"),
    "half a request": http_request()[:-20],
    "a frame instead of a request": request("server.health"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_before_the_handshake_is_hung_up_on(target: DaemonProcess, garbage: bytes) -> None:
    with RawPeer(target.port) as peer:
        with contextlib.suppress(Gone, OSError):
            peer.send(garbage)
            peer.socket.shutdown(socket.SHUT_WR)
        assert peer.status() not in {101, 200}
        peer.rest()


def test_a_handshake_byte_by_byte_and_a_message_byte_by_byte_are_understood(target: DaemonProcess) -> None:
    with RawPeer(target.port) as peer:
        for byte in http_request():
            peer.send(bytes((byte,)))
        assert peer.status() == 101
        for byte in request("server.health", None, "slow"):
            peer.send(bytes((byte,)))
        assert peer.reply()["id"] == "slow"


def test_a_message_that_comes_with_the_handshake_is_not_lost(target: DaemonProcess) -> None:
    with RawPeer(target.port) as peer:
        peer.send(http_request() + request("server.health") + request("server.health", None, 2))
        assert peer.status() == 101
        assert [peer.reply()["id"], peer.reply()["id"]] == [1, 2]


@pytest.mark.parametrize("limit", ["handshake_seconds", "auth_seconds"])
def test_who_does_not_finish_the_handshake_or_does_not_authenticate_is_hung_up_on(
    make_daemon: MakeDaemon, limit: str
) -> None:
    daemon = make_daemon(config=f"[server]\n{limit} = 0.5\n").start()
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(RawPeer(daemon.port)) for _ in range(20)]
        for number, peer in enumerate(strangers):
            with contextlib.suppress(Gone):
                peer.send(http_request() if limit == "auth_seconds" else http_request()[: number * 7])
        friend = stack.enter_context(until(lambda: known_at_once(daemon)))
        for peer in strangers:
            assert peer.rest().startswith(b"HTTP/1.1 101 " if limit == "auth_seconds" else b"")
        assert friend.call("server.health")["result"]["ok"]


def known_at_once(daemon: DaemonProcess) -> RawPeer | None:
    """One that authenticated within the daemon's short limit; none when this machine had something else to do."""
    with contextlib.ExitStack() as stack, contextlib.suppress(Gone):
        peer = stack.enter_context(RawPeer(daemon.port))
        if peer.ask() == 101 and "result" in peer.call("session.auth", {"token": daemon.token}):
            stack.pop_all()
            return peer
    return None


# The Host and the Origin


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([], 400),
        (["127.0.0.1", "127.0.0.1"], 400),
        (["127.0.0.1", "evil.example"], 400),
        (["evil.example"], 421),
        (["evil.example:9100"], 421),
        (["127.0.0.1.evil.example"], 421),
        (["localhost@evil.example"], 421),
        (["127.0.0.1:9100:80"], 421),
        (["127.0.0.1:port"], 421),
        (["0.0.0.0"], 421),
        ([""], 421),
        (["127.0.0.1"], 101),
        (["127.0.0.1:1"], 101),
        (["LocalHost:9100"], 101),
        (["[::1]:9100"], 101),
        (["[::1]"], 101),
    ],
)
def test_exactly_one_host_header_that_names_this_machine_is_let_in(
    target: DaemonProcess, hosts: list[str], status: int
) -> None:
    with RawPeer(target.port) as peer:
        assert peer.ask(*(("Host", host) for host in hosts), Host=None) == status


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9101", "http://localhost", "file://", ""]
)
def test_an_origin_that_nobody_allowed_is_forbidden(target: DaemonProcess, origin: str) -> None:
    with RawPeer(target.port) as peer:
        assert peer.ask(("Origin", origin)) == 403


def test_host_and_origin_are_judged_without_authentication_too_and_can_be_allowed(
    make_daemon: MakeDaemon,
) -> None:
    config = "[server]\nallowed_origins = ['https://page.example']\nallowed_hosts = ['box.example']\n"
    daemon = make_daemon("--no-auth", config=config).start()
    for more, host, status in [
        ([("Origin", "https://evil.example")], "127.0.0.1", 403),
        ([("Origin", "https://page.example"), ("Origin", "https://evil.example")], "127.0.0.1", 403),
        ([], "evil.example", 421),
        ([("Origin", "https://page.example")], "127.0.0.1", 101),
        ([], "box.example:9100", 101),
    ]:
        with RawPeer(daemon.port) as peer:
            assert peer.ask(*more, Host=host) == status, (more, host)


# Strangers


def test_the_65th_stranger_is_told_to_come_back_and_is_let_in_when_another_has_left(
    target: DaemonProcess,
) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(known(target))
        strangers = [stack.enter_context(upgraded(target)) for _ in range(64)]
        with RawPeer(target.port) as one_more:
            assert one_more.ask() == 503
        strangers.pop().reset()

        def is_let_in() -> bool:
            with RawPeer(target.port) as again:
                return again.ask() == 101

        until(is_let_in)
        known_now = strangers.pop()
        assert "result" in known_now.call("session.auth", {"token": target.token})
        until(is_let_in)


def test_beyond_the_limit_of_connections_even_friends_have_to_wait(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(config="[server]\nmax_connections = 2\n").start()
    with known(daemon) as friend, known(daemon):
        with RawPeer(daemon.port) as third:
            assert third.ask() == 503
        friend.reset()
        until(lambda: is_well(daemon), "there is room again")


def test_half_open_handshakes_count_as_strangers(target: DaemonProcess) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(RawPeer(target.port)).send(b"GET / HTTP/1.1\r\n")

        def is_full() -> bool:
            with RawPeer(target.port) as one_more:
                return one_more.ask() == 503

        until(is_full)


def test_the_tenth_wrong_token_ends_the_connection_and_the_ninth_does_not(target: DaemonProcess) -> None:
    with upgraded(target) as guesser, upgraded(target) as forgetful:
        for peer in (guesser, forgetful):
            for number in range(9):
                refusal = peer.call("session.auth", {"token": f"guess {number}"})["error"]
                assert refusal["code"] == -32603
                assert refusal["message"].startswith("auth failed: token mismatch")
        assert forgetful.call("session.auth", {"token": target.token})["result"]["ok"]
        assert guesser.call("session.auth", {"token": "x"})["error"]["code"] == -32603
        assert guesser.close_code() == 1008


@pytest.mark.parametrize(
    "method", ["runs.start", "tools.list", "rpc.discover", "server.handshake", "no.such.method", ""]
)
def test_a_method_before_authentication_is_refused_and_ends_the_connection(
    target: DaemonProcess, method: str
) -> None:
    with upgraded(target) as peer:
        peer.send(request(method, {}) + request("session.auth", {"token": target.token}, 2))
        refusal = peer.reply()
        assert (refusal["id"], refusal["error"]["code"]) == (1, -32001)
        assert refusal["error"]["message"].startswith("auth required")
        assert peer.close_code() == 1008


@pytest.mark.parametrize(
    "params",
    [None, {}, [], "token", {"token": 1}, {"token": None}, {"token": ["x"]}, {"host_token": {}}, {"agent_id": "a"}],
)  # fmt: skip
def test_authentication_without_a_token_is_a_refusal_like_any_other(
    target: DaemonProcess, params: Any
) -> None:
    with upgraded(target) as peer:
        assert peer.call("session.auth", params)["error"]["code"] == -32602
        assert peer.call("tools.list")["error"]["code"] == -32001


# Frames

BROKEN_FRAMES = {
    "unmasked": (frame(TEXT, b"{}", masked=False), 1002),
    "reserved bits": (frame(TEXT, b"{}", reserved=4), 1002),
    "a reserved opcode": (frame(3, b"{}"), 1002),
    "a reserved control opcode": (frame(0xB, b""), 1002),
    "a long ping": (frame(PING, bytes(126)), 1002),
    "a ping in pieces": (frame(PING, b"a", fin=False), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"a"), 1002),
    "a text within a text": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close with a code that nobody may send": (frame(CLOSE, b"\x03\xee"), 1002),
    "a length of 63 bits": (frame(TEXT, b"", length=2**63 - 1), 1009),
    "a length of 64 bits": (frame(TEXT, b"", length=2**64 - 1), 1009),
    "text that is not UTF-8": (frame(TEXT, b'{"id":"\xff"}'), 1007),
    "text in pieces that is not UTF-8": (
        frame(TEXT, b'{"id":"\xc3', fin=False) + frame(CONTINUATION, b'"}'),
        1007,
    ),
    "an encoded surrogate": (frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    "a close reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "binary": (frame(BINARY, b"{}"), 1003),
}


@pytest.mark.parametrize(("data", "code"), BROKEN_FRAMES.values(), ids=BROKEN_FRAMES.keys())
def test_a_broken_frame_closes_with_the_code_that_says_why(
    target: DaemonProcess, data: bytes, code: int
) -> None:
    with upgraded(target) as stranger, known(target) as friend:
        for peer in (stranger, friend):
            peer.send(data)
            assert peer.close_code() == code


@pytest.mark.parametrize(("data", "code"), BROKEN_FRAMES.values(), ids=BROKEN_FRAMES.keys())
def test_a_broken_frame_and_a_reset_at_once_end_nobody_else(
    target: DaemonProcess, data: bytes, code: int
) -> None:
    del code
    with known(target) as bystander:
        for _ in range(3):
            peer = upgraded(target)
            peer.send(data)
            peer.reset()
        assert bystander.call("server.health")["result"]["ok"]


def test_a_stranger_may_send_64_kib_and_not_a_byte_more(target: DaemonProcess) -> None:
    def padded(size: int) -> bytes:
        bare = b'{"id":1,"method":"server.health","pad":""}'
        return bare[:-2] + b" " * (size - len(bare)) + bare[-2:]

    with upgraded(target) as modest, upgraded(target) as greedy, upgraded(target) as sly:
        modest.send(text(padded(65_536)))
        assert modest.reply()["result"]["ok"]
        greedy.send(frame(TEXT, b"", length=65_537))
        assert greedy.close_code() == 1009
        sly.send(frame(TEXT, bytes(60_000), fin=False) + frame(CONTINUATION, bytes(6_000)))
        assert sly.close_code() == 1009


def test_a_client_may_send_16_mib_and_not_a_byte_more(target: DaemonProcess) -> None:
    with known(target) as modest, known(target) as greedy, known(target) as sly:
        bare = b'{"id":1,"method":"state.exists","params":{"key":""}}'
        modest.send(text(bare[:-3] + b"k" * (16 * MIB - len(bare)) + bare[-3:]))
        assert modest.reply()["result"] is False
        greedy.send(frame(TEXT, b"", length=16 * MIB + 1))
        assert greedy.close_code() == 1009
        for number in range(17):
            with contextlib.suppress(Gone):
                sly.send(frame(CONTINUATION if number else TEXT, b" " * MIB, fin=False))
        assert sly.close_code() in {1009, LOST}


def test_a_message_in_a_thousand_pieces_with_pings_in_between_is_one_message(target: DaemonProcess) -> None:
    whole = b'{"id":7,"method":"server.health","params":' + b" " * 1000 + b"{}}"
    with upgraded(target) as peer:
        for at in range(len(whole)):
            last = at == len(whole) - 1
            peer.send(frame(CONTINUATION if at else TEXT, whole[at : at + 1], fin=last) + frame(PING, b"p"))
        pongs = 0
        while (received := peer.next_frame()).opcode == PONG:
            pongs += 1
        assert json.loads(received.payload)["id"] == 7
        assert pongs > 500


def test_endless_empty_pieces_are_no_way_around_the_limits(target: DaemonProcess) -> None:
    with known(target) as peer, known(target) as bystander:
        peer.send(frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 50_000)
        assert bystander.call("server.health")["result"]["ok"]
        peer.send(frame(CONTINUATION, b'{"id":1,"method":"server.health"}'))
        assert peer.reply()["result"]["ok"]


# Envelopes

DEEP = 100_000
NOT_REQUESTS: dict[str, tuple[bytes, int, Any]] = {
    "nothing": (b"", -32700, None),
    "no JSON": (b"hello", -32700, None),
    "half an object": (b'{"id":1,"method":"server.health"', -32700, None),
    "two objects": (b'{"id":1,"method":"a"}{"id":2,"method":"b"}', -32700, None),
    "a batch": (b'[{"jsonrpc":"2.0","id":1,"method":"server.health"}]', -32600, None),
    "an empty batch": (b"[]", -32600, None),
    "a number": (b"1", -32600, None),
    "a null": (b"null", -32600, None),
    "no method": (b'{"id":5}', -32600, 5),
    "a method that is no string": (b'{"id":5,"method":7}', -32600, 5),
    "an id that is an object": (b'{"id":{"a":1},"method":"server.health"}', -32600, None),
    "an id that is a list": (b'{"id":[1],"method":"server.health"}', -32600, None),
    "an id that is a boolean": (b'{"id":true,"method":"server.health"}', -32600, None),
    "a huge id": (b'{"id":"' + b"x" * 300 + b'","method":"server.health"}', -32600, None),
    "a huge number as id": (b'{"id":' + b"9" * 300 + b',"method":"server.health"}', -32600, None),
    "deep lists": (b"[" * DEEP + b"]" * DEEP, -32600, None),
    "deep objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, -32600, None),
}


@pytest.mark.parametrize(("message", "code", "reply_id"), NOT_REQUESTS.values(), ids=NOT_REQUESTS.keys())
def test_what_is_not_a_request_is_refused_and_the_connection_goes_on(
    target: DaemonProcess, message: bytes, code: int, reply_id: Any
) -> None:
    with known(target) as peer:
        peer.send(text(message))
        refusal = peer.reply()
        assert refusal["error"]["code"] == code
        assert refusal["id"] == reply_id
        assert peer.call("server.health")["result"]["ok"]


@pytest.mark.parametrize(
    "reply_id", [b"0", b"-1", b"1.5", b"1e400", b'""', b'"\\u0000"', b"9" * 256, b'"' + b"x" * 254 + b'"', b"null"]
)  # fmt: skip
def test_an_id_comes_back_as_the_bytes_it_was(target: DaemonProcess, reply_id: bytes) -> None:
    with known(target) as peer:
        peer.send(text(b'{"id":' + reply_id + b',"method":"tools.list"}'))
        assert b'"id":' + reply_id + b"," in peer.reply_bytes()


@pytest.mark.parametrize("method", ["no.such", "", "runs.start\0", "__class__", "x" * 60_000, "💥" * 1000])
def test_an_unknown_method_is_refused_briefly(target: DaemonProcess, method: str) -> None:
    with known(target) as peer:
        refusal = peer.call(method, {})["error"]
        assert refusal["code"] == -32601
        assert len(refusal["message"]) < 300


@pytest.mark.parametrize(
    "message",
    [
        b'{"id":1,"method":"state.set","params":{"key":"k","value":%b}}',
        b'{"id":1,"method":"state.set","params":%b}',
        b'{"id":1,"method":"tools.register","params":[{"name":"t","parameters":%b}]}',
        b'{"id":1,"method":"proposal.submit","params":{"proposal":%b}}',
        b'{"id":1,"method":"proposal.submit","params":{"proposal":{"actions":[{"id":"a","type":"state_write",'
        b'"parameters":{"key":"k","value":%b}}]}}}',
        b'{"id":1,"method":"runs.start","params":{"intent":%b}}',
        b'{"id":1,"method":"runs.record_turns","params":{"run_id":"r","turns":[{"output":%b}]}}',
        b'{"id":1,"method":"runs.complete","params":{"run_id":"r","outcome":{"status":"done","evidence":[%b]}}}',
        b'{"id":1,"method":"session.auth","params":{"token":%b}}',
        b'{"id":1,"method":"server.health","params":%b}',
    ],
)
@pytest.mark.parametrize("deep", [b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP])
def test_what_is_nested_too_deeply_is_refused_wherever_it_stands(
    target: DaemonProcess, message: bytes, deep: bytes
) -> None:
    with known(target) as peer:
        peer.send(text(message % deep))
        assert peer.reply()["error"]["code"] in {-32602, -32600, -32700}
        assert peer.call("server.health")["result"]["ok"]


HOSTILE_ANSWERS = {
    "a deep result": b'"result":' + b"[" * DEEP + b"]" * DEEP,
    "a deep error": b'"error":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "an error that is a string": b'"error":"no"',
    "an error without a message": b'"error":{"message":3}',
    "a number that nothing holds": b'"result":1e999999',
    "no number": b'"result":NaN',
    "a lone surrogate": b'"result":"\\udc80"',
    "half a result": b'"result":{"a":',
}


@pytest.mark.parametrize("answer", HOSTILE_ANSWERS.values(), ids=HOSTILE_ANSWERS.keys())
def test_a_tools_answer_that_cannot_be_read_is_that_tools_failure(
    target: DaemonProcess, answer: bytes
) -> None:
    with known(target) as peer:
        peer.call("tools.register", [{"name": "t"}])
        action = {"id": "a", "type": "tool_call", "tool": "t", "parameters": {}}
        peer.send(request("proposal.submit", {"proposal": {"id": "p", "actions": [action]}}))
        assert peer.reply()["id"] == "cb-0"
        peer.send(text(b'{"jsonrpc":"2.0","id":"cb-0",' + answer + b"}"))
        while "result" not in (reply := peer.reply()):
            assert reply["error"]["code"] in {-32600, -32700}
        (row,) = reply["result"]["results"]
        assert row["status"] == "failed"
        assert "malformed" in row["error"] or "invalid tool result" in row["error"]


def test_answers_that_nobody_waits_for_are_dropped(target: DaemonProcess) -> None:
    with known(target) as peer:
        for stray in (b'{"id":"cb-0","result":1}', b'{"id":"cb-99","error":3}', b'{"id":7,"error":{}}'):
            peer.send(text(stray))
        assert peer.call("server.health")["id"] == 1


# Resets


def _mid_call(peer: RawPeer) -> None:
    peer.call("tools.register", [{"name": "t"}])
    action = {"id": "a", "type": "tool_call", "tool": "t", "parameters": {}}
    peer.send(request("proposal.submit", {"proposal": {"id": "p", "actions": [action]}}))
    assert peer.reply()["method"] == "tools.execute"


def _mid_watch(peer: RawPeer) -> None:
    run_id = peer.call("runs.start", {"intent": "i", "agent_id": "watched"})["result"]["run_id"]
    peer.send(request("runs.subscribe", {"run_id": run_id}) + request("runs.get_trace", {"run_id": run_id}))


PHASES: dict[str, Callable[[DaemonProcess, RawPeer], None]] = {
    "at once": lambda daemon, peer: None,
    "within the request": lambda daemon, peer: peer.send(http_request()[:50]),
    "with the request": lambda daemon, peer: peer.send(http_request()),
    "after a refusal": lambda daemon, peer: peer.send(http_request(Host="evil.example")),
    "within a frame's header": lambda daemon, peer: peer.send(http_request() + b"\x81"),
    "within a frame": lambda daemon, peer: peer.send(http_request() + request("server.health")[:-9]),
    "with a request": lambda daemon, peer: peer.send(http_request() + request("server.health")),
    "with a close": lambda daemon, peer: peer.send(http_request() + frame(CLOSE, b"\x03\xe8")),
    "with a refused request": lambda daemon, peer: peer.send(http_request() + request("tools.list")),
    "after a write": lambda daemon, peer: peer.send(
        http_request()
        + request("session.auth", {"token": daemon.token})
        + request("runs.start", {"intent": "i", "agent_id": "dropped"}) * 20
    ),
}


@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES.keys())
def test_a_reset_in_any_phase_is_a_goodbye_like_another(
    target: DaemonProcess, phase: Callable[[DaemonProcess, RawPeer], None]
) -> None:
    for _ in range(5):
        peer = RawPeer(target.port)
        phase(target, peer)
        peer.reset()
        with RawPeer(target.port) as polite:
            phase(target, polite)


@pytest.mark.parametrize("busy", [_mid_call, _mid_watch])
def test_a_reset_while_something_is_under_way_leaves_nothing_behind(
    target: DaemonProcess, busy: Callable[[RawPeer], None]
) -> None:
    for _ in range(5):
        peer = known(target)
        busy(peer)
        peer.reset()


# Floods


def test_who_asks_without_reading_is_told_when_it_is_too_much(target: DaemonProcess) -> None:
    calls = 400
    with known(target, agent_id="flood") as peer, known(target) as bystander:
        run_id = peer.call("runs.start", {"intent": "i"})["result"]["run_id"]
        turns = {"run_id": run_id, "turns": [{"prompt": "p"}]}
        peer.send(b"".join(request("runs.record_turns", turns, number) for number in range(calls)))
        assert bystander.call("server.health")["result"]["ok"]
        replies = [peer.reply() for _ in range(calls)]
        refused = [reply for reply in replies if "error" in reply]
        assert {reply["error"]["code"] for reply in refused} <= {-32010}
        recorded = peer.call("runs.get_trace", {"run_id": run_id})["result"]["records"]
        assert len(recorded) == 1 + calls - len(refused)


def test_too_many_requests_in_flight_are_refused_one_by_one(target: DaemonProcess) -> None:
    with known(target) as peer:
        peer.call("tools.register", [{"name": "t"}])
        action = {"id": "a", "type": "tool_call", "tool": "t", "parameters": {}}
        proposal = {"proposal": {"id": "p", "actions": [action]}}
        peer.send(b"".join(request("proposal.submit", proposal, number) for number in range(260)))
        refused = [reply for reply in (peer.reply() for _ in range(260)) if "error" in reply]
        assert [reply["id"] for reply in refused] == [256, 257, 258, 259]
        assert {reply["error"]["code"] for reply in refused} == {-32010}


@pytest.mark.parametrize(
    ("stall_seconds", "flood"),
    [
        (0.2, request("state.get", {"key": "k"}) * 16),
        (3600, request("state.get", {"key": "k"}) * 120),
        (3600, frame(PING, bytes(125)) * 700_000),
    ],
    ids=["it accepts nothing for too long", "too much waits for it", "too many pongs wait for it"],
)
def test_who_never_reads_is_cut_and_its_memory_given_back(
    make_daemon: MakeDaemon, stall_seconds: float, flood: bytes
) -> None:
    daemon = warm(make_daemon(config=f"[server]\nwrite_stall_seconds = {stall_seconds}\n").start())
    with unharmed(daemon), known(daemon) as bystander:
        with known(daemon) as glutton:
            glutton.call("state.set", {"key": "k", "value": "x" * MIB})
            both = daemon.sockets()
            glutton.socket.settimeout(
                6 * PATIENCE
            )  # so many pings are read in seconds, more on a busy machine
            with contextlib.suppress(Gone, TimeoutError):
                glutton.send(flood)
            until(lambda: daemon.sockets() < both, "it is cut while it holds on")
        assert bystander.call("server.health")["result"]["ok"]


def test_notifications_that_mean_nothing_are_taken_in_silence(target: DaemonProcess) -> None:
    with known(target) as peer:
        for message in (b'{"method":"no.such"}', b'{"method":"runs.complete","params":3}', b'{"method":""}'):
            peer.send(text(message) * 2000)
        assert peer.call("server.health")["id"] == 1


KEPT_FOR_THE_STORE = MIN_HELD + PASSING


def test_running_out_of_descriptors_is_waited_out_and_open_runs_go_on(make_daemon: MakeDaemon) -> None:
    daemon = warm(make_daemon().start())
    with unharmed(daemon), daemon.client("alice") as alice:
        run_id = start_run(alice)
        record(alice, run_id, 0)
        few = daemon.descriptors() + KEPT_FOR_THE_STORE + 10
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (few, few))
        with contextlib.ExitStack() as stack:
            for _ in range(30):
                stack.enter_context(RawPeer(daemon.port))
            until(lambda: "newcomers wait" in daemon.said())
            assert record(alice, run_id, 1)["ok"]
        until(lambda: daemon.sockets() == daemon.idle_sockets + 1, "all but one are gone")
        assert is_well(daemon)
        assert complete(alice, run_id)["ok"]
        assert len(daemon.records(run_id)) == 4


def test_many_connections_come_and_go(target: DaemonProcess) -> None:
    for _ in range(4):
        with contextlib.ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(known(target))


# What one client may learn of another's


def test_a_foreign_run_answers_byte_for_byte_like_an_unknown_one(daemon: DaemonProcess) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    outcome, turns = {"status": "done"}, [{"prompt": "p"}]

    def answers(peer: RawPeer, run_id: str) -> list[bytes]:
        said = []
        for method, more in (
            ("runs.get_trace", {}),
            ("runs.get_trace", {"cursor": 5, "limit": 1}),
            ("runs.subscribe", {}),
            ("runs.unsubscribe", {}),
            ("runs.record_turns", {"turns": turns}),
            ("runs.record_turns", {"turns": [{"tool": "x" * 300_000}]}),
            ("runs.complete", {"outcome": outcome}),
        ):
            peer.send(request(method, {"run_id": run_id, **more}))
            said.append(peer.reply_bytes().replace(run_id.encode(), unknown.encode()))
        return said

    with daemon.client("alice") as alice:
        ended, removed = start_run(alice), start_run(alice)
        for run_id in (ended, removed):
            record(alice, run_id, 0)
            complete(alice, run_id)
        daemon.restart()
    with daemon.client("alice") as alice, daemon.client(host=True) as host:
        open_run = start_run(alice)
        record(alice, open_run, 0)
        host.call("runs.remove", {"run_ids": [removed]})
        with known(daemon, agent_id="mallory") as bound, known(daemon) as unbound:
            for peer in (bound, unbound):
                expected = answers(peer, unknown)
                for run_id in (open_run, ended):
                    assert answers(peer, run_id) == expected
                    assert answers(peer, run_id) == expected
            keyed = [
                bound.call("runs.start", {"intent": "i", "idempotency_key": run_id})["error"]
                for run_id in (open_run, ended)
            ]
        assert keyed[0] == keyed[1]
        assert (keyed[0]["code"], keyed[0]["message"]) == (-32603, "idempotency_key cannot be used")
        assert len(daemon.records(open_run)) == 2
        assert complete(alice, open_run)["ok"]


def test_another_agents_list_is_refused_before_anything_is_looked_up(daemon: DaemonProcess) -> None:
    with daemon.client("alice") as alice:
        start_run(alice)
        with known(daemon, agent_id="mallory") as mallory:
            there, nowhere = (
                mallory.call("runs.list", {"agent_id": agent})["error"] for agent in ("alice", "nobody")
            )
    assert there["code"] == nowhere["code"] == -32603
    assert there["message"].replace("alice", "nobody") == nowhere["message"]
    assert there["message"].startswith("not authorized for agent 'alice'")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/abs", "..", ".", "a/b", "~", "%2e%2e", "\u202eevil", "CON"]
)
def test_a_name_that_looks_like_a_path_stays_a_name(daemon: DaemonProcess, name: str, tmp_path: Path) -> None:
    outside = {path for path in tmp_path.rglob("*") if daemon.home not in (path, *path.parents)}
    with daemon.client(name) as client:
        run_id = start_run(client)
        complete(client, run_id)
    assert daemon.records(run_id)[0]["agent_id"] == name
    (path,) = (daemon.home / "runs").rglob(f"{run_id}.jsonl")
    assert path.parent.parent == daemon.home / "runs"
    assert outside == {path for path in tmp_path.rglob("*") if daemon.home not in (path, *path.parents)}

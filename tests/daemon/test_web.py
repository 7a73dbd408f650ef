"""The page's port: a visit is one request and one answer, `/rpc` becomes a connection, a browser signs in."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from car_trio.nursery import web
from car_trio.nursery.web import MAX_HEAD_BYTES, Page, page_files
from car_trio.state.web_sessions import SESSION_SECONDS
from tests import peer as peer_module
from tests.peer import HOST_TOKEN, TOKEN, House, PageDoor, Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")

OWN = f"http://127.0.0.1:{PageDoor.port}"
HOST = f"Host: 127.0.0.1:{PageDoor.port}"
UPGRADE = (
    f"Origin: {OWN}",
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
)
CLOSED = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Connection": "close",
}
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\n"


def request(line: str = "GET / HTTP/1.1", *headers: str, host: str = HOST) -> bytes:
    return "\r\n".join((line, host, *headers, "", "")).encode("latin-1")


class Said:
    """An answer, taken apart."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = dict(line.split(": ", 1) for line in lines)


async def everything(stream: trio.abc.ReceiveStream) -> bytes:
    raw = b""
    while data := await stream.receive_some():
        raw += data
    return raw


async def asked(house: House, *pieces: bytes) -> Said:
    """What a visitor is told, who then waits for the end."""
    stream = house.visitor()
    for piece in pieces:
        await stream.send_all(piece)
        await wait_all_tasks_blocked()
    raw = await everything(stream)
    await stream.aclose()
    return Said(raw)


# Files


async def test_every_file_of_the_page_is_served_whole_with_its_kind(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        routes = page_files()
        assert "/" in routes
        for path, file in routes.items():
            said = await asked(house, request(f"GET {path}?any=thing HTTP/1.1"))
            assert (said.status, said.body) == (200, file.body)
            assert said.headers["Content-Type"] == file.kind
            assert said.headers["Content-Length"] == str(len(file.body))


async def test_every_answer_is_closed_to_others_and_names_no_server(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        for sent, status in [
            (request(), 200),
            (request("HEAD / HTTP/1.1"), 200),
            (request("GET /nothing HTTP/1.1"), 404),
            (request("POST / HTTP/1.1"), 405),
            (request("GET /rpc HTTP/1.1", f"Origin: {OWN}"), 426),
            (request(host="Host: evil.example"), 421),
            (request("GET / HTTP/1.1", "Origin: https://evil.example"), 403),
            (request("GET / HTTP/1.1", "Content-Length: 1") + b"x", 413),
            (b"no request\r\n\r\n", 400),
        ]:
            said = await asked(house, sent)
            assert said.status == status
            assert CLOSED.items() <= said.headers.items()
            assert "Server" not in said.headers
            assert "Set-Cookie" not in said.headers
            assert not any(name.startswith("Access-Control") for name in said.headers)


async def test_a_program_that_takes_it_for_the_daemons_port_is_told_the_daemons_address(
    tmp_path, autojump_clock
):
    sockets = [header for header in UPGRADE if not header.startswith("Origin")]
    async with open_house(tmp_path, page=True) as house:
        for path in ("/", "/rpc/x"):
            said = await asked(house, request(f"GET {path} HTTP/1.1", *sockets))
            assert (said.status, said.body) == (
                421,
                b"this is the port of the page; the daemon is at ws://memory\n",
            )


async def test_head_tells_what_get_would_without_the_body(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        for path in ("/", "/nothing"):
            whole, head = [await asked(house, request(f"{how} {path} HTTP/1.1")) for how in ("GET", "HEAD")]
            assert (head.status, head.body) == (whole.status, b"")
            whole.headers.pop("Date")
            head.headers.pop("Date")
            assert head.headers == whole.headers


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /index.html HTTP/1.1", 404),
        ("GET // HTTP/1.1", 404),
        ("GET /../index.html HTTP/1.1", 404),
        ("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1", 404),
        ("GET /page/ HTTP/1.1", 404),
        ("GET /rpc/ HTTP/1.1", 404),
        ("GET http://127.0.0.1:9101/ HTTP/1.1", 404),
        ("GET * HTTP/1.1", 404),
        ("POST / HTTP/1.1", 405),
        ("OPTIONS / HTTP/1.1", 405),
        ("TRACE / HTTP/1.1", 405),
        ("DELETE /nothing HTTP/1.1", 405),
        ("CONNECT example.com:443 HTTP/1.1", 405),
        ("get / HTTP/1.1", 405),
        ("HEAD /rpc HTTP/1.1", 405),
        ("POST /rpc HTTP/1.1", 405),
        ("GET /rpc HTTP/1.1", 426),
        ("GET / HTTP/1.0", 200),
    ],
)
async def test_what_is_not_a_file_of_the_page_is_refused(tmp_path, autojump_clock, line, status):
    async with open_house(tmp_path, page=True) as house:
        said = await asked(house, request(line, f"Origin: {OWN}"))
        assert said.status == status
        if status == 405:
            assert said.headers["Allow"] == ("GET" if "/rpc" in line else "GET, HEAD")


async def test_a_body_is_refused_before_it_has_come_and_an_empty_one_is_none(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        for header in ("Content-Length: 5", "Transfer-Encoding: chunked"):
            for path in ("/", "/rpc"):
                said = await asked(house, request(f"GET {path} HTTP/1.1", header, *UPGRADE))
                assert said.status == 413
        assert (await asked(house, request("GET / HTTP/1.1", "Content-Length: 0"))).status == 200


async def test_the_answer_is_the_end_and_what_comes_behind_a_request_is_not_looked_at(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path, page=True) as house:
        stream = house.visitor()
        await stream.send_all(request() + request("GET /nothing HTTP/1.1") + b"\x00" * 100_000)
        raw = await everything(stream)
        assert raw.count(b"HTTP/1.1 ") == 1


async def test_who_goes_on_sending_gets_the_answer_all_the_same(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        ours, theirs = lockstep_stream_pair()
        house.doors.page.visit(theirs, False)
        await ours.send_all(request("POST / HTTP/1.1", "Content-Length: 100000"))
        async with trio.open_nursery() as both:
            both.start_soon(ours.send_all, b"x" * 100_000)
            assert Said(bytes(await ours.receive_some())).status == 413
        await ours.aclose()


async def test_the_files_are_those_that_were_there_at_the_start(tmp_path, autojump_clock, monkeypatch):
    async with open_house(tmp_path, page=True) as house:
        monkeypatch.setattr(web, "page_files", lambda: pytest.fail("read again"))
        assert (await asked(house, request())).status == 200


def test_a_file_of_another_kind_is_not_served(tmp_path, monkeypatch):
    (tmp_path / "page").mkdir()
    for name in ("index.html", "a.js", "b.css", "c.svg", "notes.txt", ".hidden", "script.sh"):
        (tmp_path / "page" / name).write_text(name)
    monkeypatch.setattr(web, "files", lambda _: tmp_path)
    assert {path: file.body for path, file in page_files().items()} == {
        "/": b"index.html",
        "/a.js": b"a.js",
        "/b.css": b"b.css",
        "/c.svg": b"c.svg",
    }


# Malformed, slow, many


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1:9101\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : 127.0.0.1:9101\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:9101\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 400),
        (request("GET / HTTP/1.1", "X: a\rb"), 400),
        (request("GET / HTTP/1.1", "X: a\0b"), 400),
        (request("GET / HTTP/1.1", "Content-Length: 5", "Content-Length: 6"), 400),
        (request("GET / HTTP/1.1", "Content-Length: -1"), 400),
        (request("GET / HTTP/1.1", "Transfer-Encoding: gzip, chunked"), 501),
        (request("GET / HTTP/1.1", "X: " + "a" * 2 * MAX_HEAD_BYTES), 431),
        (b"G" * (MAX_HEAD_BYTES + 1), 431),
    ],
)
async def test_what_is_no_request_is_told_so_and_no_more(tmp_path, autojump_clock, caplog, sent, status):
    caplog.set_level(logging.DEBUG)
    async with open_house(tmp_path, page=True) as house:
        said = await asked(house, sent)
        assert said.status == status
        assert len(said.body) < 100
        assert "Traceback" not in said.body.decode()
        assert (await asked(house, request())).status == 200
    assert not [each for each in caplog.records if each.exc_info]


async def test_a_request_may_come_byte_by_byte(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        sent = request()
        assert (await asked(house, *(sent[at : at + 1] for at in range(len(sent))))).status == 200


async def test_a_request_that_dawdles_is_given_up_and_silence_is_just_ended(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        said = await asked(house, request()[:-1])
        assert said.status == 408
        stream = house.visitor()
        assert await everything(stream) == b"", "a connection that a browser opened ahead is no error"


async def test_a_trickle_gets_no_more_time_than_silence(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True, server={"handshake_seconds": 5}) as house:
        stream = house.visitor()
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                await stream.send_all(bytes((byte,)))
                await trio.sleep(1)
        assert trio.current_time() - began < 10


async def test_a_visitor_who_leaves_in_the_middle_is_forgotten(tmp_path, autojump_clock, caplog):
    async with open_house(tmp_path, page=True) as house:
        for sent in (b"", b"GET /", request(), request("GET /rpc HTTP/1.1", *UPGRADE)):
            stream = house.visitor()
            if sent:
                await stream.send_all(sent)
            await trio.aclose_forcefully(stream)
        await wait_all_tasks_blocked()
        assert (await asked(house, request())).status == 200
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_a_visitor_who_does_not_read_is_given_up(tmp_path, autojump_clock, monkeypatch):
    big = web.Answer(web.http.HTTPStatus.OK, b"x" * 100_000, "text/html")
    monkeypatch.setattr(web, "page_files", lambda: {"/": big})
    async with open_house(tmp_path, page=True, server={"write_stall_seconds": 30}) as house:
        ours, theirs = lockstep_stream_pair()
        house.doors.page.visit(theirs, False)
        await ours.send_all(request())
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await trio.sleep(1)
            while True:
                await ours.send_all(b"x")
        await wait_all_tasks_blocked()
        assert trio.current_time() - began <= 31


async def test_a_hundred_visitors_who_say_nothing_keep_nobody_out(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        page = await house.page(web_code=await code(house))
        idle = [house.visitor() for _ in range(100)]
        await wait_all_tasks_blocked()
        assert (await asked(house, request())).status == 200
        assert await page.call("host.agents") == []
        assert (await house.peer("alice")).protocol.state is not None
        assert (await house.page(web_code=await code(house))) is not None
        ended: list[bytes] = []

        async def end_of(stream: trio.abc.ReceiveStream) -> None:
            ended.append(await everything(stream))

        async with trio.open_nursery() as ends:
            for stream in idle:
                ends.start_soon(end_of, stream)
            await wait_all_tasks_blocked()
            assert ended == [b""] * 37, "the oldest made room, the others may still say something"
            ends.cancel_scope.cancel()


async def test_an_error_in_one_visit_ends_that_visit(tmp_path, autojump_clock, caplog, monkeypatch):
    async with open_house(tmp_path, page=True) as house:

        def broken(*_: Any) -> None:
            raise ZeroDivisionError("within")

        with monkeypatch.context() as patch:
            patch.setattr(Page, "decide", broken)
            assert await everything_of(house, request()) == b""
        assert (await asked(house, request())).status == 200
    assert [each for each in caplog.records if "a visit of the page" in each.getMessage()]


async def everything_of(house: House, sent: bytes) -> bytes:
    stream = house.visitor()
    await stream.send_all(sent)
    return await everything(stream)


# The WebSocket


async def code(house: House) -> str:
    host = await house.peer(host=True)
    minted = await host.call("host.web_code")
    await host.drop()
    return minted["code"]


def masked(payload: bytes) -> bytes:
    assert len(payload) < 126
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload


async def test_bytes_that_come_right_behind_the_upgrade_are_not_lost(tmp_path, autojump_clock):
    health = masked(b'{"id":1,"method":"server.health"}')
    everything_sent = request("GET /rpc HTTP/1.1", *UPGRADE) + health + health[:9]
    async with open_house(tmp_path, page=True) as house:
        for cut in (1, len(everything_sent) - len(health), len(everything_sent) - 10, len(everything_sent)):
            stream = house.visitor()
            await stream.send_all(everything_sent[:cut])
            await wait_all_tasks_blocked()
            await stream.send_all(everything_sent[cut:] + health[9:])
            await wait_all_tasks_blocked()
            raw = bytes(await stream.receive_some())
            assert raw.startswith(SWITCHED)
            assert raw.count(b'"ok":true') == 2
            await trio.aclose_forcefully(stream)


async def test_a_websocket_is_asked_for_no_extension_and_gets_no_cookie_of_others(
    tmp_path, autojump_clock, monkeypatch
):
    handed: list[bytes] = []
    monkeypatch.setattr(Page, "__init__", remembering(handed, Page.__init__))
    async with open_house(tmp_path, page=True) as house:
        stream = house.visitor()
        await stream.send_all(request("GET /rpc HTTP/1.1", *UPGRADE, "Cookie: " + "other=port; " * 1000))
        await wait_all_tasks_blocked()
        raw = bytes(await stream.receive_some())
        assert raw.startswith(SWITCHED)
        assert b"Extensions" not in raw
    assert b"ookie" not in handed[0]
    assert b"Origin" not in handed[0]


def remembering(handed: list[bytes], init: Any) -> Any:
    def remember(self: Page, server: Any, port: int, daemon_url: str, upgrade: Any) -> None:
        def look(stream: trio.abc.Stream, said: bytes) -> object:
            handed.append(said)
            return upgrade(stream, said)

        init(self, server, port, daemon_url, look)

    return remember


@pytest.mark.parametrize(
    "missing", ["Origin", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"]
)
async def test_an_upgrade_without_one_of_its_headers_is_none(tmp_path, autojump_clock, missing):
    kept = [each for each in UPGRADE if not each.startswith(f"{missing}:")]
    async with open_house(tmp_path, page=True) as house:
        said = await asked(house, request("GET /rpc HTTP/1.1", *kept))
        assert 400 <= said.status < 500
        assert (await house.page(web_code=await code(house))) is not None


async def test_an_allowed_name_with_a_port_of_its_own_opens_a_websocket_too(tmp_path, autojump_clock):
    server = {"allowed_hosts": ["box.example:8443"]}
    async with open_house(tmp_path, page=True, server=server) as house:
        stream, origin = house.visitor(), "Origin: https://box.example:8443"
        await stream.send_all(
            request("GET /rpc HTTP/1.1", *UPGRADE[1:], origin, host="Host: box.example:8443")
        )
        assert bytes(await stream.receive_some()).startswith(SWITCHED)


@pytest.mark.parametrize(
    "headers",
    [
        ("Origin: https://evil.example",),
        ("Origin: http://127.0.0.1:3000",),
        ("Origin: null",),
        (f"Origin: {OWN}", "Sec-Fetch-Site: cross-site"),
        (f"Origin: {OWN}", "Origin: https://evil.example"),
    ],
)
async def test_another_origins_page_gets_nothing(tmp_path, autojump_clock, headers):
    others = [each for each in UPGRADE if not each.startswith("Origin")]
    async with open_house(tmp_path, page=True) as house:
        for path in ("/", "/rpc", "/nothing"):
            said = await asked(house, request(f"GET {path} HTTP/1.1", *headers, *others))
            assert said.status == 403
            assert not any(name.startswith("Access-Control") for name in said.headers)


async def test_a_websocket_of_the_page_is_bounded_like_any_other(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True, server={"max_unauthenticated": 2, "auth_seconds": 5}) as house:
        strangers = [await house.page(), await house.page()]
        said = await asked(house, request("GET /rpc HTTP/1.1", *UPGRADE))
        assert said.status == 503
        assert (await asked(house, request())).status == 200, "a file is no connection"
        for stranger in strangers:
            assert await stranger.closed() == 1006, "who does not sign in has to go"
        page = await house.page()
        await page.send({"id": 1, "method": "host.agents"})
        with pytest.raises(Refused, match="^auth required"):
            await page.reply(1)
        assert await page.closed() == 1008


async def test_a_stop_ends_visits_at_once_and_the_pages_connections_in_order(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        page, stream = await house.page(web_code=await code(house)), house.visitor()
        await wait_all_tasks_blocked()
        house.stop.set()
        assert await everything(stream) == b""
        assert await page.closed() == 1001


# Signing in


@pytest.fixture
def long_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual days."""
    monkeypatch.setattr(peer_module, "LONGEST_TEST", 10.0 * SESSION_SECONDS)


async def test_a_browser_signs_in_with_a_code_and_then_with_its_session(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        host = await house.peer(host=True)
        minted = await host.call("host.web_code", {})
        assert minted == {"code": minted["code"], "url": PageDoor.url, "expires_in_secs": 60}
        assert len(minted["code"]) == 43
        page = await house.page()
        signed = await page.call("session.auth", {"web_code": minted["code"]})
        assert signed == {
            "ok": True,
            "auth_enabled": True,
            "role": "host",
            "web_session": signed["web_session"],
            "web_session_expires_in_secs": SESSION_SECONDS,
        }
        assert len(signed["web_session"]) == 43
        assert (await page.call("host.subscribe"))["subscribed"] is True
        await page.drop()
        again = await house.page()
        await trio.sleep(1)
        answer = await again.call("session.auth", {"web_session": signed["web_session"]})
        assert answer == {
            "ok": True,
            "auth_enabled": True,
            "role": "host",
            "web_session_expires_in_secs": SESSION_SECONDS - 1,
        }
        assert (await again.call("runs.search"))["runs"] == []


async def test_a_code_is_good_once_and_for_a_minute(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        used, late = await code(house), await code(house)
        await house.page(web_code=used)
        with pytest.raises(Refused, match="used already"):
            await house.page(web_code=used)
        await trio.sleep(60)
        with pytest.raises(Refused, match="older than 60 s"):
            await house.page(web_code=late)


async def test_a_connection_of_the_page_does_not_outlive_its_session(tmp_path, autojump_clock, long_test):
    async with open_house(tmp_path, page=True) as house:
        page = await house.page()
        key = (await page.call("session.auth", {"web_code": await code(house)}))["web_session"]
        await trio.sleep(SESSION_SECONDS - 1)
        assert await page.call("host.agents") == []
        again = await house.page(web_session=key)
        left = trio.current_time()
        for each in (page, again):
            assert await each.closed() == 1008
        assert trio.current_time() - left <= 1
        with pytest.raises(Refused, match="session is over"):
            await house.page(web_session=key)


async def test_who_signs_in_again_in_time_stays(tmp_path, autojump_clock, long_test):
    async with open_house(tmp_path, page=True) as house:
        page = await house.page(web_code=await code(house))
        await trio.sleep(SESSION_SECONDS - 1)
        await page.call("session.auth", {"web_code": await code(house)})
        await trio.sleep(SESSION_SECONDS - 1)
        assert await page.call("host.agents") == []


@pytest.mark.parametrize("shown", [{"token": TOKEN}, {"host_token": HOST_TOKEN}])
async def test_a_stolen_token_is_of_no_use_at_the_pages_port(tmp_path, autojump_clock, shown):
    async with open_house(tmp_path, page=True) as house:
        with pytest.raises(Refused, match="takes no tokens"):
            await house.page(**shown)


async def test_the_pages_secrets_are_of_no_use_at_the_other_port(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        page, minted = await house.page(), await code(house)
        key = (await page.call("session.auth", {"web_code": await code(house)}))["web_session"]
        for shown in ({"web_code": minted}, {"web_session": key}):
            stranger = await house.stranger()
            await stranger.open()
            with pytest.raises(Refused, match="token mismatch"):
                await stranger.call("session.auth", shown)
        assert await house.page(web_code=minted) is not None


async def test_ten_wrong_codes_close_the_connection(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        page = await house.page()
        for _ in range(10):
            with pytest.raises(Refused, match="^auth failed"):
                await page.call("session.auth", {"web_code": "wrong"})
        assert await page.closed() == 1008


async def test_only_a_token_of_the_host_makes_codes(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        for peer, why in [
            (await house.peer(), "needs the host role"),
            (await house.peer("alice"), "needs the host role"),
            (await house.page(web_code=await code(house)), "is not for the page"),
        ]:
            with pytest.raises(Refused, match=why):
                await peer.call("host.web_code")


async def test_without_a_page_there_is_no_code_and_the_refusal_says_how_to_get_one(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host = await house.peer(host=True)
        with pytest.raises(Refused, match=r"the page is off; set \[web\] enabled = true, or give --web-port"):
            await host.call("host.web_code")


async def test_without_authentication_the_page_needs_no_sign_in_and_its_guard_stands(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path, page=True, auth=False) as house:
        page = await house.page()
        assert (await page.call("server.health"))["auth_enabled"] is False
        assert await page.call("host.agents") == []
        assert await page.call("session.auth", {}) == {"ok": True, "auth_enabled": False}
        said = await asked(house, request("GET /rpc HTTP/1.1", *UPGRADE[1:], "Origin: https://evil.example"))
        assert said.status == 403


async def test_a_page_sees_runs_and_decides_approvals_like_any_host(tmp_path, autojump_clock):
    async with open_house(tmp_path, page=True) as house:
        alice, page = await house.peer("alice"), await house.page(web_code=await code(house))
        run_id = (await alice.call("runs.start", {"intent": "tidy"}))["run_id"]
        await page.call("runs.subscribe", {"run_id": run_id})
        await alice.call("runs.record_turns", {"run_id": run_id, "turns": [{"prompt": "p"}]})
        assert (await page.notification("runs.trace.event"))["record"]["prompt"] == "p"


async def test_no_secret_is_in_the_log_or_in_any_answer_but_the_one_it_is_for(
    tmp_path, autojump_clock, caplog
):
    caplog.set_level(logging.DEBUG)
    async with open_house(tmp_path, page=True) as house:
        minted = await code(house)
        page = await house.page()
        key = (await page.call("session.auth", {"web_code": minted}))["web_session"]
        answers = [json.dumps(await page.call(method)) for method in ("host.subscribe", "server.health")]
        for shown in ({"web_code": minted}, {"web_session": key + "x"}, {"token": TOKEN, "web_session": key}):
            with pytest.raises(Refused) as caught:
                await page.call("session.auth", shown)
            answers.append(str(caught.value))
        for sent in (request(f"GET /?code={minted} HTTP/1.1"), request(f"GET /{key} HTTP/1.1")):
            answers.append((await everything_of(house, sent)).decode())
        secrets = (minted, key, TOKEN, HOST_TOKEN)
        ours = [each for each in caplog.records if each.name != "websockets.client"]
        said = "".join(answers) + "".join(each.getMessage() for each in ours)
        assert not [each for each in secrets if each in said]

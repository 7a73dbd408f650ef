"""Which requests the page's port answers at all: Host, Origin and Sec-Fetch-Site, before any route."""

from __future__ import annotations

import pytest

from car_trio.nursery.web_guard import Guard

OWN = "http://127.0.0.1:9101"
ALLOWED = ("Box.example", "tunnel.example:8443")


def judged(*, host: str | None = "127.0.0.1:9101", is_socket: bool = False, **headers: str) -> int | None:
    """The status of a rejection; `None` for a request that is let in."""
    sent = [] if host is None else [("host", host)]
    sent += [(name.replace("_", "-"), value) for name, value in headers.items()]
    rejection = Guard(9101, ALLOWED).judge(sent, is_socket=is_socket)
    return None if rejection is None else int(rejection.status)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9101", None),
        ("LocalHost:9101", None),
        (" [::1]:9101 ", None),
        ("box.example", None),
        ("BOX.EXAMPLE:80", None),
        ("box.example:443", None),
        ("tunnel.example:8443", None),
        (None, 400),
        ("", 421),
        ("127.0.0.1", 421),
        ("127.0.0.1:80", 421),
        ("127.0.0.1:9100", 421),
        ("localhost:19101", 421),
        ("evil.example:9101", 421),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:9101", 421),
        ("localhost@evil.example:9101", 421),
        ("127.0.0.1:9101:9101", 421),
        ("0.0.0.0:9101", 421),
        ("box.example:port", 421),
        ("box.example:", 421),
        ("box.example.evil.example", 421),
        ("tunnel.example", 421),
        ("tunnel.example:8444", 421),
        ("null", 421),
    ],
)
def test_the_host_is_a_local_name_with_the_pages_port_or_an_allowed_one(host, status):
    assert judged(host=host) == status


def test_a_name_that_was_rebound_to_this_machine_is_still_anothers():
    host = "rebound.example:9101"
    assert judged(host=host, origin=f"http://{host}", sec_fetch_site="same-origin") == 421
    assert judged(host=host, origin=f"http://{host}", is_socket=True) == 421


def test_two_hosts_are_none():
    guard = Guard(9101, ALLOWED)
    rejection = guard.judge([("host", "127.0.0.1:9101")] * 2, is_socket=False)
    assert rejection is not None
    assert rejection.status == 400


@pytest.mark.parametrize("is_socket", [False, True])
@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:9101", OWN, None),
        ("localhost:9101", "http://localhost:9101", None),
        ("[::1]:9101", "http://[::1]:9101", None),
        ("box.example", "http://box.example", None),
        ("box.example", "https://box.example", None),
        ("tunnel.example:8443", "https://tunnel.example:8443", None),
        ("127.0.0.1:9101", "http://localhost:9101", 403),
        ("localhost:9101", OWN, 403),
        ("127.0.0.1:9101", "https://127.0.0.1:9101", 403),
        ("127.0.0.1:9101", "http://127.0.0.1", 403),
        ("127.0.0.1:9101", "http://127.0.0.1:9100", 403),
        ("127.0.0.1:9101", "http://127.0.0.1:3000", 403),
        ("127.0.0.1:9101", "https://evil.example", 403),
        ("127.0.0.1:9101", "http://box.example", 403),
        ("127.0.0.1:9101", "null", 403),
        ("127.0.0.1:9101", "", 403),
        ("127.0.0.1:9101", "file://", 403),
        ("127.0.0.1:9101", OWN + "/", 403),
        ("127.0.0.1:9101", OWN + " https://evil.example", 403),
        ("box.example", "https://box.example:444", 403),
    ],
)
def test_an_origin_is_the_pages_own_under_that_host(host, origin, status, is_socket):
    assert judged(host=host, origin=origin, is_socket=is_socket) == status


def test_a_websocket_needs_an_origin_and_a_file_does_not():
    assert judged() is None
    assert judged(is_socket=True) == 403


def test_every_origin_that_is_claimed_has_to_be_the_pages():
    sent = [("host", "127.0.0.1:9101"), ("origin", OWN), ("origin", "https://evil.example")]
    rejection = Guard(9101, ALLOWED).judge(sent, is_socket=True)
    assert rejection is not None
    assert rejection.status == 403


@pytest.mark.parametrize(
    ("site", "mode", "on_a_file", "on_the_socket"),
    [
        ("same-origin", "cors", None, None),
        ("same-origin", "navigate", None, None),
        ("same-origin", "websocket", None, None),
        ("none", "navigate", None, 403),
        ("none", "no-cors", 403, 403),
        ("none", "websocket", 403, 403),
        ("same-site", "navigate", 403, 403),
        ("same-site", "cors", 403, 403),
        ("cross-site", "navigate", 403, 403),
        ("cross-site", "no-cors", 403, 403),
        ("cross-site", "websocket", 403, 403),
        ("Same-Origin", "cors", 403, 403),
        ("", "navigate", 403, 403),
    ],
)
def test_only_the_page_itself_or_a_person_sends_a_browser_here(site, mode, on_a_file, on_the_socket):
    sent = {"origin": OWN, "sec_fetch_site": site, "sec_fetch_mode": mode}
    assert judged(**sent) == on_a_file
    assert judged(**sent, is_socket=True) == on_the_socket


def test_a_person_who_says_nothing_of_the_kind_of_request_is_not_believed():
    assert judged(sec_fetch_site="none") == 403


def test_every_site_that_is_named_has_to_be_the_same():
    sent = [("host", "127.0.0.1:9101"), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")]
    rejection = Guard(9101, ALLOWED).judge(sent, is_socket=False)
    assert rejection is not None
    assert rejection.status == 403


def test_on_port_80_a_browser_leaves_the_port_out():
    guard = Guard(80, ())
    for host in ("127.0.0.1", "127.0.0.1:80"):
        assert guard.judge([("host", host), ("origin", f"http://{host}")], is_socket=True) is None
    assert guard.judge([("host", "127.0.0.1:81")], is_socket=False) is not None

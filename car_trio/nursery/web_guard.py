"""Which requests the page's port answers at all. Asked before anybody looks at what is requested.

A browser sends requests for whatever page is open in it, so the port that serves a page has to know its own from all
others. Three headers tell, and a page can set none of them: `Host`, which is a name of ours with our port (a name
that was rebound to this machine is still another's), `Origin`, which is the page's own where there is one, and
`Sec-Fetch-Site`, which says that nobody sent the browser here but the page itself or the person. A WebSocket needs
its `Origin`, because no rule of the browser keeps other pages from opening one.

A name of `[server] allowed_hosts` may stand in front of a proxy: its port is the proxy's own, and its scheme as well.
"""

from __future__ import annotations

import http
from collections.abc import Iterable, Sequence

from car_trio.nursery.socket import Rejection

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
HTTP_PORT = 80

Headers = Sequence[tuple[str, str]]
"""Names in lower case, and values, in the order in which they came."""


def values(headers: Headers, name: str) -> list[str]:
    return [value for each, value in headers if each == name]


class Guard:
    """The page's own names and origins. `port` is the one that it is served on."""

    def __init__(self, port: int, allowed_hosts: Iterable[str]) -> None:
        self._own = {f"{name}:{port}" for name in LOOPBACK_NAMES}
        if port == HTTP_PORT:  # which a browser leaves out
            self._own |= set(LOOPBACK_NAMES)
        self._allowed = {each.lower() for each in allowed_hosts}

    def judge(self, headers: Headers, *, is_socket: bool) -> Rejection | None:
        """What to answer instead of what was asked for; `None` for a request of the page or of its person."""
        hosts = values(headers, "host")
        if len(hosts) != 1:
            return Rejection(http.HTTPStatus.BAD_REQUEST, "exactly one Host header is expected\n")
        origins = self._origins(hosts[0].strip().lower())
        if not origins:
            text = "this Host is not served here; add it to [server] allowed_hosts if it should be\n"
            return Rejection(http.HTTPStatus.MISDIRECTED_REQUEST, text)
        claimed = values(headers, "origin")
        if not origins.issuperset(claimed) or (is_socket and not claimed):
            text = "only the page that is served here may ask this\n"
            return Rejection(http.HTTPStatus.FORBIDDEN, text)
        if not self._is_from_here(headers, is_socket=is_socket):
            text = "another site sent you here; open the page by its address, or with car-trio ui\n"
            return Rejection(http.HTTPStatus.FORBIDDEN, text)
        return None

    def _origins(self, host: str) -> set[str]:
        """The page's own origins under this name; none when it is not served under it."""
        if host in self._own:
            return {f"http://{host}"}
        name, _, port = host.rpartition(":")
        if host in self._allowed or (port.isdigit() and name in self._allowed):
            return {f"http://{host}", f"https://{host}"}
        return set()

    def _is_from_here(self, headers: Headers, *, is_socket: bool) -> bool:
        """`none` is a person's own doing, who can open a page and nothing else. Other programs send no such header."""
        may = {"same-origin"}
        if not is_socket and values(headers, "sec-fetch-mode") == ["navigate"]:
            may.add("none")
        return may.issuperset(values(headers, "sec-fetch-site"))

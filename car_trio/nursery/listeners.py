"""Where connections come from: a TCP port and a Unix socket, the same protocol on both, and the page's own port.

`bind` happens early, so that a taken port or an impossible path is told before any file is touched. Accepting is a
loop that nothing can end: an error of one accept (no descriptor left, a client that is gone already) is waited out.

The page is for a person at this machine: its port is on loopback wherever the other one listens, because whoever uses
it decides approvals, and there is no TLS. A page that cannot be had is a warning and no reason not to serve.
"""

from __future__ import annotations

import errno
import logging
import os
import socket as plain
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import trio

from car_trio.config import Config, ConfigError
from car_trio.nursery.limits import has_room

LOG = logging.getLogger("car_trio.listeners")
BACKLOG = 1024
PAUSE_SECONDS = 0.1
MAX_SOCKET_PATH = 107
"""`sun_path` less its terminating NUL."""

PAGE_HOST = "127.0.0.1"
NO_PAGE = "the page is off; set [web] enabled = true, or give --web-port N, and start the daemon again"

Welcome = Callable[[trio.abc.Stream, bool], object]

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class PageDoor:
    """The page's socket and where a browser finds it."""

    listener: trio.socket.SocketType
    port: int

    @property
    def url(self) -> str:
        return f"http://{PAGE_HOST}:{self.port}/"

    def listen(self, nursery: trio.Nursery, welcome: Welcome) -> None:
        """Starts accepting."""
        nursery.start_soon(accept_forever, self.listener, welcome)


@dataclass(slots=True)
class Endpoints:
    """What is bound: the sockets, and what clients are told. `inode` tells our socket file from a later one's.

    Without a `page`, `no_page` says why.
    """

    tcp: list[trio.socket.SocketType]
    unix: trio.socket.SocketType | None
    url: str
    path: Path | None
    inode: int | None
    page: PageDoor | None = None
    no_page: str = NO_PAGE

    @property
    def web_url(self) -> str | None:
        return None if self.page is None else self.page.url

    def listen(self, nursery: trio.Nursery, welcome: Welcome) -> None:
        """Starts accepting: each new connection goes to `welcome`, with whether it comes from another machine."""
        for listener in (*self.tcp, *([self.unix] if self.unix else [])):
            nursery.start_soon(accept_forever, listener, welcome)

    def close(self) -> None:
        page = None if self.page is None else self.page.listener
        for listener in (*self.tcp, self.unix, page):
            if listener is not None:
                listener.close()
        if self.path is not None and _inode(self.path) == self.inode:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                # The next start takes a dead daemon's socket away: no reason to fail a stop.
                LOG.warning("%s cannot be removed: %s", self.path, error.strerror)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


async def bind(config: Config) -> Endpoints:
    """Binds everything or nothing. Raises `ConfigError` naming what cannot be bound and what to do."""
    path = config.socket_path
    if path is not None:
        _check_socket_path(path)
    tcp = await _bind_tcp(config.server.host, config.server.port)
    try:
        unix = _bind_unix(path) if path is not None else None
    except ConfigError:
        for listener in tcp:
            listener.close()
        raise
    host, port = tcp[0].getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    inode = _inode(path) if path is not None else None
    page, no_page = await _bind_page(config)
    return Endpoints(tcp, unix, f"ws://{shown}:{port}", path, inode, page, no_page)


async def _bind_page(config: Config) -> tuple[PageDoor | None, str]:
    """The page's socket, or why there is none."""
    if not config.web.enabled:
        return None, NO_PAGE
    port = config.web_port
    try:
        listener = await _bound(plain.AF_INET, plain.SOCK_STREAM, 0, (PAGE_HOST, port))
    except OSError as error:
        why = (
            f"the page is not served: cannot listen on {PAGE_HOST} port {port}: {error.strerror or error}; "
            "stop what uses it, or start with another --web-port (0 = any free one, off = no page)"
        )
        LOG.warning("%s", why)
        return None, why
    return PageDoor(listener, listener.getsockname()[1]), ""


def _check_socket_path(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise ConfigError(
            f"the Unix socket path {path} has {length} bytes, at most {MAX_SOCKET_PATH} are possible; "
            "give a shorter one with --socket, or --socket off"
        )


async def _bind_tcp(host: str, port: int) -> list[trio.socket.SocketType]:
    try:
        found = await trio.socket.getaddrinfo(host, port, type=plain.SOCK_STREAM, flags=plain.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"--host {host} cannot be resolved: {error.strerror or error}; give an address"
        ) from error
    bound: list[trio.socket.SocketType] = []
    try:
        for family, kind, protocol, _, address in found:
            bound.append(await _bound(family, kind, protocol, address))
            # `localhost` may be two addresses; a free port chosen for the first is not free on the second for sure.
            if port == 0:
                break
    except OSError as error:
        for listener in bound:
            listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "stop what uses it, or choose another with --port (0 = any free one)"
        ) from error
    return bound


async def _bound(family: int, kind: int, protocol: int, address: object) -> trio.socket.SocketType:
    listener = trio.socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(plain.SOL_SOCKET, plain.SO_REUSEADDR, 1)
        if family == plain.AF_INET6:
            listener.setsockopt(plain.IPPROTO_IPV6, plain.IPV6_V6ONLY, 1)
        await listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _bind_unix(path: Path) -> trio.socket.SocketType:
    """The socket file, of mode 0600 from its first moment. One that a dead daemon left is replaced."""
    listener = plain.socket(plain.AF_UNIX, plain.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear_stale(path)
        mask = os.umask(0o177)
        try:
            listener.bind(os.fsencode(path))
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot make the Unix socket {path}: {error.strerror or error}; "
            "remove what is in its place, or choose another with --socket"
        ) from error
    return trio.socket.from_stdlib_socket(listener)


def _clear_stale(path: Path) -> None:
    """The state root is ours (its lock is held), so a socket there is a dead daemon's. Anything else is not ours."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "something that is not a socket is in its place")
    with plain.socket(plain.AF_UNIX, plain.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        if probe.connect_ex(os.fsencode(path)) == 0:
            raise OSError(errno.EADDRINUSE, "another program listens there")
    path.unlink()


async def accept_forever(listener: trio.socket.SocketType, welcome: Welcome) -> None:
    """Hands each new connection on, for ever. While the store's share of the descriptors is all that is left,
    newcomers wait in the listener's backlog."""
    while True:
        await _room(listener)
        try:
            client, address = await listener.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                LOG.error("cannot accept a connection: %s; trying again", error.strerror)
                await trio.sleep(PAUSE_SECONDS)
            continue
        try:
            stream = trio.SocketStream(client)
        except OSError:
            client.close()
            continue
        welcome(stream, _is_remote(address))


async def _room(listener: trio.socket.SocketType) -> None:
    if has_room(listener.fileno()):
        return
    LOG.warning("connections hold all the descriptors that are theirs; newcomers wait (raise RLIMIT_NOFILE)")
    while not has_room(listener.fileno()):  # noqa: ASYNC110 - nothing tells when a descriptor becomes free
        await trio.sleep(PAUSE_SECONDS)


def _is_remote(address: object) -> bool:
    if not isinstance(address, tuple):
        return False
    host = str(cast(tuple[object, ...], address)[0])
    return not (host.startswith("127.") or host in {"::1", "::ffff:127.0.0.1"})

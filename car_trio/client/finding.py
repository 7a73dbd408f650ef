"""Where the daemon is, and which secrets to show it (protocol `wire.md` section 3).

Everything here is read again for every connection: a daemon that restarts mints new tokens, and on `--port 0`
it comes back on another port. Nothing found is an error; what the finder believed is kept for the message of
`DaemonUnreachable`, because "which address, and who said so" is what a person needs to mend it.

Whoever names a state root means the daemon of that root. Where it has written no address nothing but its own socket is
tried: on the port that all roots have by default another root's daemon may listen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct

from car_trio import config

DEFAULT_URL = "ws://127.0.0.1:9100"
AUTH_TOKEN, HOST_TOKEN = "auth-token", "host-token"


@dataclass(frozen=True)
class Tcp:
    """A WebSocket over TCP. `header` is what goes into the `Host` header."""

    host: str
    port: int
    resource: str

    @property
    def header(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"ws://{self.header}{self.resource}"


@dataclass(frozen=True)
class Unix:
    """A WebSocket over a Unix socket."""

    path: str
    header = "localhost"
    resource = "/"

    def __str__(self) -> str:
        return f"ws+unix://{self.path}"


@dataclass(frozen=True)
class Endpoint:
    """An address and the reason for believing in it."""

    address: Tcp | Unix
    found_by: str


@dataclass(frozen=True)
class Search:
    """What the caller said about the daemon; `None` leaves it to the environment and the files."""

    url: str | None = None
    socket: str | Path | None = None
    home: str | None = None

    def endpoint(self) -> Endpoint:
        """The daemon's address: arguments, a home among them, then `CAR_DAEMON_URL`, then `run/daemon.json`, then the
        socket of a state root that was named, or else the default.

        Raises `ValueError` for an address of another form than `ws://host[:port]` or `ws+unix:///path`.
        """
        environ = config.environment()
        if self.socket is not None:
            return Endpoint(Unix(str(self.socket)), "the socket argument")
        if self.url is not None:
            return Endpoint(parse_address(self.url), "the url argument")
        if environ.get("CAR_DAEMON_URL") and self.home is None:
            return Endpoint(parse_address(environ["CAR_DAEMON_URL"]), "from CAR_DAEMON_URL")
        root = config.state_root(environ, self.home)
        return _from_daemon_file(root, is_named=bool(self.home or environ.get("CAR_HOME")))

    def token(self) -> str | None:
        """The daemon's token: `CAR_AUTH_TOKEN`, else the token file, else none; of a home that is an argument its file
        comes first."""
        environ = config.environment()
        of_home = None if self.home is None else self._secret(environ, AUTH_TOKEN)
        return of_home or environ.get("CAR_AUTH_TOKEN") or self._secret(environ, AUTH_TOKEN)

    def host_token(self) -> str | None:
        """The secret that gives the host role, if its file can be read."""
        return self._secret(config.environment(), HOST_TOKEN)

    def _secret(self, environ: Mapping[str, str], name: str) -> str | None:
        try:
            return (
                config.read_regular(config.token_directory(environ, self.home) / name).decode().strip()
                or None
            )
        except (OSError, UnicodeDecodeError):
            return None


def parse_address(url: str) -> Tcp | Unix:
    """`ws://host[:port][/path]` or `ws+unix:///path/to/socket` as an address; anything else is a
    `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme == "ws+unix" and parts.path:
        return Unix(unquote(parts.path))
    if parts.scheme == "ws" and parts.hostname:
        return Tcp(parts.hostname, parts.port or 80, parts.path or "/")
    raise ValueError(
        f"{url!r} is not a daemon's address; expected ws://host:port or ws+unix:///path/to/socket"
    )


class _DaemonFile(Struct):
    """The part of `run/daemon.json` that a client needs."""

    url: str | None = None
    socket: str | None = None


def _from_daemon_file(root: Path, *, is_named: bool) -> Endpoint:
    path = root / "run" / "daemon.json"
    try:
        written = msgspec.json.decode(config.read_regular(path), type=_DaemonFile)
        why = f"as {path} names no address"
    except (OSError, msgspec.MsgspecError):
        written = _DaemonFile()
        why = f"as there is no {path}"
    if written.url:
        return Endpoint(parse_address(written.url), f"from {path}")
    if written.socket:
        return Endpoint(Unix(written.socket), f"from {path}")
    if is_named:
        return Endpoint(Unix(str(root / "run" / "car.sock")), f"the socket of that home, {why}")
    return Endpoint(parse_address(DEFAULT_URL), f"the default, {why}")

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
from car_trio.client.errors import TokenUnreadable

DEFAULT_URL = "ws://127.0.0.1:9100"
FORMS = "expected ws://host:port, with a port up to 65535, or ws+unix:///path/to/socket"
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

        Raises `ValueError` for an address of another form than `ws://host[:port]` or `ws+unix:///path`, and says whose.
        """
        environ = config.environment()
        if self.socket is not None:
            return Endpoint(Unix(str(self.socket)), "the socket argument")
        if self.url is not None:
            return _endpoint(self.url, "the url argument")
        if environ.get("CAR_DAEMON_URL") and self.home is None:
            return _endpoint(environ["CAR_DAEMON_URL"], "from CAR_DAEMON_URL")
        root = config.state_root(environ, self.home)
        return _from_daemon_file(root, is_named=bool(self.home or environ.get("CAR_HOME")))

    def token(self) -> str | None:
        """The daemon's token: `CAR_AUTH_TOKEN`, else the token file, else none; of a home that is an argument its file
        comes first."""
        environ = config.environment()
        of_home = None if self.home is None else self._secret(environ, AUTH_TOKEN)
        return of_home or environ.get("CAR_AUTH_TOKEN") or self._secret(environ, AUTH_TOKEN)

    def is_of_environment(self, token: str | None) -> bool:
        """Whether this token is the one that `CAR_AUTH_TOKEN` holds."""
        return token is not None and token == config.environment().get("CAR_AUTH_TOKEN")

    def host_token(self) -> str | None:
        """The secret that gives the host role; none where there is no file of it. Raises `TokenUnreadable`."""
        path = self._file(config.environment(), HOST_TOKEN)
        try:
            return _read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise TokenUnreadable(path, getattr(error, "strerror", "it is not text")) from None

    def _secret(self, environ: Mapping[str, str], name: str) -> str | None:
        try:
            return _read(self._file(environ, name))
        except (OSError, UnicodeDecodeError):
            return None

    def _file(self, environ: Mapping[str, str], name: str) -> Path:
        return config.token_directory(environ, self.home) / name


def _read(path: Path) -> str | None:
    return config.read_regular(path).decode().strip() or None


def parse_address(url: str) -> Tcp | Unix:
    """`ws://host[:port][/path]` or `ws+unix:///path/to/socket` as an address; anything else is a
    `ValueError`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"its host or port cannot be read; {FORMS}") from None
    if parts.scheme == "ws+unix" and parts.path:
        return Unix(unquote(parts.path))
    if parts.scheme == "ws" and parts.hostname:
        return Tcp(parts.hostname, port or 80, parts.path or "/")
    raise ValueError(f"it has another form; {FORMS}")


def _endpoint(url: str, found_by: str) -> Endpoint:
    try:
        return Endpoint(parse_address(url), found_by)
    except ValueError as error:
        raise ValueError(f"{url!r} ({found_by}) is not a daemon's address: {error}") from None


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
        return _endpoint(written.url, f"from {path}")
    if written.socket:
        return Endpoint(Unix(written.socket), f"from {path}")
    if is_named:
        return Endpoint(Unix(str(root / "run" / "car.sock")), f"the socket of that home, {why}")
    return _endpoint(DEFAULT_URL, f"the default, {why}")

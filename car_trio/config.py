"""Configuration: defaults < `config.toml` < environment < flags, frozen before anything starts (`wire.md` section 6).

This module is the only reader of environment variables and of platformdirs, so where a value can come from is said
on one screen. A key of `[runs]` that is broken falls back to its own default with a warning, because retention and
durability must never hang on a typo; anywhere else a broken value is a `ConfigError`, because a daemon that silently
listens elsewhere, or without authentication, is worse than one that does not start.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

import msgspec
from msgspec import Struct, field

BUNDLE = "ai.parslee.car"
"""The folder name in which the published clients look for tokens."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_PORT = 65_535


class ConfigError(Exception):
    """A setting that cannot be used: says which, what is wrong with it and what to do. Exit code 2."""


class Server(Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 9100
    socket: str = "run/car.sock"
    allow_remote: bool = False
    allowed_hosts: list[str] = []
    allowed_origins: list[str] = []
    auth: bool = True
    max_message_bytes: int = 16_777_216
    max_connections: int = 4096
    max_unauthenticated: int = 64
    handshake_seconds: float = 5
    auth_seconds: float = 5
    write_stall_seconds: float = 30
    ping_seconds: float = 30
    max_in_flight: int = 256
    drain_seconds: float = 3
    tool_timeout_seconds: float = 300
    handler_timeout_seconds: float = 1800


class Runs(Struct, frozen=True, kw_only=True):
    durability: Literal["always", "interval", "os"] = "always"
    sync_interval_ms: int = 1000
    max_per_agent: int = 1000
    max_age_days: float = 90
    grace_ms: int = 250
    max_turns: int = 2000
    keep_free_bytes: int = 268_435_456


GATED_METHODS = [
    "automation.run_applescript",
    "automation.shortcuts.run",
    "messages.send",
    "mail.send",
    "vision.ocr",
]


class Approvals(Struct, frozen=True, kw_only=True):
    enabled: bool = True
    methods: list[str] = field(default_factory=lambda: list(GATED_METHODS))
    timeout_secs: float = 60


class Permissions(Struct, frozen=True, kw_only=True):
    gate: bool = False
    tier: Literal["read_only", "sandbox_edit", "full_access"] = "sandbox_edit"


class Web(Struct, frozen=True, kw_only=True):
    """The page. `port` is by default the one after the server's, see `Config.web_port`."""

    enabled: bool = True
    port: int | None = None


class Log(Struct, frozen=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Environment(Struct, frozen=True, kw_only=True):
    """What only the environment can say: the variables of the original protocol and of systemd."""

    agent_id: str | None = None
    handler_timeout: float | None = None
    notify_socket: str | None = None
    watchdog_seconds: float | None = None
    journal_stream: str | None = None


class Config(Struct, frozen=True, kw_only=True):
    """Everything the daemon is told, as read at start. `warnings` are for the log, in the order they were found."""

    home: Path
    token_directory: Path
    auth_token_file: Path | None = None
    server: Server = Server()
    runs: Runs = Runs()
    approvals: Approvals = field(default_factory=Approvals)
    permissions: Permissions = Permissions()
    web: Web = Web()
    log: Log = Log()
    environment: Environment = Environment()
    warnings: list[str] = []

    @property
    def socket_path(self) -> Path | None:
        """Where the Unix socket goes; `None` when it is off."""
        return None if self.server.socket in {"off", ""} else self.home / self.server.socket

    @property
    def web_port(self) -> int:
        """The page's port; 0 takes any free one, as it must where the server's is chosen so or is the last."""
        if self.web.port is not None:
            return self.web.port
        return self.server.port + 1 if 0 < self.server.port < MAX_PORT else 0

    @property
    def is_loopback(self) -> bool:
        return self.server.host in LOOPBACK


SECTIONS: dict[str, type[Struct]] = {
    "server": Server,
    "runs": Runs,
    "approvals": Approvals,
    "permissions": Permissions,
    "web": Web,
    "log": Log,
}

PROTOCOL_VARIABLES = {"CAR_TOOL_TIMEOUT": ("server", "tool_timeout_seconds")}
"""Variables that the original daemon reads under names of its own."""

POSITIVE = {
    "max_message_bytes",
    "max_connections",
    "max_unauthenticated",
    "handshake_seconds",
    "auth_seconds",
    "write_stall_seconds",
    "ping_seconds",
    "max_in_flight",
    "tool_timeout_seconds",
    "handler_timeout_seconds",
    "sync_interval_ms",
    "max_turns",
}
NOT_NEGATIVE = {"drain_seconds", "grace_ms", "keep_free_bytes", "timeout_secs", "port"}


def environment() -> Mapping[str, str]:
    """The process's environment, read here and nowhere else."""
    return os.environ


def state_root(environ: Mapping[str, str], home: str | None = None) -> Path:
    """The state root: `home`, else `CAR_HOME`, else the platform's state directory.

    Raises `ConfigError` when `CAR_HOME` is not absolute: a daemon and a client started in different directories
    would silently use different stores.
    """
    if home:
        return Path(home).expanduser().absolute()
    chosen = environ.get("CAR_HOME")
    if not chosen:
        import platformdirs

        return Path(platformdirs.user_state_path("car"))
    if not Path(chosen).is_absolute():
        raise ConfigError(f"CAR_HOME is {chosen!r}, which is not an absolute path; give it as /… or unset it")
    return Path(chosen)


def token_directory(environ: Mapping[str, str], home: str | None = None) -> Path:
    """Where the two token files are, which is where the published clients look (`wire.md` section 3)."""
    if home or environ.get("CAR_HOME"):
        return state_root(environ, home) / BUNDLE
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / BUNDLE
    if sys.platform == "darwin":  # pragma: no cover - the CI machines run Linux
        return Path.home() / "Library" / "Application Support" / BUNDLE
    return Path.home() / ".config" / BUNDLE


def load(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Config:
    """Builds the configuration.

    `flags` holds `home`, `auth_token_file` and dotted keys (`server.port`); a value of `None` means "not given".
    Raises `ConfigError` for a value, file or combination that cannot be used.
    """
    home_flag = flags.get("home")
    root = state_root(environ, home_flag)
    warnings: list[str] = []
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    _read_file(root / "config.toml", sections, warnings)
    _read_environment(environ, sections, warnings)
    for dotted, value in flags.items():
        section, _, key = dotted.partition(".")
        if key and value is not None:
            sections[section][key] = _checked(section, key, value, _flag(section, key), strict=False)
    token_file = flags.get("auth_token_file")
    built: dict[str, Any] = {name: kind(**sections[name]) for name, kind in SECTIONS.items()}
    config = Config(
        home=root,
        token_directory=token_directory(environ, home_flag),
        auth_token_file=Path(token_file).expanduser().absolute() if token_file else None,
        environment=_protocol_environment(environ),
        warnings=warnings,
        **built,
    )
    _refuse_exposure(config)
    return config


def load_or_defaults(
    flags: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Config, ConfigError | None]:
    """As `load`; of a configuration that cannot be used the defaults, and what is wrong with it.

    For whoever has to look on all the same. Raises `ConfigError` when there is not even a state root.
    """
    try:
        return load(flags, environ), None
    except ConfigError as error:
        home = flags.get("home")
        return Config(home=state_root(environ, home), token_directory=token_directory(environ, home)), error


def _flag(section: str, key: str) -> str:
    name = f"web-{key}" if section == "web" else key
    return f"--{name.replace('_', '-')}"


def read_regular(path: Path) -> bytes:
    """A file's content. It may be reached through links, but only a regular file is read: a FIFO would make everybody
    wait for whoever writes to it. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _read_file(path: Path, sections: dict[str, dict[str, Any]], warnings: list[str]) -> None:
    try:
        text = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        # A root that is no directory is for the store to refuse, which knows what to do about it.
        return
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; mend or remove it") from error
    import tomllib  # here: commands that only want the state root read no TOML

    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}; correct that line or remove the file") from error
    for name, table in document.items():
        if name in SECTIONS and isinstance(table, dict):
            _read_table(path, name, cast(dict[str, Any], table), sections[name], warnings)
        else:
            what = (
                f"unknown section [{name}]" if isinstance(table, dict) else f"{name}, which is in no section,"
            )
            warnings.append(f"{path}: {what} is ignored; the sections are {', '.join(SECTIONS)}")


def _read_table(
    path: Path, section: str, table: dict[str, Any], into: dict[str, Any], warnings: list[str]
) -> None:
    for key, value in table.items():
        known = SECTIONS[section].__struct_fields__
        if key not in known:
            warnings.append(
                f"{path}: unknown key [{section}] {key} is ignored; its keys are {', '.join(known)}"
            )
            continue
        _store(section, key, value, f"{path}: [{section}] {key}", into, warnings, strict=True)


def _read_environment(
    environ: Mapping[str, str], sections: dict[str, dict[str, Any]], warnings: list[str]
) -> None:
    for variable, (section, key) in PROTOCOL_VARIABLES.items():
        if environ.get(variable):
            _store(section, key, environ[variable], variable, sections[section], warnings, strict=False)
    for section, kind in SECTIONS.items():
        for key in kind.__struct_fields__:
            variable = f"CAR_TRIO_{section}_{key}".upper()
            if variable in environ:
                _store(section, key, environ[variable], variable, sections[section], warnings, strict=False)
    if environ.get("CAR_NO_APPROVALS") == "1":
        sections["approvals"]["enabled"] = False


def _store(
    section: str,
    key: str,
    value: Any,
    source: str,
    into: dict[str, Any],
    warnings: list[str],
    *,
    strict: bool,
) -> None:
    try:
        into[key] = _checked(section, key, value, source, strict=strict)
    except ConfigError as error:
        if section != "runs":
            raise
        warnings.append(f"{error}; the default is used")


def _checked(section: str, key: str, value: Any, source: str, *, strict: bool) -> Any:
    """The value in the type of its key. Text (environment, flags) is read as the type wants: `9100`, `true`, `a,b`."""
    wanted: Any = next(each.type for each in msgspec.structs.fields(SECTIONS[section]) if each.name == key)
    if wanted == list[str] and isinstance(value, str) and not strict:
        value = [item.strip() for item in value.split(",") if item.strip()]
    try:
        checked = msgspec.convert(value, wanted, strict=strict)
    except msgspec.ValidationError as error:
        said = _allowed(wanted) or str(error).replace("`", "")
        raise ConfigError(f"{source} is {value!r}: {said}") from error
    if isinstance(checked, float) and not math.isfinite(checked):
        raise ConfigError(f"{source} is {value!r}: must be a finite number")
    if checked is None:
        return None
    if key in POSITIVE and not checked > 0:
        raise ConfigError(f"{source} is {value!r}: must be more than 0")
    if key in NOT_NEGATIVE and not checked >= 0:
        raise ConfigError(f"{source} is {value!r}: must not be negative")
    if key == "port" and checked > MAX_PORT:
        raise ConfigError(f"{source} is {value!r}: a port is 0 to 65535 (0 = any free one)")
    return checked


def _allowed(wanted: Any) -> str | None:
    """The values of a type that has few."""
    if get_origin(wanted) is Literal:
        return f"expected one of {', '.join(get_args(wanted))}"
    return "expected true or false" if wanted is bool else None


def _protocol_environment(environ: Mapping[str, str]) -> Environment:
    timeout, pid = environ.get("CAR_HANDLER_TIMEOUT"), environ.get("WATCHDOG_PID")
    try:
        seconds = float(timeout) if timeout else None
        watchdog = int(environ.get("WATCHDOG_USEC") or 0) / 1e6
    except ValueError as error:
        raise ConfigError(f"CAR_HANDLER_TIMEOUT or WATCHDOG_USEC is not a number: {error}") from error
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ConfigError(f"CAR_HANDLER_TIMEOUT is {timeout!r}: must be a number of seconds above 0")
    return Environment(
        agent_id=environ.get("CAR_AGENT_ID") or None,
        handler_timeout=seconds,
        notify_socket=environ.get("NOTIFY_SOCKET") or None,
        journal_stream=environ.get("JOURNAL_STREAM") or None,
        # systemd names the process it means; to any other the variables are inherited noise.
        watchdog_seconds=watchdog if watchdog > 0 and pid in {None, str(os.getpid())} else None,
    )


def _refuse_exposure(config: Config) -> None:
    host = config.server.host
    if config.is_loopback:
        return
    if not config.server.auth:
        raise ConfigError(
            f"--no-auth with --host {host} would let anybody on the network run tools; "
            "use a loopback host, or leave authentication on"
        )
    if not config.server.allow_remote:
        raise ConfigError(
            f"--host {host} is not a loopback address; add --allow-remote to listen there (tokens travel in clear)"
        )

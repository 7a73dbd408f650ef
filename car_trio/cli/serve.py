"""`car-trio serve`: configuration in, a daemon in the foreground, an exit code out."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import trio
from cyclopts import Parameter

from car_trio.config import Config, ConfigError, environment, load
from car_trio.nursery.logs import configure
from car_trio.nursery.supervisor import Endpoint
from car_trio.nursery.supervisor import serve as live

Switch = Annotated[bool, Parameter(negative=(), show_default=False)]


@Parameter(name="*")
@dataclass(kw_only=True)
class Flags:
    """The flags of `serve`; what is not given comes from the environment, config.toml or the defaults."""

    host: str | None = None
    """Address to listen on; default 127.0.0.1. Any other than loopback needs --allow-remote."""
    port: int | None = None
    """TCP port; default 9100, 0 takes any free one."""
    home: str | None = None
    """State root: runs, configuration, locks. Default: CAR_HOME, else the platform's state directory."""
    web_port: int | Literal["off"] | None = None
    """Port of the page, always on loopback, or "off"; default: the one after --port, 0 takes any free one."""
    socket: str | None = None
    """Path of the Unix socket, or "off"; default run/car.sock under the state root."""
    auth_token_file: str | None = None
    """Where to write the daemon's token; default: where the clients look for it."""
    no_auth: Switch = False
    """Let every local connection do everything."""
    no_approvals: Switch = False
    """Do not ask a host before gated methods run."""
    allow_remote: Switch = False
    """Permit a --host that is not loopback; tokens travel in clear."""
    durability: Literal["always", "interval", "os"] | None = None
    """What an acknowledgement means: synced (always), or written (interval, os). Default always."""
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    """How much to say on standard error; default info."""
    log_format: Literal["text", "json"] | None = None
    """Lines for people (text) or for programs (json)."""


def serve(flags: Flags | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT; a second signal ends it at once."""
    given = flags or Flags()
    return run_daemon(
        {
            "home": given.home,
            "auth_token_file": given.auth_token_file,
            "server.host": given.host,
            "server.port": given.port,
            "web.port": None if given.web_port == "off" else given.web_port,
            "web.enabled": None if given.web_port is None else given.web_port != "off",
            "server.socket": given.socket,
            "server.auth": False if given.no_auth else None,
            "server.allow_remote": True if given.allow_remote else None,
            "approvals.enabled": False if given.no_approvals else None,
            "runs.durability": given.durability,
            "log.level": given.log_level,
            "log.format": given.log_format,
        }
    )


def run_daemon(flags: Mapping[str, Any]) -> int:
    """Runs until a signal. Raises `ConfigError` for whatever keeps it from starting."""
    config = load(flags, environment())
    configure(config.log, config.environment.journal_stream)
    # What is loaded now stays, and a large message makes millions of objects that are no garbage: the collector's
    # usual pace would make decoding one several times slower, with everybody waiting. The young generations are kept
    # small, because looking through half a million objects at once takes tens of milliseconds.
    gc.freeze()
    gc.set_threshold(10_000, 10, 500)
    try:
        trio.run(_serve, config)
    except* ConfigError as group:
        raise _first(group) from None
    return 0


def _first(group: BaseExceptionGroup[ConfigError]) -> ConfigError:
    cause = group.exceptions[0]
    return _first(cause) if isinstance(cause, BaseExceptionGroup) else cause


async def _serve(config: Config) -> None:
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        nursery.start_soon(_watch_signals, stop)
        await live(config, stop.wait, ready=say_ready)
        nursery.cancel_scope.cancel()


async def _watch_signals(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            if stop.is_set():
                # Whoever asks twice does not want to wait: what is acknowledged is on disk already.
                os._exit(1)
            stop.set()


def say_ready(config: Config, endpoint: Endpoint) -> None:
    """The one line on standard output, for people and for programs that wait for it."""
    remote = "" if config.is_loopback else "; reachable from other machines, tokens travel in clear"
    try:
        print(f"car_trio ready {endpoint.url} (pid {os.getpid()}, home {config.home}{remote})", flush=True)
    except OSError:
        # Nobody listens: no reason not to serve. What stays in the buffer must not fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())

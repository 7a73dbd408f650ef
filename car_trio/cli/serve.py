"""`car-trio serve`: configuration in, a daemon in the foreground, an exit code out."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import trio

from car_trio.cli.flags import Flag, Home
from car_trio.cli.streams import let_go
from car_trio.config import Config, ConfigError, environment, load
from car_trio.nursery.logs import configure
from car_trio.nursery.supervisor import Endpoint
from car_trio.nursery.supervisor import serve as live

SWITCH_SECONDS = 0.002

Host = Annotated[
    str | None, Flag("Address to listen on; default 127.0.0.1. Any other than loopback needs --allow-remote.")
]
Port = Annotated[int | None, Flag("TCP port; default 9100, 0 takes any free one.")]
WebPort = Annotated[
    int | Literal["off"] | None,
    Flag("Port of the page, always on loopback; default: the one after --port, 0 takes any free one."),
]
Socket = Annotated[
    str | None, Flag('Path of the Unix socket, or "off"; default run/car.sock under the state root.')
]
TokenFile = Annotated[
    str | None, Flag("Where to write the daemon's token; default: where the clients look for it.")
]
NoAuth = Annotated[bool, Flag("Let every local connection do everything.")]
NoApprovals = Annotated[bool, Flag("Do not ask a host before gated methods run.")]
AllowRemote = Annotated[bool, Flag("Permit a --host that is not loopback; tokens travel in clear.")]
Durability = Annotated[
    Literal["always", "interval", "os"] | None,
    Flag("What an acknowledgement means: synced (always), or written (interval, os); default always."),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    Flag("How much to say on standard error; default info."),
]
LogFormat = Annotated[Literal["text", "json"] | None, Flag("Lines for people (text) or for programs (json).")]


def serve(
    *,
    host: Host = None,
    port: Port = None,
    home: Home = None,
    web_port: WebPort = None,
    socket: Socket = None,
    auth_token_file: TokenFile = None,
    no_auth: NoAuth = False,
    no_approvals: NoApprovals = False,
    allow_remote: AllowRemote = False,
    durability: Durability = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> int:
    """Run the daemon until SIGTERM or SIGINT; a second signal ends it at once.

    What is not given comes from the environment, config.toml or the defaults.
    """
    return run_daemon(
        {
            "home": home,
            "auth_token_file": auth_token_file,
            "server.host": host,
            "server.port": port,
            "web.port": None if web_port == "off" else web_port,
            "web.enabled": None if web_port is None else web_port != "off",
            "server.socket": socket,
            "server.auth": False if no_auth else None,
            "server.allow_remote": True if allow_remote else None,
            "approvals.enabled": False if no_approvals else None,
            "runs.durability": durability,
            "log.level": log_level,
            "log.format": log_format,
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
    # A thread keeps the interpreter for so long from a loop that asks for it: of the usual 5 ms every small call would
    # wait several. Threads that work for requests give it back sooner yet (`nursery/threads.py`).
    sys.setswitchinterval(SWITCH_SECONDS)
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
        let_go()  # nobody listens: no reason not to serve

"""`car-trio serve`: configuration in, a daemon in the foreground, an exit code out."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import trio

from car_trio.config import Config, ConfigError, environment, load
from car_trio.nursery.logs import configure
from car_trio.nursery.supervisor import Endpoint, serve


def run_daemon(flags: Mapping[str, Any]) -> int:
    """Runs until a signal. Raises `ConfigError` for whatever keeps it from starting."""
    config = load(flags, environment())
    configure(config.log)
    # What is loaded now stays, and a large message makes millions of objects that are no garbage: the collector's
    # usual pace would make decoding one several times slower, with everybody waiting.
    gc.freeze()
    gc.set_threshold(10_000, 50, 100)
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
        await serve(config, stop.wait, ready=say_ready)
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

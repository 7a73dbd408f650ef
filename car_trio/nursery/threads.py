"""Work of a request in a thread, beside the loop.

The loop gives the interpreter up in every system call, and has to wait for it again while a thread works: for the
interpreter's switch interval, each time. A step that sends to fifty watchers waits fifty times: of 2 ms each that is a
tenth of a second in which nobody is served. So the interval is short while threads work for requests. It is not short
always: a switch costs the journal's thread too, which hands over with every flush.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
SWITCH_SECONDS = 0.0001


class _Courtesy:
    """Holds the interval down from the first that works to the last. The work of one who was cancelled goes on in its
    thread, so it is the thread that comes and goes here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._working = 0
        self._usual = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if self._working == 0:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(SWITCH_SECONDS, self._usual))
            self._working += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._working -= 1
            if self._working == 0:
                sys.setswitchinterval(self._usual)


_COURTESY = _Courtesy()


def courteously(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Calls it in this thread."""
    with _COURTESY:
        return function(*args)


async def in_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Runs a plain function that blocks. If cancelled, the thread ends by itself, unheard."""
    return await trio.to_thread.run_sync(courteously, function, *args, abandon_on_cancel=True)

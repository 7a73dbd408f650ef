"""One writer per state root: an exclusive lock on `run/daemon.lock` (protocol `wire.md` section 3).

The kernel holds the lock for a living process, so a crash releases it and nothing stale can block a start.
The file is never unlinked: whoever waited for the old name could otherwise hold a lock on a file that nobody
sees any more. It holds the pid of the last holder, for the message of whoever comes second."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager

import msgspec

from car_trio.store.disk import FILE_MODE, NOT_REGULAR, NotRegularError
from car_trio.store.layout import Layout

PROBE_SECONDS = 0.3
"""Readers take the lock for an instant to learn whether it is free; a start waits that long before it gives
up."""
_PAUSE = 0.02
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class StoreBusy(Exception):  # noqa: N818 - it names a state of the store, like BlockingIOError
    """Somebody else writes this store: a daemon, or another program that adopts or removes runs."""

    def __init__(self, pid: int | None = None, url: str | None = None) -> None:
        who = f"process {pid or '(unknown)'}"
        super().__init__(
            f"the store is in use by {who} at {url}: stop it first, or ask it instead"
            if url
            else f"the store is in use by {who}, which is no daemon that answers: try again when it is done"
        )
        self.pid = pid
        self.url = url


class _DaemonJson(msgspec.Struct):
    pid: int | None = None
    url: str | None = None


@contextmanager
def hold_lock(layout: Layout) -> Generator[None]:
    """Hold the store's lock for the duration; `StoreBusy` when somebody else keeps it. The directory
    exists."""
    try:
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | _FLAGS, FILE_MODE)
    except OSError as error:
        raise NotRegularError(layout.lock) if error.errno in NOT_REGULAR else error from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegularError(layout.lock)
        if not _take(descriptor):
            raise _busy(layout, descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(descriptor)


def lock_is_held(layout: Layout) -> bool:
    """Whether somebody writes this store right now. Changes nothing on disk."""
    return holder(layout) is not None


def holder(layout: Layout) -> StoreBusy | None:
    """Who writes this store right now, as far as the lock says. Changes nothing on disk."""
    try:
        descriptor = os.open(layout.lock, os.O_RDONLY | _FLAGS)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _busy(layout, descriptor)
    finally:
        os.close(descriptor)
    return None


def _take(descriptor: int) -> bool:
    deadline = time.monotonic() + PROBE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)
        else:
            return True


def _busy(layout: Layout, descriptor: int) -> StoreBusy:
    written = os.pread(descriptor, 32, 0).strip()
    daemon = _daemon_json(layout)
    pid = int(written) if written.isdigit() else daemon.pid
    return StoreBusy(pid, daemon.url if daemon.pid == pid else None)


def _daemon_json(layout: Layout) -> _DaemonJson:
    try:
        descriptor = os.open(layout.daemon_json, os.O_RDONLY | _FLAGS)
        with os.fdopen(descriptor, "rb") as file:
            return msgspec.json.decode(file.read(), type=_DaemonJson)
    except (OSError, msgspec.DecodeError):
        return _DaemonJson()

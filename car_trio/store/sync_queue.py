"""Many files synced by two system calls: Linux takes the syncs as one list, works at all of them itself, and tells.

A thread that syncs takes the interpreter again after every file, and takes it from the loop. Here one thread asks once
and waits once, however many files there are, and the kernel's own workers sync them at the same time, so that one
commit of the file system covers most of them.

This is the kernel's asynchronous I/O (`io_submit(2)`, since 4.18 for syncs), called through `ctypes` because nothing in
the standard library does. Only descriptors and results cross over, no memory that would have to outlive a call. Where
there is no such thing (another system or machine, a container that forbids it) `open_queue` gives `None`. What the
kernel does not take, a bad descriptor, say, is synced in the ordinary way, which also tells why."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

SLOTS = 128
"""How many syncs are under way at once, each with a worker of the kernel that waits for the disk."""
_DATA_SYNC = 3


class Calls(NamedTuple):
    """Numbers of system calls."""

    setup: int
    destroy: int
    submit: int
    events: int


_CALLS = {"x86_64": Calls(206, 207, 209, 208), "aarch64": Calls(0, 1, 2, 4), "riscv64": Calls(0, 1, 2, 4)}


class _Request(ctypes.Structure):
    """`struct iocb`."""

    _fields_ = (
        ("tag", ctypes.c_uint64),
        ("key_and_flags", ctypes.c_uint64),
        ("operation", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("unused", ctypes.c_uint64 * 5),
    )
    tag: int
    operation: int
    descriptor: int


class _Done(ctypes.Structure):
    """`struct io_event`. `result` is 0, or the number of the error, negative."""

    _fields_ = (
        ("tag", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("unused", ctypes.c_int64),
    )
    tag: int
    result: int


class SyncQueue:
    """Use `open_queue`. For one thread at a time. `sync` is the ordinary way."""

    def __init__(self, calls: Calls, context: ctypes.c_ulong, sync: Callable[[int], None]) -> None:
        self._calls = calls
        self._context = context
        self._sync = sync
        self._requests = (_Request * SLOTS)()
        self._done = (_Done * SLOTS)()
        self._addresses = (ctypes.c_void_p * SLOTS)()
        for tag, request in enumerate(self._requests):
            request.tag, request.operation = tag, _DATA_SYNC
            self._addresses[tag] = ctypes.addressof(request)

    def run(self, descriptors: Sequence[int]) -> list[OSError | None]:
        """Sync all; what each failed with, in their order."""
        failures: list[OSError | None] = []
        for first in range(0, len(descriptors), SLOTS):
            failures += self._run(descriptors[first : first + SLOTS])
        return failures

    def close(self) -> None:
        _call(self._calls.destroy, self._context)

    def _run(self, descriptors: Sequence[int]) -> list[OSError | None]:
        for request, descriptor in zip(self._requests, descriptors, strict=False):
            request.descriptor = descriptor
        failures: list[OSError | None] = [None] * len(descriptors)
        at = taken = 0
        while at < len(descriptors):
            addresses = ctypes.byref(self._addresses, at * ctypes.sizeof(ctypes.c_void_p))
            count = _call(self._calls.submit, self._context, ctypes.c_long(len(descriptors) - at), addresses)
            if count > 0:
                at, taken = at + count, taken + count
            else:
                failures[at] = self._ordinarily(descriptors[at])
                at += 1
        while taken:
            taken -= self._gather(taken, failures)
        return failures

    def _ordinarily(self, descriptor: int) -> OSError | None:
        try:
            self._sync(descriptor)
        except OSError as failure:
            return failure
        return None

    def _gather(self, count: int, failures: list[OSError | None]) -> int:
        """Wait for so many; returns how many there were, which may be fewer."""
        wanted = ctypes.c_long(count)
        found = _call(self._calls.events, self._context, wanted, wanted, self._done, None)
        if found < 0 and (number := ctypes.get_errno()) != errno.EINTR:
            raise RuntimeError(f"the kernel does not tell what became of syncs: {os.strerror(number)}")
        for done in self._done[: max(0, found)]:
            if done.result:
                failures[done.tag] = OSError(-done.result, os.strerror(-done.result))
        return max(0, found)


def _call(number: int, *arguments: object) -> int:
    """A system call; -1 for an error, which `ctypes.get_errno` has."""
    found: int = _system_call(ctypes.c_long(number), *arguments)
    return found


_system_call = ctypes.CDLL(None, use_errno=True).syscall
_system_call.restype = ctypes.c_long


def open_queue(sync: Callable[[int], None]) -> SyncQueue | None:
    """The kernel's queue, or `None` where it has none or gives none."""
    calls = _CALLS.get(platform.machine())
    if sys.platform != "linux" or calls is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    context = ctypes.c_ulong(0)
    if _call(calls.setup, ctypes.c_long(SLOTS), ctypes.byref(context)) < 0:
        return None
    return SyncQueue(calls, context, sync)

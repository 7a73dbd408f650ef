"""Many operations by one system call: Linux takes them as a list, and tells what became of each.

A thread that makes a system call gives the interpreter up and takes it again afterwards, and has to wait for it where
other threads work. Of a list of calls each one costs that; a list that is handed over as one does once.

This is the kernel's asynchronous I/O (`io_submit(2)`), called through `ctypes` because nothing in the standard library
does. Where there is no such thing (another system or machine, a container that forbids it) `open_kernel_queue` gives
`None`, and who wanted it makes the calls one by one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from typing import NamedTuple

WRITE = 1
DATA_SYNC = 3
"""Since Linux 4.18."""


class Calls(NamedTuple):
    """Numbers of system calls."""

    setup: int
    destroy: int
    submit: int
    events: int


_CALLS = {"x86_64": Calls(206, 207, 209, 208), "aarch64": Calls(0, 1, 2, 4), "riscv64": Calls(0, 1, 2, 4)}


class Request(ctypes.Structure):
    """`struct iocb`. Who uses a queue sets the descriptor, and the address and size of what is written."""

    _fields_ = (
        ("tag", ctypes.c_uint64),
        ("key_and_flags", ctypes.c_uint64),
        ("operation", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 3),
    )
    tag: int
    operation: int
    descriptor: int
    address: int
    size: int


class _Done(ctypes.Structure):
    """`struct io_event`. `result` is what the call would return, or the number of the error, negative."""

    _fields_ = (
        ("tag", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("unused", ctypes.c_int64),
    )
    tag: int
    result: int


class KernelQueue:
    """Use `open_kernel_queue`. For one thread at a time."""

    def __init__(self, calls: Calls, context: ctypes.c_ulong, operation: int, slots: int) -> None:
        self._calls = calls
        self._context = context
        self._array = (Request * slots)()
        self._done = (_Done * slots)()
        self._addresses = (ctypes.c_void_p * slots)()
        self.requests = list(self._array)
        """The first of them are made by `run`."""
        for tag, request in enumerate(self.requests):
            request.tag, request.operation = tag, operation
            self._addresses[tag] = ctypes.addressof(request)

    def run(self, count: int) -> list[int | None]:
        """Make so many of the requests: what each call returned, or the number of its error, negative; `None` where the
        kernel did not take the request."""
        results: list[int | None] = [None] * count
        at = taken = 0
        while at < count:
            addresses = ctypes.byref(self._addresses, at * ctypes.sizeof(ctypes.c_void_p))
            more = _call(self._calls.submit, self._context, ctypes.c_long(count - at), addresses)
            taken += max(0, more)
            at += more if more > 0 else 1
        while taken:
            taken -= self._gather(taken, results)
        return results

    def close(self) -> None:
        _call(self._calls.destroy, self._context)

    def _gather(self, count: int, results: list[int | None]) -> int:
        """Wait for so many; returns how many there were, which may be fewer."""
        wanted = ctypes.c_long(count)
        found = _call(self._calls.events, self._context, wanted, wanted, self._done, None)
        if found < 0 and (number := ctypes.get_errno()) != errno.EINTR:
            raise RuntimeError(f"the kernel does not tell what became of its queue: {os.strerror(number)}")
        for done in self._done[: max(0, found)]:
            results[done.tag] = done.result
        return max(0, found)


def _call(number: int, *arguments: object) -> int:
    """A system call; -1 for an error, which `ctypes.get_errno` has."""
    found: int = _system_call(ctypes.c_long(number), *arguments)
    return found


_system_call = ctypes.CDLL(None, use_errno=True).syscall
_system_call.restype = ctypes.c_long


def open_kernel_queue(operation: int, slots: int) -> KernelQueue | None:
    """A queue for this operation that takes so many at once, or `None` where the kernel has none or gives none."""
    calls = _CALLS.get(platform.machine())
    if sys.platform != "linux" or calls is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    context = ctypes.c_ulong(0)
    if _call(calls.setup, ctypes.c_long(slots), ctypes.byref(context)) < 0:
        return None
    return KernelQueue(calls, context, operation, slots)

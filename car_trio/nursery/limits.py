"""How many descriptors the process may have: one per connection, a bounded number for the store.

Connections come from outside, in any number; the store must never be the one that finds nothing left. So a part of
the limit is closed to newcomers, and because the system gives out the lowest free number, the number that the next
descriptor would get says whether that part has been reached.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

MIN_HELD = 16
MAX_HELD = 256
PASSING = 16
"""Descriptors that are open for a moment: directories, runs that are read, the catalog's own files."""


def raise_descriptor_limit() -> None:
    """One descriptor per connection and per open run: the soft limit is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def held_files() -> int:
    """How many run files the journal may keep open: at most a quarter of what there is."""
    return max(MIN_HELD, min(MAX_HELD, descriptor_limit() // 4))


def has_room(descriptor: int) -> bool:
    """Whether a newcomer leaves the store what it may need. `descriptor` is any open one, to be duplicated."""
    try:
        probe = os.dup(descriptor)
    except OSError:
        return False
    os.close(probe)
    return probe < descriptor_limit() - held_files() - PASSING

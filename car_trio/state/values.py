"""Key-value state: of a connection, or of a tenant (protocol `wire.md` section 5).

Small values are kept decoded, large ones as the JSON they came as: decoded, 16 MiB of small pieces would take ten
times that, and letting go of them would take longer than others may have to wait. Who looks into a large value decodes
it; the last one stays decoded, because rules look at the same key again and again. The sum of what a store holds is
bounded, because a client pays nothing for memory that the daemon lends it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from car_trio.wire.errors import invalid_params
from car_trio.wire.frames import encode
from car_trio.wire.pieces import at_once, decoded_in_steps

MAX_STATE_BYTES = 64 * 1024 * 1024
MAX_TENANTS = 64
LARGE_BYTES = 64 * 1024
"""Above this a value is kept as JSON."""

_NOTHING: tuple[Raw | None, Any] = (None, None)


class Values:
    """One store of keys. Setting past the limit raises Refusal (-32602) and changes nothing."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._total = 0
        self._decoded = _NOTHING

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, key: str, default: Any = None, /) -> Any:
        value = self._values.get(key, default)
        if value.__class__ is not Raw:
            return value
        if self._decoded[0] is not value:
            self._decoded = (value, msgspec.json.decode(value))
        return self._decoded[1]

    def shown(self, key: str) -> Any:
        """The value for a reply, a large one as JSON; null when there is none."""
        return self._values.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        """`value` is decoded JSON, or `Raw` that can be decoded."""
        encoded = bytes(value) if value.__class__ is Raw else encode(value)
        size = len(key.encode()) + len(encoded)
        total = self._total - self._sizes.get(key, 0) + size
        if total > MAX_STATE_BYTES:
            raise invalid_params(
                f"state.set: key {key[:80]!r} would bring this state to {total} bytes, at most {MAX_STATE_BYTES} fit; "
                "remove or shorten other keys"
            )
        self._values[key] = Raw(encoded) if len(encoded) > LARGE_BYTES else value
        self._decoded = _NOTHING
        self._sizes[key] = size
        self._total = total

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._decoded = _NOTHING
        self._total -= self._sizes.pop(key)

    def snapshot(self) -> dict[str, Any]:
        """All of it, large values as JSON."""
        return dict(self._values)


def decoded(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A snapshot in which every value is decoded: for a thread, others go on meanwhile."""
    return {
        key: at_once(decoded_in_steps(bytes(value), sys.maxsize)) if value.__class__ is Raw else value
        for key, value in snapshot.items()
    }


def large_bytes(snapshot: dict[str, Any]) -> int:
    """How much of a snapshot is still to be decoded."""
    return sum(len(bytes(value)) for value in snapshot.values() if value.__class__ is Raw)


class Tenants:
    """State that survives the connection, not the daemon. A tenant id is a name, not a credential."""

    def __init__(self) -> None:
        self._tenants: dict[str, Values] = {}

    def seen(self, tenant_id: str) -> Values:
        """The tenant's state for reading; one that nobody wrote to is empty and is not made."""
        return self._tenants.get(tenant_id) or Values()

    def of(self, tenant_id: str) -> Values:
        """The tenant's state for writing, made when first named. Raises Refusal (-32602) beyond 64 tenants."""
        if tenant_id not in self._tenants and len(self._tenants) >= MAX_TENANTS:
            raise invalid_params(
                f"tenant {tenant_id[:80]!r} would be the {MAX_TENANTS + 1}th; at most {MAX_TENANTS} fit"
            )
        return self._tenants.setdefault(tenant_id, Values())

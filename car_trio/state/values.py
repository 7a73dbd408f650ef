"""Key-value state: of a connection, or of a tenant (protocol `wire.md` section 5).

Values are plain decoded JSON. The sum of what a store holds is bounded, because a client pays nothing for memory
that the daemon lends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from car_trio.wire.errors import invalid_params
from car_trio.wire.frames import encode

MAX_STATE_BYTES = 64 * 1024 * 1024
MAX_TENANTS = 64


class Values:
    """One store of keys. Setting past the limit raises Refusal (-32602) and changes nothing."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._total = 0

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, key: str, default: Any = None, /) -> Any:
        return self._values.get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        size = len(key.encode()) + len(encode(value))
        total = self._total - self._sizes.get(key, 0) + size
        if total > MAX_STATE_BYTES:
            raise invalid_params(
                f"state.set: key {key[:80]!r} would bring this state to {total} bytes, at most {MAX_STATE_BYTES} fit; "
                "remove or shorten other keys"
            )
        self._values[key] = value
        self._sizes[key] = size
        self._total = total

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._total -= self._sizes.pop(key)

    def snapshot(self) -> dict[str, Any]:
        return dict(self._values)


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

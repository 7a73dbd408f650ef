"""Key-value state: of a connection, or of a tenant (protocol `wire.md` section 5).

Small values are kept decoded, large ones as the JSON they came as: decoded, 16 MiB of small pieces would take ten
times that, and letting go of them would take longer than others may have to wait. Who looks into a large value decodes
it, in a thread; policies, which look at the same keys for every action of a plan, through `Opened`. The sum of what a
store holds is bounded, because a client pays nothing for memory that the daemon lends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Raw

from car_trio.wire.errors import invalid_params
from car_trio.wire.frames import encode
from car_trio.wire.pieces import opened

MAX_STATE_BYTES = 64 * 1024 * 1024
MAX_TENANTS = 64
LARGE_BYTES = 64 * 1024
"""Above this a value is kept as JSON."""


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
        """A large value as the JSON that it is kept as."""
        return self._values.get(key, default)

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
        self._sizes[key] = size
        self._total = total

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._total -= self._sizes.pop(key)

    def snapshot(self) -> dict[str, Any]:
        """All of it, large values as JSON."""
        return dict(self._values)


class Opened:
    """The state as the policies of one plan see it: every value decoded, a large one once while it stands there."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._known: dict[str, tuple[Raw, Any]] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = None, /) -> Any:
        value = self._values.get(key, default)
        if value.__class__ is not Raw:
            return value
        known = self._known.get(key)
        if known is None or known[0] is not value:
            known = self._known[key] = (value, opened(value))
        return known[1]

    def large(self, keys: Iterable[str]) -> dict[str, Raw]:
        """What is large under these keys."""
        held = ((key, self._values.get(key)) for key in keys)
        return {key: value for key, value in held if isinstance(value, Raw)}

    def open(self, large: dict[str, Raw]) -> None:
        """Decodes it. For a thread: who finds another value there meanwhile decodes that."""
        for key, value in large.items():
            self._known[key] = (value, opened(value))


def decoded(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A snapshot in which every value is decoded: for a thread."""
    return {key: opened(value) for key, value in snapshot.items()}


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

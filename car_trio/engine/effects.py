"""What actions do to state, and how an aborted proposal takes it back (protocol `engine.md` sections 1 and
8.3).

State is shared: other proposals of the connection, or of the tenant, may write between our writes. So a write
is remembered together with what it replaced, and undone only while the key still holds it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from car_trio.engine.looking import Looks
from car_trio.engine.values import same
from car_trio.wire.errors import Refusal
from car_trio.wire.pieces import opened
from car_trio.wire.proposals import Action

_ABSENT: Final = object()


class ToolFailed(Exception):  # noqa: N818 - what a tool says, not a defect of ours
    """An attempt without a result. `terminal`: do not retry, abort the proposal whatever the action says; `is_lasting`:
    only do not retry."""

    def __init__(self, message: str, terminal: bool = False, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.terminal = terminal
        self.is_lasting = is_lasting


class State(Protocol):
    """The key/value state a proposal runs against; a dict is one. Setting may raise `Refusal` (too large).

    A large value may be given as the JSON that it is kept as (`Raw`). It goes on as that where nobody looks into it.
    """

    def get(self, key: str, default: Any = None, /) -> Any: ...

    def __contains__(self, key: object, /) -> bool: ...

    def __setitem__(self, key: str, value: Any, /) -> None: ...

    def __delitem__(self, key: str, /) -> None: ...


class _Write(NamedTuple):
    before: Any
    value: Any


class Writes:
    """What one proposal does to the state."""

    def __init__(self, state: State, looks: Looks) -> None:
        self._state = state
        self._looks = looks
        self._done: dict[str, _Write] = {}

    def perform(self, action: Action) -> tuple[Any, dict[str, Any]]:
        """Do a state action or an assertion: its output and its state changes. Raises `ToolFailed`."""
        key = action.key
        if key is None:
            raise ToolFailed(f"{action.type} requires 'key' parameter")
        if action.type == "state_write":
            value = action.parameters.get("value")
            self._write(key, value)
            return f"written: {key}", {key: {"op": "set", "value": value}}
        value = self._state.get(key)
        if action.type == "assertion":
            if (problem := self._looks.wrong(action, value)) is not None:
                raise ToolFailed(problem)
            return {"asserted": key, "value": value}, {}
        return value, {}

    def roll_back(self) -> list[str]:
        """Undo every write that still stands, the last first; the keys that were restored."""
        return [key for key in reversed(self._done) if self._undo(key, self._done[key])]

    def _write(self, key: str, value: Any) -> None:
        before = self._state.get(key, _ABSENT)
        try:
            self._state[key] = value
        except Refusal as refusal:
            raise ToolFailed(refusal.message) from None
        earlier = self._done.pop(key, None)
        if earlier is not None and _same(before, earlier.value):
            before = earlier.before
        self._done[key] = _Write(before, self._state.get(key))

    def _undo(self, key: str, write: _Write) -> bool:
        if not _same(self._state.get(key, _ABSENT), write.value):
            return False
        if write.before is _ABSENT:
            del self._state[key]
            return True
        with suppress(
            Refusal
        ):  # others have filled the state meanwhile: what was there before no longer fits
            self._state[key] = write.before
            return True
        return False


def _same(one: Any, other: Any) -> bool:
    """Large values that nobody has replaced need no look into them."""
    return one is other or same(opened(one), opened(other))

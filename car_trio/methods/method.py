"""A row of the method table: what decodes the params, what answers, and in which colour.

The colour of `call` is its concurrency contract. A `def` runs in the connection's reader, in wire order, atomically.
An `async def` gets a task of its own, because it waits; what it decides on entry (who may, which run is current) is
its `admit`, a `def` that still runs in the reader, because Trio starts tasks in random order.

The params of a large message are decoded by a task, with the loop in between (`params.py`). `free_form` marks params
of which a large part may be plain values: those are decoded piece by piece. A `def` whose params take long to prepare
has `slices` too: a generator that does it step by step and returns what `call` gets. Of a small message the steps
run in the reader, or `whole` does the same in one.

`who` is who may call it; the dispatch refuses everybody else before it looks at the params. What else a caller must be,
the owner of this run, say, only the method can tell.

`reads` marks an `async def` whose reply is built from disk and can be large: one of them at a time per connection.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Generator
from typing import Any

import msgspec
import msgspec.inspect
from msgspec import UNSET, Raw, UnsetType

from car_trio.methods.params import counted, plain_in_steps, shape_of
from car_trio.state.session import Who
from car_trio.wire.errors import Refusal, invalid_params
from car_trio.wire.pieces import TooMany

NULL = Raw(b"null")
EMPTY = b"{}"
SLICE_BYTES = 256 * 1024
"""Above this a message is prepared in slices by a task, unless its method says otherwise."""


class Method:
    """`params` and `result` are msgspec types, `result` a tuple where there are several; `requires` is the shape as a
    refusal of malformed params shows it."""

    __slots__ = (
        "_decode",
        "_shape",
        "admit",
        "call",
        "free_form",
        "is_async",
        "params",
        "reads",
        "requires",
        "results",
        "slice_bytes",
        "slices",
        "summary",
        "who",
        "whole",
    )

    def __init__(
        self,
        params: Any,
        call: Callable[[Any, Any], Any],
        result: Any,
        summary: str,
        *,
        who: Who = "client",
        admit: Callable[[Any, Any], Any] | None = None,
        slices: Callable[[Any, Any], Generator[None, None, Any]] | None = None,
        slice_bytes: int = SLICE_BYTES,
        requires: str | None = None,
        reads: bool = False,
        free_form: bool = False,
        whole: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.params = params
        self.call = call
        self.results: tuple[Any, ...] = result if isinstance(result, tuple) else (result,)
        self.summary = summary
        self.who: Who = who
        self.admit = admit
        self.slices = slices
        self.slice_bytes = slice_bytes
        self.whole = whole
        self.requires = requires
        self.reads = reads
        self.free_form = free_form
        self.is_async = inspect.iscoroutinefunction(call)
        self._decode = msgspec.json.Decoder(params).decode
        self._shape = shape_of(params)

    def decode(self, name: str, raw: Raw | UnsetType) -> Any:
        """The params in their type; absent and null mean `{}`. Raises Refusal (-32602) naming field and expectation."""
        try:
            return self._decode(EMPTY if raw is UNSET or raw == NULL else raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._misfit(name, error) from None

    def decode_in_steps(self, name: str, raw: Raw) -> Generator[None, None, Any]:
        """As `decode`, in steps."""
        try:
            text = EMPTY if raw == NULL else bytes(raw)
            if self._shape.is_bounded:
                text = yield from counted(self._shape, text)
            if not self.free_form:
                return self._decode(text)
            return msgspec.convert((yield from plain_in_steps(self._shape, text)), self.params)
        except TooMany as error:
            raise self._misfit(name, f"one of them {error}") from None
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._misfit(name, error) from None

    def _misfit(self, name: str, error: Exception | str) -> Refusal:
        said = str(error).replace("`", "") or "nested too deeply"
        if said.startswith("Invalid enum value"):
            said += f", expected one of {', '.join(allowed(self.params, said.rpartition('$')[2]))}"
        if self.requires is not None:
            return invalid_params(f"{name} requires {self.requires}: {said}")
        return invalid_params(f"{name}: params: {said}")


def allowed(kind: Any, path: str) -> list[str]:
    """The words that a literal at this path of a type may be; msgspec's refusal names the path, not the words."""
    info: Any = msgspec.inspect.type_info(kind)
    for name in re.findall(r"[.]([a-z_]+)|\[", path):
        info = _inside(info, name)
    literal = _one_of(info, msgspec.inspect.LiteralType)
    return [] if literal is None else [str(value) for value in literal.values]


def _inside(info: Any, name: str) -> Any:
    struct = _one_of(info, msgspec.inspect.StructType) if name else None
    if struct is not None:
        return next(each.type for each in struct.fields if each.encode_name == name)
    sequence = _one_of(info, msgspec.inspect.ListType)
    return info if sequence is None else sequence.item_type


def _one_of(info: Any, kind: type) -> Any:
    """The member of this kind in a union, or the type itself."""
    members = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return next((member for member in members if isinstance(member, kind)), None)

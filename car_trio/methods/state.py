"""`state.*`: key-value state of a connection or of a tenant (protocol `wire.md` section 5).

A large value is never decoded here: it is read through piece by piece, kept as it came, and given back so.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from car_trio.engine.values import too_deep
from car_trio.methods.context import Context
from car_trio.state.values import LARGE_BYTES, Values
from car_trio.wire.errors import invalid_params
from car_trio.wire.frames import DEEPEST_VALUE
from car_trio.wire.parts import encoded_parts, joined_in_steps
from car_trio.wire.pieces import TooDeep, TooMany, most_containers, read_in_steps
from car_trio.wire.session import SetState, StateKey, WholeState


def _seen(context: Context, tenant_id: str | None) -> Values:
    return context.session.state if tenant_id is None else context.daemon.tenants.seen(tenant_id)


class Setting(NamedTuple):
    """`state.set` with a value that is known to be readable: decoded, or JSON where it is large."""

    ask: SetState
    value: Any


def large(context: Context, ask: SetState) -> Generator[None, None, Setting]:
    raw = b"" if ask.value is UNSET else bytes(ask.value)
    if len(raw) <= LARGE_BYTES:
        return small(context, ask)
    try:
        yield from read_in_steps(raw, DEEPEST_VALUE, most_containers(len(raw)))
    except (TooDeep, TooMany) as error:
        raise invalid_params(f"state.set: value {error}") from None
    except msgspec.ValidationError as error:
        raise invalid_params(f"state.set: value cannot be read back: {error}") from None
    return Setting(ask, Raw(raw))


def small(context: Context, ask: SetState) -> Setting:
    try:
        value = None if ask.value is UNSET else msgspec.json.decode(ask.value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise invalid_params(
            f"state.set: value cannot be read back: {error or 'nested too deeply'}"
        ) from None
    if too_deep(value, DEEPEST_VALUE):
        raise invalid_params(f"state.set: value nests more than {DEEPEST_VALUE} deep")
    return Setting(ask, value)


def set_value(context: Context, setting: Setting) -> str:
    tenant_id = setting.ask.tenant_id
    state = context.session.state if tenant_id is None else context.daemon.tenants.of(tenant_id)
    state[setting.ask.key] = setting.value
    return "ok"


def get_value(context: Context, ask: StateKey) -> Any:
    return _seen(context, ask.tenant_id).get(ask.key)


def exists(context: Context, ask: StateKey) -> bool:
    return ask.key in _seen(context, ask.tenant_id)


def keys(context: Context, ask: WholeState) -> list[str]:
    return sorted(_seen(context, ask.tenant_id))


def taken(context: Context, ask: WholeState) -> dict[str, Any]:
    return _seen(context, ask.tenant_id).snapshot()


async def snapshot(context: Context, values: dict[str, Any]) -> Raw:
    """All of it as it was when it was asked for. There can be a lot of it, so it is encoded in steps."""
    return Raw(await context.in_steps(joined_in_steps(encoded_parts(values))))

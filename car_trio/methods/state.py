"""`state.*`: key-value state of a connection or of a tenant (protocol `wire.md` section 5)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from car_trio.engine.values import MAX_DEPTH, too_deep
from car_trio.methods.context import Context
from car_trio.state.values import Values
from car_trio.wire.errors import invalid_params
from car_trio.wire.session import SetState, StateKey, WholeState


def _seen(context: Context, tenant_id: str | None) -> Values:
    return context.session.state if tenant_id is None else context.daemon.tenants.seen(tenant_id)


def set_value(context: Context, ask: SetState) -> str:
    try:
        value = None if ask.value is UNSET else msgspec.json.decode(ask.value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise invalid_params(
            f"state.set: value cannot be read back: {error or 'nested too deeply'}"
        ) from None
    if too_deep(value, MAX_DEPTH):
        raise invalid_params(f"state.set: value nests more than {MAX_DEPTH} deep")
    tenant_id = ask.tenant_id
    state = context.session.state if tenant_id is None else context.daemon.tenants.of(tenant_id)
    state[ask.key] = value
    return "ok"


def get_value(context: Context, ask: StateKey) -> Any:
    return _seen(context, ask.tenant_id).get(ask.key)


def exists(context: Context, ask: StateKey) -> bool:
    return ask.key in _seen(context, ask.tenant_id)


def keys(context: Context, ask: WholeState) -> list[str]:
    return sorted(_seen(context, ask.tenant_id))


def snapshot(context: Context, ask: WholeState) -> dict[str, Any]:
    return _seen(context, ask.tenant_id).snapshot()

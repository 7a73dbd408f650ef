"""The gate: a listed method does not run before a host says so (protocol `host.md` section 3).

`approved` returns only for the very bytes that a host approved. It ends in one of four ways (approve, another answer,
the deadline, the caller's own end), and each of them ends the row too, so that nobody decides about a call that is
not waiting any more.
"""

from __future__ import annotations

import trio
from msgspec import Raw

from car_trio.config import Approvals as Settings
from car_trio.methods.context import Context
from car_trio.state.approvals import APPROVE, Approvals, digest, read_details
from car_trio.wire.errors import GATE_DENIED, Refusal
from car_trio.wire.host import ApprovalRow


class Gate:
    """The list of gated methods, and the wait in front of them."""

    def __init__(self, approvals: Approvals, settings: Settings) -> None:
        self._approvals = approvals
        self._methods = frozenset(settings.methods) if settings.enabled else frozenset[str]()
        self.timeout = settings.timeout_secs

    def guards(self, method: str) -> bool:
        return method in self._methods

    async def approved(self, context: Context, method: str, params: bytes) -> None:
        """Returns when a host has approved this call. Raises Refusal (-32003) when none did."""
        ended = trio.Event()
        outcome: list[ApprovalRow] = []

        def settle(row: ApprovalRow) -> None:
            outcome.append(row)
            ended.set()

        try:
            details = await context.in_steps(read_details(f"{method}: params", Raw(params)))
            approval_id = self._approvals.gate(context.session, method, details, self.timeout, settle)
        except Refusal as refusal:
            raise Refusal(refusal.message, GATE_DENIED) from None
        try:
            await ended.wait()
        finally:
            self._approvals.withdraw(approval_id)
        self._judge(outcome[0], method, params)

    def _judge(self, row: ApprovalRow, method: str, params: bytes) -> None:
        said = {"approval_id": row.id, "resolution": row.resolution}
        if row.status == "expired":
            text = f"'{method}' was not approved within {self.timeout:g} s; a host has to answer in time"
            raise Refusal(text, GATE_DENIED, said)
        if row.resolution != APPROVE:
            raise Refusal(f"'{method}' was denied by a host", GATE_DENIED, said)
        if row.details_sha256 != digest(params):
            raise Refusal(f"'{method}': what a host approved is not what would run", GATE_DENIED, said)

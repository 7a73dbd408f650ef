"""`car-trio agents ls` and `approvals`: what a host does, from a terminal. All of it needs the daemon."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec

from car_trio.cli.app import NO, OK
from car_trio.cli.calling import talk
from car_trio.cli.failures import FailedError, no_such
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.listing import GAP, LEAST
from car_trio.cli.screen import ago, columns, counted, folded, is_terminal, padded, say_json, styled, width
from car_trio.client import Car, Disconnected
from car_trio.wire.host import ApprovalList, ApprovalRow, HostAgent, HostEvent, HostSnapshot
from car_trio.wire.text import escaped, one_line


def agents(*, home: Home = None, json: Json = False) -> int:
    """The agents that registered with the daemon."""
    found = talk(home, lambda car: car.call("host.agents", None, list[HostAgent]))
    if json:
        say_json({"agents": found})
        return OK
    for agent, head in zip(found, heads(found), strict=True):
        doing = [agent.current_task or "", "" if agent.session_id else "not connected"]
        room = width() - columns(head) - GAP
        told = folded(", ".join(filter(None, doing)), room) if room > 0 or not is_terminal() else ""
        print(f"{head}{' ' * GAP}{styled(told, None if agent.session_id else 'dim')}".rstrip())
    none = "no agents: none has registered; car-trio runs ls shows whose runs there are"
    print(counted(len(found), "agent") if found else none)
    return OK


def heads(found: list[HostAgent]) -> list[str]:
    """Which agents, and how each is, in columns. Commands take the id: it stays where there is no room for the name."""
    names = [(folded(agent.id, 20), folded(agent.name, 20), agent.status) for agent in found]
    lines = in_columns(names)
    if is_terminal() and any(columns(line) + GAP + LEAST > width() for line in lines):
        return in_columns([(folded(agent.id, 16), agent.status) for agent in found])
    return lines


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    wide = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    return [(" " * GAP).join(map(padded, row, wide)) for row in rows]


def approvals(
    *,
    everything: Annotated[bool, Flag("Also those that are over.", ("--all",))] = False,
    home: Home = None,
    json: Json = False,
) -> int:
    """The approvals that wait for a decision."""
    rows = [row for row in rows_of(home) if everything or row.status == "pending"]
    if json:
        say_json({"approvals": rows})
        return OK
    for row in rows:
        show(row)
    print(counted(len(rows), "approval"))
    return OK


def watch(*, home: Home = None, json: Json = False) -> int:
    """Show approvals as they are requested, with the whole of their details, until interrupted."""

    async def follow(car: Car) -> None:
        known: set[str] = set()
        async for event in car.host_events():
            rows = await rows_after(car, event)
            for row in reversed(rows):
                if row.status == "pending" and row.id not in known:
                    if json:
                        say_json(row)
                    else:
                        show(row)
                    sys.stdout.flush()
            known = {row.id for row in rows} or known

    with suppress(KeyboardInterrupt):
        talk(home, follow)
    return OK


async def rows_after(car: Car, event: HostSnapshot | HostEvent) -> list[ApprovalRow]:
    """The approvals that there are after an event; none when it is not about a new one."""
    if isinstance(event, HostSnapshot):
        return event.approvals
    if event.kind != "approval.requested":
        return []
    try:
        return (await car.call("host.approvals", None, ApprovalList)).approvals
    except Disconnected:
        return []  # the snapshot of the next connection has them


def approve(approval: str, /, *, home: Home = None) -> int:
    """Let it happen."""
    return decide(home, approval, "approve")


def deny(approval: str, /, *, home: Home = None) -> int:
    """Do not let it happen."""
    return decide(home, approval, "deny")


def decide(home: str | None, approval: str, resolution: str) -> int:
    """Gives the answer; exit code 1 when it was not the one that counts."""
    rows = {row.id: row for row in rows_of(home)}
    if approval not in rows:
        raise no_such("approval", approval, rows)
    if resolution not in rows[approval].options:
        options = ", ".join(rows[approval].options)
        raise FailedError(
            f"'{approval}' can only be answered with {options}; use car-trio call host.resolve_approval"
        )
    row = talk(
        home,
        lambda car: car.call(
            "host.resolve_approval", {"approval_id": approval, "resolution": resolution}, ApprovalRow
        ),
    )
    print(f"{row.id} is {row.status}: {one_line(row.resolution or 'its owner has to decide')}")
    return OK if row.resolution == resolution else NO


def rows_of(home: str | None) -> list[ApprovalRow]:
    return talk(home, lambda car: car.call("host.approvals", None, ApprovalList)).approvals


def show(row: ApprovalRow) -> None:
    """An approval with all of its details: what is decided about is never shortened."""
    who = one_line(row.agent_id or row.client_id or "the gate")
    status = row.status if row.resolution is None else f"{row.status}: {one_line(row.resolution)}"
    print(
        f"{styled(one_line(row.id), 'bold')}  {status}  {one_line(row.action)}  for {who}, {ago(row.created_at)}"
    )
    details: Any = msgspec.json.decode(row.details)
    if details is not None:
        text = msgspec.json.format(msgspec.json.encode(details), indent=2).decode()
        print("\n".join(f"    {line}" for line in escaped(text).split("\n")))
    print(f"    options: {one_line(', '.join(row.options))}")
    if isinstance(row.undecidable, str):
        print(styled(f"    cannot be decided: {one_line(row.undecidable)}", "yellow"))

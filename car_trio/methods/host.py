"""`host.*`: what a person's screen shows and decides (protocol `host.md` sections 1 to 3); the rules are in `state`."""

from __future__ import annotations

import os
from collections.abc import Generator

from car_trio.methods.context import Answer, Context
from car_trio.state.approvals import read_details
from car_trio.state.web_sessions import CODE_SECONDS
from car_trio.wire.host import (
    AgentId,
    ApprovalList,
    ApprovalRow,
    Done,
    EventList,
    HostAgent,
    HostEvent,
    HostIdentity,
    HostSnapshot,
    ListEvents,
    Notify,
    RegisterAgent,
    RequestApproval,
    ResolveApproval,
    SetStatus,
    WebCode,
)
from car_trio.wire.session import NoParams


def register_agent(context: Context, ask: RegisterAgent) -> HostAgent:
    return context.daemon.host.agents.register(context.session, ask)


def set_status(context: Context, ask: SetStatus) -> HostAgent:
    return context.daemon.host.agents.set_status(context.session, ask)


def unregister_agent(context: Context, ask: AgentId) -> Done:
    context.daemon.host.agents.unregister(context.session, ask.agent_id)
    return Done(True)


def agents(context: Context, _: NoParams) -> list[HostAgent]:
    return context.daemon.host.agents.listed(context.session)


def notify(context: Context, ask: Notify) -> HostEvent:
    return context.daemon.host.notify(context.session, ask)


def events(context: Context, ask: ListEvents) -> EventList:
    return EventList(context.daemon.host.events.recent(context.session, ask.limit))


def subscribe(context: Context, _: NoParams) -> Answer:
    """The snapshot and the registration are one step: what the one does not show the other brings."""
    daemon, session = context.daemon, context.session
    feed = context.client.watch_host()
    snapshot = HostSnapshot(
        agents=daemon.host.agents.listed(session),
        approvals=daemon.host.approvals.listed(session),
        events=daemon.host.events.recent(session),
        event_sequence=daemon.host.events.sequence,
        identity=HostIdentity(version=daemon.version, pid=os.getpid(), boot_id=daemon.boot_id),
    )
    return Answer(snapshot, then=feed.begin)


def with_details(_: Context, ask: RequestApproval) -> Generator[None, None, RequestApproval]:
    ask.details = yield from read_details("host.request_approval: details", ask.details)
    return ask


def request_approval(context: Context, ask: RequestApproval) -> ApprovalRow:
    return context.daemon.host.approvals.request(context.session, ask)


def resolve_approval(context: Context, ask: ResolveApproval) -> Answer:
    row, ticket = context.daemon.host.approvals.resolve(context.session, ask)
    return Answer(row, ticket)


def approvals(context: Context, _: NoParams) -> ApprovalList:
    return ApprovalList(context.daemon.host.approvals.listed(context.session))


def web_code(context: Context, _: NoParams) -> WebCode:
    context.session.refuse_page("host.web_code")
    code, url = context.daemon.web.code()
    return WebCode(code, url, CODE_SECONDS)

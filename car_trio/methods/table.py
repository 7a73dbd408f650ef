"""The protocol on one page: every method, what it takes, what answers it, and what it returns."""

from __future__ import annotations

from typing import Any

from car_trio.methods import (
    analysis,
    chat,
    discover,
    events,
    host,
    permissions,
    policies,
    proposals,
    runs,
    session,
    state,
    tools,
)
from car_trio.methods.method import Method
from car_trio.wire import analysis as a
from car_trio.wire import chat as c
from car_trio.wire import events as e
from car_trio.wire import host as h
from car_trio.wire import policies as p
from car_trio.wire import runs as r
from car_trio.wire import session as s
from car_trio.wire import tools as t

LARGE_BYTES = 64 * 1024
"""Reading through a larger message takes long enough to be done in steps."""
FEW_SCHEMAS = 16 * 1024
"""Compiling the schemas of a larger message takes long enough to be done in steps."""

METHODS: dict[str, Method] = {
    # Who is talking
    "session.auth": Method(
        s.Authenticate, session.authenticate, s.Authenticated, "Say who you are.", who="anybody"
    ),
    "session.init": Method(
        s.InitSession,
        session.init,
        s.SessionReady,
        "Offer tools and ask for policies in one call, all or none.",
        slices=session.prepared,
        slice_bytes=FEW_SCHEMAS,
        free_form=True,
    ),
    "server.handshake": Method(s.Handshake, session.handshake, s.Shaken, "Agree on a protocol version."),
    "server.health": Method(s.NoParams, session.health, s.Health, "How the daemon is.", who="anybody"),
    "rpc.discover": Method(s.NoParams, discover.discover, s.JsonObject, "This table as an OpenRPC document."),
    # Tools and what they share
    "tools.register": Method(
        t.Tools,
        tools.register,
        int,
        "Offer tools to be called.",
        slices=tools.offers,
        slice_bytes=FEW_SCHEMAS,
        free_form=True,
    ),
    "tools.list": Method(
        s.NoParams, tools.listed, t.ToolList, "The tools of this connection.", admit=tools.offered
    ),
    "tools.unregister": Method(t.UnregisterTool, tools.unregister, t.Unregistered, "Take a tool back."),
    "state.set": Method(
        s.SetState,
        state.set_value,
        str,
        "Set a key.",
        slices=state.large,
        whole=state.small,
        slice_bytes=LARGE_BYTES,
    ),
    "state.get": Method(s.StateKey, state.get_value, Any, "The value of a key, or null."),
    "state.exists": Method(s.StateKey, state.exists, bool, "Whether a key is there."),
    "state.keys": Method(s.WholeState, state.keys, list[str], "All keys."),
    "state.snapshot": Method(
        s.WholeState, state.snapshot, s.JsonObject, "All keys and values.", admit=state.taken
    ),
    # What may not run, and who lets it
    "policy.register": Method(
        p.RegisterPolicy, policies.register, p.PolicyRegistered, "Forbid something.", free_form=True
    ),
    "policy.list": Method(p.ListPolicies, policies.listed, p.PolicyList, "The policies of a scope."),
    "policy.unregister": Method(
        p.UnregisterPolicy, policies.unregister, p.PolicyUnregistered, "Take policies of this name back."
    ),
    "session.policy.open": Method(
        s.NoParams, policies.open_session, p.PolicySessionOpened, "A scope for policies of some proposals."
    ),
    "session.policy.close": Method(
        p.ClosePolicySession, policies.close_session, p.PolicySessionClosed, "End such a scope."
    ),
    "permission.classify": Method(
        a.OfProposal, analysis.classified, list[s.JsonObject], "The tier that each action needs."
    ),
    "permission.evaluate": Method(
        a.Evaluate, analysis.evaluated_for, list[s.JsonObject], "What a tier allows of a plan."
    ),
    "permission.set_tier": Method(
        a.SetTier, permissions.set_tier, a.TierSet, "A connection's tier.", who="host"
    ),
    "permission.approve": Method(
        a.Decide, permissions.approve, a.LedgerLine, "Allow a fingerprint for good.", who="host"
    ),
    "permission.reject": Method(
        a.Decide, permissions.reject, a.LedgerLine, "Forbid a fingerprint for good.", who="host"
    ),
    # Asking before doing
    "verify": Method(
        a.Verify,
        analysis.verified,
        s.JsonObject,
        "What would go wrong.",
        admit=analysis.admit_verify,
        free_form=True,
    ),
    "simulate": Method(
        a.Simulate,
        analysis.simulated,
        s.JsonObject,
        "The state a plan would leave.",
        admit=analysis.admit_simulate,
        free_form=True,
    ),
    "optimize": Method(a.OfProposal, analysis.optimized, s.JsonObject, "Without needless dependencies."),
    "equivalent": Method(a.Equivalent, analysis.compared, bool, "Whether two plans lead to the same state."),
    "transaction_check": Method(
        a.TransactionCheck,
        analysis.transaction_checked,
        s.JsonObject,
        "Conflicts of reads and writes.",
        free_form=True,
    ),
    # Doing
    "replan.set_config": Method(
        a.ReplanConfig, policies.set_replan, a.ReplanConfig, "Accepted and reported; nothing replans."
    ),
    "proposal.submit": Method(
        t.SubmitProposal,
        proposals.submit,
        s.JsonObject,
        "Execute a plan.",
        admit=proposals.admit,
        free_form=True,
    ),
    "events.count": Method(s.NoParams, events.count, int, "How many events this connection has."),
    "events.query": Method(
        e.QueryEvents,
        events.query,
        e.EventsFound,
        "Its events, newest first.",
        admit=events.admit_query,
        reads=True,
    ),
    # Runs
    "runs.start": Method(r.StartRun, runs.start, r.RunStarted, "Open a run, or find it again by its key."),
    "runs.complete": Method(
        r.CompleteRun,
        runs.complete,
        r.RunCompleted,
        "End a run with its outcome.",
        slices=runs.bound_outcome,
    ),
    "runs.record_turns": Method(
        r.RecordTurns,
        runs.record_turns,
        r.TurnsRecorded,
        "Append turns that the agent tells, all or none.",
        slices=runs.bound_turns,
        slice_bytes=4 * LARGE_BYTES,
        requires=runs.TURNS,
    ),
    "runs.subscribe": Method(
        r.Subscribe, runs.subscribe, r.Snapshot, "Follow a run without a gap.", admit=runs.watch, reads=True
    ),
    "runs.unsubscribe": Method(r.Unsubscribe, runs.unsubscribe, r.Unsubscribed, "Stop following."),
    "runs.list": Method(
        r.ListRuns, runs.list_runs, r.RunList, "An agent's runs.", admit=runs.may_list, reads=True
    ),
    "runs.get_trace": Method(
        r.GetTrace, runs.get_trace, (r.Trace, r.NotFound), "A run's records.", admit=runs.may_read, reads=True
    ),
    "runs.search": Method(r.SearchRuns, runs.search, r.RunsFound, "Find runs.", who="host", reads=True),
    "runs.remove": Method(
        r.RemoveRuns, runs.remove, r.RunsRemoved, "Remove ended runs.", who="host", admit=runs.bounded
    ),
    # What a person sees and decides
    "host.register_agent": Method(
        h.RegisterAgent, host.register_agent, h.HostAgent, "Show an agent on the screens."
    ),
    "host.set_status": Method(h.SetStatus, host.set_status, h.HostAgent, "Say what an agent is doing."),
    "host.unregister_agent": Method(
        h.AgentId, host.unregister_agent, h.Done, "Take an agent off the screens."
    ),
    "host.agents": Method(s.NoParams, host.agents, list[h.HostAgent], "The agents."),
    "host.notify": Method(h.Notify, host.notify, h.HostEvent, "Tell every host something."),
    "host.events": Method(h.ListEvents, host.events, h.EventList, "The newest events.", who="person"),
    "host.subscribe": Method(
        s.NoParams, host.subscribe, h.HostSnapshot, "Follow what happens.", who="person"
    ),
    "host.request_approval": Method(
        h.RequestApproval,
        host.request_approval,
        h.ApprovalRow,
        "Ask a person to decide.",
        slices=host.with_details,
    ),
    "host.resolve_approval": Method(
        h.ResolveApproval, host.resolve_approval, h.ApprovalRow, "Decide.", who="person"
    ),
    "host.approvals": Method(s.NoParams, host.approvals, h.ApprovalList, "The approvals."),
    "host.web_code": Method(s.NoParams, host.web_code, h.WebCode, "Let a browser in, once.", who="host"),
    # A person talks with an agent
    "agents.chat": Method(
        c.StartChat, chat.chat, c.ChatAccepted, "Begin a chat.", who="person", admit=chat.admit
    ),
    "agents.chat.cancel": Method(c.ChatSession, chat.cancel, c.ChatCancelled, "End a chat.", who="person"),
    "agents.chat.approve": Method(
        c.ApproveInChat,
        chat.approve,
        c.ChatResolved,
        "Decide what the agent asks.",
        who="person",
        admit=chat.may_approve,
    ),
    "agent.chat.event": Method(
        c.ChatEvent,
        chat.event,
        None,
        "What the agent says: { session_id, kind, … }; a notification.",
        slices=chat.read_event,
    ),
}

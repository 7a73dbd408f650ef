"""The protocol on one page: every method, what it takes, what answers it, and what it returns."""

from __future__ import annotations

from typing import Any

from car_trio.methods import discover, proposals, runs, session, state, tools
from car_trio.methods.method import Method
from car_trio.wire import runs as r
from car_trio.wire import session as s
from car_trio.wire import tools as t

METHODS: dict[str, Method] = {
    # Who is talking
    "session.auth": Method(s.Authenticate, session.authenticate, s.Authenticated, "Say who you are."),
    "session.init": Method(s.InitSession, session.init, s.SessionReady, "Offer tools in one call."),
    "server.handshake": Method(s.Handshake, session.handshake, s.Shaken, "Agree on a protocol version."),
    "server.health": Method(
        s.NoParams, session.health, s.Health, "How the daemon is; needs no authentication."
    ),
    "rpc.discover": Method(s.NoParams, discover.discover, s.JsonObject, "This table as an OpenRPC document."),
    # Tools and what they share
    "tools.register": Method(list[t.Tool], tools.register, int, "Offer tools to be called."),
    "tools.list": Method(s.NoParams, tools.listed, t.ToolList, "The tools of this connection."),
    "tools.unregister": Method(t.UnregisterTool, tools.unregister, t.Unregistered, "Take a tool back."),
    "state.set": Method(s.SetState, state.set_value, str, "Set a key."),
    "state.get": Method(s.StateKey, state.get_value, Any, "The value of a key, or null."),
    "state.exists": Method(s.StateKey, state.exists, bool, "Whether a key is there."),
    "state.keys": Method(s.WholeState, state.keys, list[str], "All keys."),
    "state.snapshot": Method(s.WholeState, state.snapshot, s.JsonObject, "All keys and values."),
    # Doing
    "proposal.submit": Method(
        t.SubmitProposal, proposals.submit, s.JsonObject, "Execute a plan.", admit=proposals.admit
    ),
    # Runs
    "runs.start": Method(r.StartRun, runs.start, r.RunStarted, "Open a run, or find it again by its key."),
    "runs.complete": Method(r.CompleteRun, runs.complete, r.RunCompleted, "End a run with its outcome."),
    "runs.record_turns": Method(
        r.RecordTurns,
        runs.record_turns,
        r.TurnsRecorded,
        "Append turns that the agent tells, all or none.",
        slices=runs.bound_turns,
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
    "runs.search": Method(
        r.SearchRuns, runs.search, r.RunsFound, "Find runs; host role.", admit=runs.may_search, reads=True
    ),
    "runs.remove": Method(
        r.RemoveRuns, runs.remove, r.RunsRemoved, "Remove ended runs; host role.", admit=runs.may_remove
    ),
}

"""What hosts see and say: agents, events, approvals (protocol `host.md` sections 1 to 3)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

AgentStatus = Literal["idle", "running", "waiting_for_approval", "paused", "completed", "errored", "stopped"]
Names = Annotated[list[str], Meta(max_length=10_000)]
ApprovalStatus = Literal["pending", "resolved", "expired"]


class Display(Struct):
    """How a screen may show an agent."""

    label: str | None = None
    icon: str | None = None
    accent: str | None = None


class HostAgent(Struct, frozen=True, kw_only=True):
    """An agent on a host's screen; `session_id` is the connection that owns it."""

    id: str
    name: str
    kind: str
    capabilities: list[str]
    project: str | None
    session_id: str | None
    status: AgentStatus
    current_task: str | None
    pid: int | None
    display: Display
    updated_at: str
    metadata: Raw


class RegisterAgent(Struct, omit_defaults=True, kw_only=True):
    """`host.register_agent`."""

    id: str | None = None
    name: str
    kind: str
    capabilities: Names | None = None
    project: str | None = None
    pid: int | None = None
    display: Display | None = None
    metadata: Raw | UnsetType = UNSET


class SetStatus(Struct, omit_defaults=True, kw_only=True):
    """`host.set_status`: the whole of what the agent shows; without `current_task` it shows none."""

    agent_id: str
    status: AgentStatus
    current_task: str | None = None
    message: str | None = None
    payload: Raw | UnsetType = UNSET


class StatusChange(Struct):
    """The payload of `agent.status_changed`; `payload` is what the agent said with it."""

    status: AgentStatus
    current_task: str | None
    payload: Raw


class AgentId(Struct):
    agent_id: str


class Done(Struct):
    ok: bool


class HostEvent(Struct, frozen=True):
    """One event of the ring. `sequence` rises within a daemon's life."""

    id: str
    sequence: int
    timestamp: str
    kind: str
    agent_id: str | None
    message: str
    payload: Raw


class ListEvents(Struct, omit_defaults=True):
    limit: int | None = None


class EventList(Struct):
    events: list[HostEvent]


class Notify(Struct, omit_defaults=True):
    """`host.notify`."""

    kind: str | None = None
    agent_id: str | None = None
    message: str | None = None
    payload: Raw | UnsetType = UNSET


class GapRange(Struct, rename={"first": "from", "last": "to"}):
    """The sequence numbers of the first and the last event that were not delivered."""

    first: int
    last: int


class Gap(Struct):
    """Takes the place of the events that a subscriber was too slow for; `host.events` still has the newest."""

    payload: GapRange
    kind: Literal["host.gap"] = "host.gap"


class RunChange(Struct):
    """The payload of `run.*`: never what a run says."""

    run_id: str
    agent_id: str
    status: str


class StoreChange(Struct):
    """The payload of `store.degraded` and `store.recovered`."""

    cause: str | None


class RequestApproval(Struct, omit_defaults=True, kw_only=True):
    """`host.request_approval`."""

    agent_id: str | None = None
    action: str
    details: Raw | UnsetType = UNSET
    options: Names | None = None
    system_level: bool | None = None
    timeout_secs: float | None = None


class ApprovalRow(Struct, frozen=True, kw_only=True):
    """An approval as hosts see it. `details_sha256` is over the bytes of the full details as they were sent.
    `undecidable` says why a person's decision cannot reach who asked; it is there only when that is so."""

    id: str
    agent_id: str | None
    client_id: str | None
    action: str
    details: Raw
    options: list[str]
    status: ApprovalStatus
    created_at: str
    resolved_at: str | None
    resolution: str | None
    details_sha256: str
    undecidable: str | UnsetType = UNSET


class ResolveApproval(Struct, omit_defaults=True):
    """`host.resolve_approval`: one of the row's options; `approved` stands for `approve` or `deny`."""

    approval_id: str
    resolution: str | None = None
    approved: bool | None = None


class ResolveRequest(Struct):
    """The payload of `approval.resolve_requested`: somebody asks the row's owner to resolve it."""

    approval_id: str
    resolution: str
    requesting_client_id: str
    owner_client_id: str


class ApprovalList(Struct):
    approvals: list[ApprovalRow]


class ApprovalLine(Struct, tag_field="record", tag="approval", kw_only=True):
    """An ended approval in `approvals.jsonl`: who, when, what, and the digest of the full details."""

    id: str
    agent_id: str | None
    client_id: str | None
    action: str
    options: list[str]
    status: ApprovalStatus
    created_at: str
    resolved_at: str | None
    resolution: str | None
    resolved_by: str | None
    details_sha256: str


class WebCode(Struct):
    """What lets a browser in, once: `url` with `#code=` and the code behind it."""

    code: str
    url: str
    expires_in_secs: int


class HostIdentity(Struct, kw_only=True):
    """Which daemon this is; another `boot_id` tells a host to forget the old sequence numbers."""

    version: str
    pid: int
    boot_id: str
    manifest_path: None = None
    manifest_role: Literal["none"] = "none"


class HostSnapshot(Struct, kw_only=True):
    """The reply of `host.subscribe`. What comes after `event_sequence` is pushed as `host.event`."""

    subscribed: Literal[True] = True
    agents: list[HostAgent]
    approvals: list[ApprovalRow]
    events: list[HostEvent]
    event_sequence: int
    identity: HostIdentity

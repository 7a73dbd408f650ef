"""The agents that hosts see, and who owns them (protocol `host.md` section 1).

An agent belongs to the connection that registered it. When that connection goes the agent stays on the screens as
`stopped`, and whoever registers the id next has it. While an approval of an agent is pending it shows
`waiting_for_approval`; what it said last is kept underneath and shows again when the last one has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
from msgspec import Raw

from car_trio.state.events import NULL, Events, bounded, bounded_text
from car_trio.state.session import Session
from car_trio.wire.errors import Refusal, invalid_params
from car_trio.wire.frames import encode
from car_trio.wire.host import Display, HostAgent, RegisterAgent, SetStatus, StatusChange

MAX_AGENTS = 1000
MAX_AGENT_BYTES = 64 * 1024


class Agents:
    """Every agent on the screens. Only their owners change them."""

    def __init__(self, events: Events, now: Callable[[], str], new_hex: Callable[[], str]) -> None:
        self._events = events
        self._now = now
        self._new_hex = new_hex
        self._agents: dict[str, HostAgent] = {}
        self._pending: Counter[str] = Counter()

    # Seeing

    def _shown(self, agent: HostAgent) -> HostAgent:
        if agent.session_id is None or agent.id not in self._pending:
            return agent
        return msgspec.structs.replace(agent, status="waiting_for_approval")

    def listed(self, session: Session) -> list[HostAgent]:
        """All agents by name, then id; a connection that speaks for an agent sees those that it owns."""
        shown = [self._shown(agent) for agent in self._agents.values()]
        mine = [agent for agent in shown if not session.is_agent or agent.session_id == session.id]
        return sorted(mine, key=lambda agent: (agent.name, agent.id))

    def speaks_for(self, session: Session, agent_id: str | None) -> bool:
        """Whether this is the agent that `session` is bound to, or one that it owns."""
        if agent_id is None:
            return False
        agent = self._agents.get(agent_id)
        return agent_id == session.agent_id or (agent is not None and agent.session_id == session.id)

    def speaker(self, session: Session, agent_id: str | None, method: str) -> str | None:
        """The agent in whose name `session` does something: as it says, else the one it is bound to.

        Raises Refusal when it is bound to an agent and names one that is not its own.
        """
        if agent_id is None:
            return session.agent_id
        if session.is_agent and not self.speaks_for(session, agent_id):
            raise Refusal(
                f"{method}: agent '{agent_id}' is owned by another session; leave agent_id out to speak for "
                f"'{session.agent_id}'"
            )
        return agent_id

    # Changing

    def register(self, session: Session, ask: RegisterAgent) -> HostAgent:
        """`host.register_agent`: a new agent, or this connection's again, or one whose owner is gone."""
        agent_id = ask.id or f"agent-{self._new_hex()}"
        known = self._agents.get(agent_id)
        if known is not None and known.session_id not in {None, session.id}:
            raise Refusal(
                f"agent '{agent_id}' is owned by another session; unregister it from that session first"
            )
        agent = HostAgent(
            id=agent_id,
            name=ask.name,
            kind=ask.kind,
            capabilities=ask.capabilities or [],
            project=ask.project,
            session_id=session.id,
            status="idle",
            current_task=None,
            pid=ask.pid,
            display=ask.display or Display(),
            updated_at=self._now(),
            metadata=bounded("host.register_agent: metadata", ask.metadata),
        )
        encoded = self._fitting(agent)
        if known is None:
            self._make_room()
        self._agents[agent_id] = agent
        self._events.publish("agent.registered", f"{agent.name} is here", encoded, agent_id=agent_id)
        return self._shown(agent)

    def _fitting(self, agent: HostAgent) -> Raw:
        encoded = encode(agent)
        if len(encoded) > MAX_AGENT_BYTES:
            raise invalid_params(
                f"agent '{agent.id[:80]}' would take {len(encoded)} bytes, at most {MAX_AGENT_BYTES} are possible; "
                "shorten what it says about itself"
            )
        return Raw(encoded)

    def _make_room(self) -> None:
        """Of too many agents the one that was left behind first goes; none that has an owner does."""
        if len(self._agents) < MAX_AGENTS:
            return
        left_behind = [agent for agent in self._agents.values() if agent.session_id is None]
        if not left_behind:
            raise Refusal(
                f"host.register_agent: there are {MAX_AGENTS} agents with owners; unregister some first"
            )
        self._drop(min(left_behind, key=lambda agent: agent.updated_at))

    def _drop(self, agent: HostAgent) -> None:
        del self._agents[agent.id]
        self._events.publish("agent.unregistered", f"{agent.name} was taken off", agent_id=agent.id)

    def _owned(self, session: Session, agent_id: str) -> HostAgent:
        agent = self._agents.get(agent_id)
        if agent is None:
            raise Refusal(f"unknown agent '{agent_id}'")
        if agent.session_id is None:
            raise Refusal(
                f"agent '{agent_id}' is owned by another session, which is gone; register it to claim it"
            )
        if agent.session_id != session.id:
            raise Refusal(f"agent '{agent_id}' is owned by another session")
        return agent

    def set_status(self, session: Session, ask: SetStatus) -> HostAgent:
        """`host.set_status`."""
        agent = self._owned(session, ask.agent_id)
        payload = bounded("host.set_status: payload", ask.payload)
        message = bounded_text("host.set_status: message", ask.message)
        agent = msgspec.structs.replace(
            agent, status=ask.status, current_task=ask.current_task, updated_at=self._now()
        )
        self._fitting(agent)
        self._agents[agent.id] = agent
        return self._changed(agent, message, payload)

    def unregister(self, session: Session, agent_id: str) -> None:
        """`host.unregister_agent`."""
        self._drop(self._owned(session, agent_id))

    def leave(self, session_id: str) -> None:
        """The connection is gone: its agents stay behind, stopped, for anybody to claim."""
        for agent in [each for each in self._agents.values() if each.session_id == session_id]:
            stopped = msgspec.structs.replace(
                agent, status="stopped", session_id=None, updated_at=self._now()
            )
            self._agents[agent.id] = stopped
            self._changed(stopped, f"{agent.name}: its connection is gone")

    def waits(self, agent_id: str | None) -> None:
        """One more approval of this agent is pending; whether the agent is on the screens does not matter."""
        if agent_id is not None:
            self._pending[agent_id] += 1
            if self._pending[agent_id] == 1:
                self._show_again(agent_id)

    def resumes(self, agent_id: str | None) -> None:
        """One approval of this agent has ended."""
        if agent_id is not None:
            self._pending[agent_id] -= 1
            if not self._pending[agent_id]:
                del self._pending[agent_id]
                self._show_again(agent_id)

    def _show_again(self, agent_id: str) -> None:
        agent = self._agents.get(agent_id)
        if agent is not None and agent.session_id is not None:
            self._agents[agent_id] = agent = msgspec.structs.replace(agent, updated_at=self._now())
            self._changed(agent, "")

    def _changed(self, agent: HostAgent, message: str, payload: Raw = NULL) -> HostAgent:
        shown = self._shown(agent)
        change = StatusChange(shown.status, shown.current_task, payload)
        self._events.publish(
            "agent.status_changed",
            message or f"{agent.name} is {shown.status}",
            Raw(encode(change)),
            agent_id=agent.id,
        )
        return shown

"""Who a connection is: authentication, roles, the agent it is bound to, the tools it offers (`wire.md` section 3).

A `Session` belongs to one connection and dies with it. Deciding is synchronous, so "is this agent id free" and
"it is mine now" are one step.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from car_trio.state.policies import PolicyBook
from car_trio.state.tools import Offer, Results
from car_trio.state.values import Values
from car_trio.state.web_sessions import WebSessions
from car_trio.wire.analysis import ReplanConfig, Tier
from car_trio.wire.errors import (
    MISSING_CAPABILITY,
    NOT_AUTHENTICATED,
    VERSION_MISMATCH,
    Refusal,
    invalid_params,
)
from car_trio.wire.session import PROTOCOL_VERSIONS, Authenticate, Authenticated, Handshake

MAX_AUTH_FAILURES = 10
MAX_TOOLS = 1000
MAX_TOOLS_BYTES = 16 * 1024 * 1024
Who = Literal["anybody", "client", "person", "host"]
"""Who may call a method: anybody, also before authentication; every authenticated client; one that speaks for no agent
or has the host role; one with the host role."""


class Fatal(Refusal):
    """A refusal after which the connection is closed."""


class Secrets:
    """The two tokens of this start, as digests: comparing digests leaks neither length nor prefix."""

    def __init__(self, token: str, host_token: str) -> None:
        self._token = _digest(token)
        self._host_token = _digest(host_token)

    def is_token(self, candidate: str) -> bool:
        return hmac.compare_digest(self._token, _digest(candidate))

    def is_host_token(self, candidate: str) -> bool:
        return hmac.compare_digest(self._host_token, _digest(candidate))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


class Attachments:
    """Which connection speaks for which agent: at most one each."""

    def __init__(self) -> None:
        self._session_of: dict[str, str] = {}

    def attach(self, agent_id: str, session_id: str) -> None:
        """Raises Refusal when another connection holds the agent."""
        if self._session_of.setdefault(agent_id, session_id) != session_id:
            raise Refusal(
                f"agent '{agent_id}' is already attached on another connection; close that one or wait until it ends"
            )

    def release(self, session_id: str) -> None:
        for agent_id in [agent for agent, holder in self._session_of.items() if holder == session_id]:
            del self._session_of[agent_id]

    def session_of(self, agent_id: str) -> str | None:
        return self._session_of.get(agent_id)


@dataclass(slots=True, eq=False)
class Session:
    """One connection's identity. `open_house`: authentication is off, so everybody is everything. `is_gone`: the client
    has left, nothing may be given to it any more. `at_page`: it came in at the page's port; what it is there it is
    until `valid_until`."""

    id: str
    open_house: bool = False
    at_page: bool = False
    valid_until: float = math.inf
    authenticated: bool = False
    host: bool = False
    agent_id: str | None = None
    failures: int = 0
    is_gone: bool = False
    protocol_version: int | None = None
    tier: Tier = "sandbox_edit"
    replan: ReplanConfig = field(default_factory=ReplanConfig)
    tools: dict[str, Offer] = field(default_factory=dict[str, Offer])
    results: Results = field(default_factory=Results)
    state: Values = field(default_factory=Values)
    policies: PolicyBook = field(init=False)

    def __post_init__(self) -> None:
        self.policies = PolicyBook(self.id)
        if self.open_house:
            self.authenticated = self.host = True

    @property
    def is_agent(self) -> bool:
        """Whether it speaks for an agent and has nobody's rights but that agent's."""
        return self.agent_id is not None and not self.host

    def require(self, method: str, who: Who) -> None:
        """Raises Refusal unless this connection may call `method`; Fatal (-32001) before authentication."""
        if not self.authenticated and who != "anybody":
            raise Fatal(
                f"auth required: '{method}' was called before session.auth; send session.auth with the daemon's token "
                "first (CAR_AUTH_TOKEN, or the auth-token file)",
                NOT_AUTHENTICATED,
            )
        if who == "host" and not self.host:
            raise Refusal(f"'{method}' needs the host role; authenticate with session.auth {{host_token}}")
        if who == "person" and self.is_agent:
            raise Refusal(
                f"'{method}' is for hosts; this connection speaks for agent '{self.agent_id}': "
                "use one that is not bound"
            )

    def refuse_page(self, method: str) -> None:
        """Raises Refusal when this connection has its role from the page: a page does not make pages."""
        if self.at_page:
            raise Refusal(f"'{method}' is not for the page; run car-trio ui")

    def check_room(self, offers: Iterable[Offer]) -> None:
        """Raises Refusal (-32602) when these tools, beside those that stay, would be too many or too large."""
        kept = self.tools | {offer.tool.name: offer for offer in offers}
        if len(kept) > MAX_TOOLS:
            raise invalid_params(
                f"tools.register: a connection may have {MAX_TOOLS} tools; unregister some first"
            )
        if (size := sum(offer.bytes for offer in kept.values())) > MAX_TOOLS_BYTES:
            raise invalid_params(
                f"tools.register: the tools would have {size} bytes, at most {MAX_TOOLS_BYTES} fit; unregister some"
            )

    def register(self, offers: Iterable[Offer]) -> int:
        """Offers tools, all or none; one of the same name is replaced. Raises Refusal (-32602) beyond the limits."""
        offered = {offer.tool.name: offer for offer in offers}
        self.check_room(offered.values())
        self.tools.update(offered)
        return len(offered)


class Proven(NamedTuple):
    """What the secrets that were shown are worth; `key` is that of a new session of the page."""

    is_host: bool
    valid_until: float = math.inf
    key: str | None = None


def authenticate(
    session: Session,
    ask: Authenticate,
    secrets: Secrets | None,
    attachments: Attachments,
    web: WebSessions,
) -> Authenticated:
    """`session.auth` in its forms. All or nothing: a refused binding grants no role either.

    `secrets` is `None` with authentication off. Raises Refusal, and Fatal at the tenth failure of a connection.
    """
    try:
        proven = _proven(session, ask, secrets, web)
        _bind(session, ask.agent_id, attachments)
    except Refusal as refusal:
        session.failures += 1
        if session.failures >= MAX_AUTH_FAILURES:
            raise Fatal(
                f"{refusal.message}; {MAX_AUTH_FAILURES} failures, closing the connection", refusal.code
            ) from None
        raise
    session.authenticated = True
    session.host = session.host or proven.is_host
    session.valid_until = proven.valid_until
    return Authenticated(
        True,
        auth_enabled=secrets is not None,
        role="host" if proven.is_host else None,
        agent_id=ask.agent_id,
        web_session=proven.key,
        web_session_expires_in_secs=web.left(proven.valid_until),
    )


def _proven(session: Session, ask: Authenticate, secrets: Secrets | None, web: WebSessions) -> Proven:
    if secrets is None:
        return Proven(ask.host_token is not None)
    if session.at_page:
        return _proven_at_page(ask, web)
    _check_tokens(ask, secrets)
    return Proven(ask.host_token is not None)


def _proven_at_page(ask: Authenticate, web: WebSessions) -> Proven:
    """A page shows a code or its session. It never has a token, so that one that was stolen is of no use there."""
    if ask.token is not None or ask.host_token is not None or ask.agent_id is not None:
        raise Refusal(
            "auth failed: the page's port takes no tokens and no agents; run car-trio ui to sign in"
        )
    if ask.web_code is not None and ask.web_session is None:
        key, until = web.redeem(ask.web_code)
        return Proven(True, until, key)
    if ask.web_session is not None and ask.web_code is None:
        return Proven(True, web.resume(ask.web_session))
    raise invalid_params("session.auth requires { web_code } or { web_session } at the page's port")


def _check_tokens(ask: Authenticate, secrets: Secrets) -> None:
    if ask.token is None and ask.host_token is None and ask.web_code is None and ask.web_session is None:
        raise invalid_params("session.auth requires { token } or { host_token }")
    # What belongs to the page is worth here what a wrong token is, and is told the same.
    is_page = ask.web_code is not None or ask.web_session is not None
    if is_page or (ask.token is not None and not secrets.is_token(ask.token)):
        raise Refusal("auth failed: token mismatch; read the auth-token file again, it is new at each start")
    if ask.host_token is not None and not secrets.is_host_token(ask.host_token):
        raise Refusal(
            "auth failed: host token mismatch; read the host-token file again, it is new at each start"
        )


def _bind(session: Session, agent_id: str | None, attachments: Attachments) -> None:
    if agent_id is None:
        return
    if session.agent_id not in {None, agent_id}:
        raise Refusal(
            f"already bound to agent '{session.agent_id}'; open another connection for '{agent_id}'"
        )
    attachments.attach(agent_id, session.id)
    session.agent_id = agent_id


def shake(session: Session, ask: Handshake) -> None:
    """`server.handshake`: versions 2 and 3, and no optional capability (protocol `wire.md` section 3)."""
    if ask.protocol_version not in PROTOCOL_VERSIONS:
        spoken = ", ".join(str(version) for version in PROTOCOL_VERSIONS)
        raise Refusal(
            f"protocol version mismatch: the client asks for {ask.protocol_version}, this daemon speaks {spoken}; "
            "use a client that speaks one of them",
            VERSION_MISMATCH,
            {"supported": list(PROTOCOL_VERSIONS)},
        )
    if ask.required_capabilities:
        missing = ", ".join(ask.required_capabilities)
        raise Refusal(
            f"required capabilities are not offered: {missing}; connect without requiring them",
            MISSING_CAPABILITY,
            {"missing": ask.required_capabilities},
        )
    session.protocol_version = ask.protocol_version

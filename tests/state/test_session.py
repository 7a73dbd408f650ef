"""Who a connection is (`wire.md` section 3): tokens, roles, bindings, handshake, tools."""

from __future__ import annotations

import pytest

from car_trio.state.session import (
    MAX_TOOLS,
    Attachments,
    Fatal,
    Secrets,
    Session,
    authenticate,
    shake,
)
from car_trio.state.tools import Offer
from car_trio.state.web_sessions import WebSessions
from car_trio.wire.errors import Refusal
from car_trio.wire.session import Authenticate, Handshake
from car_trio.wire.tools import Tool

SECRETS = Secrets("the-token", "the-host-token")
NO_PAGE = WebSessions(clock=lambda: 0.0, mint=lambda: "never", url=None)


def session(name: str = "s1", **changes) -> Session:
    return Session(name, **changes)


def refusal(of: Session, ask: Authenticate, attachments: Attachments | None = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        authenticate(of, ask, SECRETS, attachments or Attachments(), NO_PAGE)
    return caught.value


def test_the_daemons_token_authenticates_and_grants_no_role():
    it = session()
    answer = authenticate(it, Authenticate(token="the-token"), SECRETS, Attachments(), NO_PAGE)
    assert (answer.ok, answer.auth_enabled, answer.role, answer.agent_id) == (True, True, None, None)
    assert (it.authenticated, it.host) == (True, False)


def test_the_hosts_token_grants_the_host_role():
    it = session()
    assert (
        authenticate(it, Authenticate(host_token="the-host-token"), SECRETS, Attachments(), NO_PAGE).role
        == "host"
    )
    assert (it.authenticated, it.host) == (True, True)


@pytest.mark.parametrize(
    "ask",
    [
        Authenticate(token="wrong"),
        Authenticate(token="the-host-token"),
        Authenticate(host_token="the-token"),
        Authenticate(token="the-token", host_token="wrong"),
        Authenticate(token="the-token\ud800"),
    ],
)
def test_a_wrong_token_is_refused_and_changes_nothing(ask):
    it = session()
    no = refusal(it, ask)
    assert no.message.startswith("auth failed: ")
    assert "token mismatch" in no.message
    assert (it.authenticated, it.host) == (False, False)


def test_no_token_at_all_is_a_wrong_shape():
    assert refusal(session(), Authenticate()).code == -32602


def test_no_error_repeats_a_token():
    assert "s3cret" not in refusal(session(), Authenticate(token="s3cret")).message


def test_the_tenth_failure_closes_the_connection_and_a_refused_binding_counts():
    attachments = Attachments()
    attachments.attach("taken", "other")
    it = session()
    for n in range(9):
        ask = Authenticate(token="wrong") if n % 2 else Authenticate(token="the-token", agent_id="taken")
        assert not isinstance(refusal(it, ask, attachments), Fatal)
    assert isinstance(refusal(it, Authenticate(token="wrong"), attachments), Fatal)


def test_an_agent_is_bound_to_one_connection_until_that_is_gone():
    attachments = Attachments()
    first, second = session("s1"), session("s2")
    ask = Authenticate(token="the-token", agent_id="a")
    assert authenticate(first, ask, SECRETS, attachments, NO_PAGE).agent_id == "a"
    assert "already attached on another connection" in refusal(second, ask, attachments).message
    assert second.authenticated is False
    assert attachments.session_of("a") == "s1"
    attachments.release("s1")
    assert attachments.session_of("a") is None
    authenticate(second, ask, SECRETS, attachments, NO_PAGE)
    assert attachments.session_of("a") == "s2"


def test_a_connection_may_gain_a_binding_and_the_host_role_later():
    it, attachments = session(), Attachments()
    authenticate(it, Authenticate(token="the-token"), SECRETS, attachments, NO_PAGE)
    authenticate(it, Authenticate(token="the-token", agent_id="a"), SECRETS, attachments, NO_PAGE)
    authenticate(it, Authenticate(host_token="the-host-token"), SECRETS, attachments, NO_PAGE)
    authenticate(it, Authenticate(token="the-token", agent_id="a"), SECRETS, attachments, NO_PAGE)
    assert (it.agent_id, it.host) == ("a", True)


def test_a_connection_cannot_change_its_agent():
    it, attachments = session(), Attachments()
    authenticate(it, Authenticate(token="the-token", agent_id="a"), SECRETS, attachments, NO_PAGE)
    no = refusal(it, Authenticate(token="the-token", agent_id="b"), attachments)
    assert no.message.startswith("already bound to agent 'a'")
    assert attachments.session_of("b") is None


def test_with_authentication_off_any_token_is_fine_and_everybody_is_host():
    it = session(open_house=True)
    assert (it.authenticated, it.host) == (True, True)
    answer = authenticate(it, Authenticate(token="anything", agent_id="a"), None, Attachments(), NO_PAGE)
    assert (answer.auth_enabled, answer.agent_id) == (False, "a")


@pytest.mark.parametrize("who", ["client", "person", "host"])
def test_before_authentication_only_what_is_for_anybody_may_be_called(who):
    with pytest.raises(Fatal, match="^auth required: 'm'") as caught:
        session().require("m", who)
    assert caught.value.code == -32001
    session().require("m", "anybody")
    session(authenticated=True).require("m", "client")


def test_a_host_method_names_the_role_it_needs():
    with pytest.raises(Refusal, match="'runs.search' needs the host role"):
        session(authenticated=True).require("runs.search", "host")
    session(authenticated=True, host=True).require("runs.search", "host")


def test_what_is_for_persons_is_not_for_an_agent_that_has_not_the_host_role():
    for person in (session(authenticated=True), session(authenticated=True, host=True)):
        person.require("host.events", "person")
    with pytest.raises(Refusal, match="^'host.events' is for hosts; this connection speaks for agent 'a'"):
        session(authenticated=True, agent_id="a").require("host.events", "person")
    session(authenticated=True, agent_id="a", host=True).require("host.events", "person")


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_spoken(version):
    it = session()
    shake(it, Handshake(version))
    assert it.protocol_version == version


def test_another_version_is_refused_with_what_is_spoken():
    it = session()
    with pytest.raises(Refusal, match="^protocol version mismatch: ") as caught:
        shake(it, Handshake(4))
    assert (caught.value.code, caught.value.data) == (-32006, {"supported": [2, 3]})
    assert it.protocol_version is None


def test_capabilities_that_are_not_there_are_named():
    with pytest.raises(Refusal, match="teleport") as caught:
        shake(session(), Handshake(3, required_capabilities=["teleport"]))
    assert (caught.value.code, caught.value.data) == (-32008, {"missing": ["teleport"]})


def test_registering_a_tool_again_replaces_it():
    it = session()
    assert it.register([Offer(Tool("a")), Offer(Tool("b"))]) == 2
    assert it.register([Offer(Tool("a", description="new"))]) == 1
    assert it.tools["a"].tool.description == "new"
    assert list(it.tools) == ["a", "b"]


def test_tools_beyond_the_limit_are_refused_whole():
    it = session()
    it.register([Offer(Tool(f"t{n}")) for n in range(MAX_TOOLS)])
    it.register([Offer(Tool("t5"))])
    with pytest.raises(Refusal, match="1000 tools") as caught:
        it.register([Offer(Tool("t5")), Offer(Tool("one more"))])
    assert caught.value.code == -32602
    assert "one more" not in it.tools

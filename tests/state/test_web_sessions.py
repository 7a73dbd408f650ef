"""Who may use the page (`wire.md` section 3): a code once, a session for a time, both only at the page's port."""

from __future__ import annotations

import itertools

import pytest

from car_trio.state.session import Attachments, Fatal, Secrets, Session, authenticate
from car_trio.state.web_sessions import CODE_SECONDS, MAX_CODES, MAX_SESSIONS, SESSION_SECONDS, WebSessions
from car_trio.wire.errors import Refusal
from car_trio.wire.session import Authenticate, Authenticated

SECRETS = Secrets("the-token", "the-host-token")
URL = "http://127.0.0.1:9101/"


class Door:
    """A page whose clock the test moves and whose secrets can be told apart."""

    def __init__(self) -> None:
        self.now = 1000.0
        minted = itertools.count()
        self.web = WebSessions(clock=lambda: self.now, mint=lambda: f"key-{next(minted)}", url=URL)

    def code(self) -> str:
        return self.web.code()[0]

    def sign_in(self, session: Session, **shown: str) -> Authenticated:
        return authenticate(session, Authenticate(**shown), SECRETS, Attachments(), self.web)

    def refusal(self, session: Session, **shown: str) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.sign_in(session, **shown)
        return caught.value


@pytest.fixture
def door() -> Door:
    return Door()


def visitor() -> Session:
    return Session("s1", at_page=True)


def test_a_code_gives_the_host_role_and_a_session_of_twelve_hours(door: Door):
    it = visitor()
    answer = door.sign_in(it, web_code=door.code())
    assert (answer.auth_enabled, answer.role, answer.web_session) == (True, "host", "key-1")
    assert answer.web_session_expires_in_secs == 12 * 60 * 60
    assert (it.authenticated, it.host, it.valid_until) == (True, True, door.now + SESSION_SECONDS)


def test_a_code_is_good_once(door: Door):
    code = door.code()
    door.sign_in(visitor(), web_code=code)
    it = visitor()
    assert door.refusal(it, web_code=code).message.startswith("auth failed: this code is")
    assert (it.authenticated, it.host) == (False, False)


@pytest.mark.parametrize(("waited", "is_good"), [(CODE_SECONDS - 0.001, True), (CODE_SECONDS, False)])
def test_a_code_is_good_for_a_minute(door: Door, waited: float, is_good: bool):
    code = door.code()
    door.now += waited
    if is_good:
        assert door.sign_in(visitor(), web_code=code).role == "host"
    else:
        assert "older than 60 s" in door.refusal(visitor(), web_code=code).message


def test_a_session_is_good_again_and_again_until_its_end(door: Door):
    key = door.sign_in(visitor(), web_code=door.code()).web_session
    assert key is not None
    door.now += SESSION_SECONDS - 0.5
    it = visitor()
    answer = door.sign_in(it, web_session=key)
    assert (answer.role, answer.web_session, answer.web_session_expires_in_secs) == ("host", None, 0)
    assert it.valid_until == door.now + 0.5, "showing it does not make it last longer"
    door.now += 0.5
    assert "this web session is over" in door.refusal(visitor(), web_session=key).message


def test_another_start_of_the_daemon_knows_no_session_of_the_one_before(door: Door):
    key = door.sign_in(visitor(), web_code=door.code()).web_session
    assert "not of this start" in Door().refusal(visitor(), web_session=key).message


def test_a_code_is_no_session_and_a_session_is_no_code(door: Door):
    code = door.code()
    assert door.refusal(visitor(), web_session=code)
    key = door.sign_in(visitor(), web_code=code).web_session
    assert door.refusal(visitor(), web_code=key)


def test_the_newest_codes_are_good_and_there_are_only_so_many(door: Door):
    codes = [door.code() for _ in range(MAX_CODES + 1)]
    assert door.refusal(visitor(), web_code=codes[0])
    for code in codes[1:]:
        assert door.sign_in(visitor(), web_code=code)


def test_the_newest_sessions_are_good_and_there_are_only_so_many(door: Door):
    keys = [door.sign_in(visitor(), web_code=door.code()).web_session for _ in range(MAX_SESSIONS + 1)]
    assert door.refusal(visitor(), web_session=keys[0])
    for key in keys[1:]:
        assert door.sign_in(visitor(), web_session=key)


@pytest.mark.parametrize("form", ["web_code", "web_session"])
def test_elsewhere_the_pages_secrets_are_told_what_a_wrong_token_is_told_and_stay_good(door: Door, form: str):
    code = door.code()
    good = code if form == "web_code" else door.sign_in(visitor(), web_code=code).web_session
    it = Session("s2")
    wrong = door.refusal(it, token="wrong").message
    assert door.refusal(it, **{form: good}).message == wrong
    assert door.refusal(it, token="the-token", **{form: good}).message == wrong
    assert (it.authenticated, it.failures) == (False, 3)
    assert door.sign_in(visitor(), **{form: good}).role == "host"


@pytest.mark.parametrize(
    "shown",
    [
        {"token": "the-token"},
        {"host_token": "the-host-token"},
        {"token": "the-token", "host_token": "the-host-token"},
        {"token": "the-token", "agent_id": "a"},
    ],
)
def test_at_the_pages_port_no_token_is_good_not_even_beside_a_code(door: Door, shown: dict[str, str]):
    it, code = visitor(), door.code()
    assert "takes no tokens" in door.refusal(it, **shown).message
    assert "takes no tokens" in door.refusal(it, **shown, web_code=code).message
    assert (it.authenticated, it.host, it.agent_id) == (False, False, None)
    assert door.sign_in(it, web_code=code), "a code that was not looked at is still good"


def test_a_page_speaks_for_no_agent(door: Door):
    it = visitor()
    assert "no agents" in door.refusal(it, web_code=door.code(), agent_id="a").message
    assert it.agent_id is None


def test_one_of_the_two_has_to_be_shown_and_not_both(door: Door):
    assert door.refusal(visitor()).code == -32602
    code = door.code()
    assert door.refusal(visitor(), web_code=code, web_session="x").code == -32602
    assert door.sign_in(visitor(), web_code=code)


def test_the_tenth_failure_closes_the_pages_connection_too(door: Door):
    it = visitor()
    for _ in range(9):
        assert not isinstance(door.refusal(it, web_code="wrong\ud800"), Fatal)
    assert isinstance(door.refusal(it, web_session="wrong"), Fatal)


def test_no_refusal_repeats_a_secret_and_none_is_kept_in_clear(door: Door):
    code = door.code()
    key = door.sign_in(visitor(), web_code=code).web_session
    said = [
        door.refusal(visitor(), web_code=code),
        door.refusal(visitor(), web_session=code),
        door.refusal(Session("s2"), web_session=key),
    ]
    assert not [each for each in said if code in each.message or str(key) in each.message]
    kept = repr([vars(door.web._codes), vars(door.web._sessions)])
    assert "key-" not in kept


def test_without_authentication_a_page_needs_no_code(door: Door):
    it = Session("s1", open_house=True, at_page=True)
    answer = authenticate(it, Authenticate(web_code="whatever"), None, Attachments(), door.web)
    assert (answer.auth_enabled, answer.web_session, answer.web_session_expires_in_secs) == (
        False,
        None,
        None,
    )


def test_there_is_no_code_where_there_is_no_page():
    closed = WebSessions(clock=lambda: 0.0, mint=lambda: "never", url=None, why="the page is off; do this")
    with pytest.raises(Refusal, match="^the page is off; do this$"):
        closed.code()


def test_a_code_comes_with_the_address_of_the_page_and_not_inside_of_it(door: Door):
    assert door.web.code() == ("key-0", URL)


def test_a_host_by_a_token_may_ask_for_codes_and_a_page_may_not():
    with pytest.raises(Refusal, match="is not for the page"):
        Session("s1", at_page=True, host=True).refuse_page("host.web_code")
    Session("s1", host=True).refuse_page("host.web_code")

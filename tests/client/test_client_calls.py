"""Calls, replies and the end of the connection."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from car_trio.client import CallRefused, Car, Disconnected, connect, dialling
from car_trio.wire.runs import RunStarted


class Gate:
    """A scripted method that answers when it is let through."""

    def __init__(self) -> None:
        self.opened = trio.Event()

    async def __call__(self, peer: Any, params: Any) -> Any:
        await self.opened.wait()
        return params


async def test_a_call_returns_its_result_as_the_type_that_was_asked_for(daemon: Any, car: Car) -> None:
    daemon.methods["runs.start"] = {"run_id": "r", "agent_id": "a", "news": 1}
    assert await car.call("ping") == "pong"
    assert await car.call("runs.start", {"intent": "i"}, RunStarted) == RunStarted("r", "a")
    assert daemon.calls == [("ping", None), ("runs.start", {"intent": "i"})]


async def test_a_result_of_another_shape_than_asked_for_is_not_passed_off_as_it(car: Car) -> None:
    with pytest.raises(msgspec.ValidationError):
        await car.call("ping", None, RunStarted)


async def test_an_error_reply_is_raised_with_code_message_and_data(
    daemon: Any, car: Car, refuse: Any
) -> None:
    def fail(peer: Any, params: Any) -> None:
        raise refuse(-32011, "storage degraded: full", {"pending": False})

    daemon.methods["fail"] = fail
    with pytest.raises(CallRefused, match="storage degraded: full") as caught:
        await car.call("fail")
    assert (caught.value.code, caught.value.data) == (-32011, {"pending": False})


async def test_replies_reach_their_callers_in_whatever_order_they_come(
    daemon: Any, car: Car, nursery: trio.Nursery
) -> None:
    gates = daemon.methods["first"], daemon.methods["second"] = Gate(), Gate()
    got: list[Any] = []

    async def ask(method: str) -> None:
        got.append(await car.call(method, [method]))

    nursery.start_soon(ask, "first")
    nursery.start_soon(ask, "second")
    await wait_all_tasks_blocked()
    gates[1].opened.set()
    await wait_all_tasks_blocked()
    assert got == [["second"]]
    gates[0].opened.set()
    await wait_all_tasks_blocked()
    assert got == [["second"], ["first"]]


async def test_a_call_that_is_left_early_forgets_its_id_and_its_late_reply_does_no_harm(
    daemon: Any, car: Car, autojump_clock: Any
) -> None:
    gate = daemon.methods["slow"] = Gate()
    with trio.move_on_after(1) as scope:
        await car.call("slow")
    assert scope.cancelled_caught
    link = await car.link()
    assert link._waiters == {}
    gate.opened.set()
    await wait_all_tasks_blocked()
    assert await car.call("ping") == "pong"


async def test_replies_that_nobody_waits_for_are_dropped(daemon: Any, car: Car) -> None:
    for reply_id in (99, "text", None, 1.5):
        await daemon.peers[0].send(id=reply_id, result=1)
    await daemon.peers[0].notify("something.new", {"a": 1})
    assert await car.call("ping") == "pong"


async def test_a_call_under_way_when_the_connection_goes_learns_that_nobody_knows(
    daemon: Any, car: Car, nursery: trio.Nursery
) -> None:
    async def go_away(peer: Any, params: Any) -> None:
        await peer.drop()

    daemon.methods["kill"] = go_away
    with pytest.raises(Disconnected, match="kill was sent, and no reply came"):
        await car.call("kill")
    with pytest.raises(Disconnected, match="ping was not sent"):
        await car.call("ping")
    car.notify("anything", {})


async def test_the_reason_the_daemon_gave_for_closing_is_told(daemon: Any, car: Car) -> None:
    async def close(peer: Any, params: Any) -> None:
        await peer.websocket.aclose(1001, "daemon is stopping")

    daemon.methods["close"] = close
    with pytest.raises(Disconnected, match="1001 daemon is stopping"):
        await car.call("close")


@pytest.mark.parametrize(
    "garbage", ["not json", "[1]", '{"method":"runs.trace.event","params":{}}', "{}", '{"result":1}']
)
async def test_a_peer_that_does_not_speak_the_protocol_is_hung_up_on(
    daemon: Any, car: Car, garbage: str, autojump_clock: Any
) -> None:
    async def babble(peer: Any, params: Any) -> Any:
        await peer.websocket.send_message(garbage)
        await trio.sleep_forever()

    daemon.methods["babble"] = babble
    with pytest.raises(Disconnected, match="not its protocol"):
        await car.call("babble")


async def test_a_frame_that_breaks_websocket_ends_the_connection_and_nothing_else(
    daemon: Any, car: Car
) -> None:
    async def tear(peer: Any, params: Any) -> Any:
        await peer.stream.send_all(b"\xff\xff\xff\xff")
        await peer.drop()

    daemon.methods["tear"] = tear
    with pytest.raises(Disconnected):
        await car.call("tear")


async def test_a_websocket_library_that_fails_ends_the_connection_and_nothing_else(
    daemon: Any, nursery: trio.Nursery, autojump_clock: Any
) -> None:
    went_on = False
    try:
        async with connect() as car:
            peer, link = daemon.peers[0], await car.link()
            peer.stream.receive_stream.receive_some_hook = trio.sleep_forever
            car.notify("the.last.thing.read")
            await wait_all_tasks_blocked()
            link.hang_up()
            await wait_all_tasks_blocked()
            # A ping that meets our Close on the way: the library tries to answer it and fails over its own
            # state.
            nursery.start_soon(peer.websocket.ping)
            await link.closed.wait()
            await trio.sleep(1)
            went_on = True
    finally:
        # A stray cancellation would otherwise end the test in silence.
        assert went_on


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (None, None),
        (mine := ValueError("mine"), mine),
        (group := ExceptionGroup("g", [mine]), group),
    ],
)
def test_what_is_not_cancellation_survives_the_failure_of_the_library(error: Any, left: Any) -> None:
    assert (
        dialling._not_cancelled(error) == left or dialling._not_cancelled(error).exceptions == left.exceptions
    )


async def test_cancellation_does_not_survive_the_failure_of_the_library() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            assert dialling._not_cancelled(cancelled) is None
            assert dialling._not_cancelled(BaseExceptionGroup("g", [cancelled])) is None
            raise
    assert scope.cancelled_caught


async def test_a_binary_message_is_read_like_a_text(daemon: Any, car: Car, autojump_clock: Any) -> None:
    async def binary(peer: Any, params: Any) -> Any:
        await peer.websocket.send_message(b'{"id":1,"result":"binary"}')
        await trio.sleep_forever()

    daemon.methods["binary"] = binary
    assert await car.call("binary") == "binary"


async def test_a_reply_of_thirty_megabytes_arrives(daemon: Any, car: Car) -> None:
    daemon.methods["big"] = "x" * 30_000_000
    assert len(await car.call("big")) == 30_000_000


async def test_a_notification_posted_just_before_leaving_still_goes_out(daemon: Any) -> None:
    async with connect() as car:
        car.notify("last.words", {"n": 1})
    assert daemon.calls_of("last.words") == [{"n": 1}]


async def test_leaving_does_not_wait_for_a_daemon_that_does_not_answer_the_close(
    daemon: Any, autojump_clock: Any
) -> None:
    async with connect() as car:
        daemon.peers[0].stream.receive_stream.receive_some_hook = trio.sleep_forever
        car.notify("the.last.thing.read")
        await wait_all_tasks_blocked()
        link = await car.link()
    assert link.closed.is_set()


async def test_leaving_does_not_wait_for_a_daemon_that_takes_nothing(
    daemon: Any, autojump_clock: Any
) -> None:
    async with connect() as car:
        daemon.client_streams[0].send_stream.send_all_hook = trio.sleep_forever
        car.notify("what.does.not.fit")
        await wait_all_tasks_blocked()
        link = await car.link()
    assert link.closed.is_set()


async def test_the_socket_is_kept_until_the_daemon_has_said_goodbye(daemon: Any) -> None:
    async with connect():
        pass
    assert daemon.peers[0].websocket.closed.code == 1000


@pytest.mark.parametrize("error", [ValueError("mine"), ExceptionGroup("mine", [ValueError("mine")])])
async def test_an_exception_of_the_block_passes_through_as_it_is(daemon: Any, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        async with connect():
            raise error
    assert caught.value is error


async def test_cancelling_the_block_leaves_it(daemon: Any, autojump_clock: Any) -> None:
    with trio.move_on_after(1) as scope:
        async with connect():
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_token_found_is_shown_and_binds_the_agent(
    daemon: Any, give_tokens: Callable[..., None]
) -> None:
    give_tokens(auth_token="t", host_token="h")
    async with connect(agent_id="me", host=True):
        pass
    assert daemon.calls_of("session.auth") == [{"token": "t", "agent_id": "me"}, {"host_token": "h"}]


async def test_a_token_argument_wins_over_what_is_found(
    daemon: Any, give_tokens: Callable[..., None]
) -> None:
    give_tokens(auth_token="t")
    async with connect(token="mine"):
        pass
    assert daemon.calls_of("session.auth") == [{"token": "mine"}]


async def test_without_any_token_the_client_tries_without_and_still_binds_its_agent(daemon: Any) -> None:
    async with connect(host=True):
        pass
    async with connect(agent_id="me"):
        pass
    assert daemon.calls_of("session.auth") == [{"token": "", "agent_id": "me"}]


async def test_a_token_that_changed_meanwhile_is_read_again(
    daemon: Any, give_tokens: Callable[..., None], refuse: Any
) -> None:
    def restarted(peer: Any, params: Any) -> Any:
        if params["token"] == "new":
            return {"ok": True, "auth_enabled": True}
        give_tokens(auth_token="new")
        raise refuse(-32603, "auth failed: token mismatch")

    daemon.methods["session.auth"] = restarted
    give_tokens(auth_token="old")
    async with connect() as car:
        assert await car.call("ping") == "pong"
    assert daemon.calls_of("session.auth") == [{"token": "old"}, {"token": "new"}]


async def test_a_token_that_stays_wrong_is_refused_to_the_caller(daemon: Any, refuse: Any) -> None:
    def mismatch(peer: Any, params: Any) -> Any:
        raise refuse(-32603, "auth failed: token mismatch")

    daemon.methods["session.auth"] = mismatch
    with pytest.raises(CallRefused, match="token mismatch"):
        async with connect(token="wrong"):
            raise AssertionError("entered without being let in")
    assert daemon.calls_of("session.auth") == [{"token": "wrong"}]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), Decimal("-Infinity")])
async def test_a_call_with_a_number_that_json_cannot_write_is_not_sent(
    daemon: Any, car: Car, number: Any
) -> None:
    with pytest.raises(ValueError, match=r"state\.set: what is sent holds a number that JSON cannot write"):
        await car.call("state.set", {"key": "k", "value": [None, number]})
    with pytest.raises(TypeError):
        await car.call("state.set", {"key": "k", "value": object()})
    assert await car.call("ping") == "pong"
    assert daemon.calls == [("ping", None)]
    assert not car._link._waiters

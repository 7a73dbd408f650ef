"""From a message to a method to a reply (protocol `wire.md` section 2): the only place that turns refusals into frames.

`take` runs in the reader and never waits. It answers a `def` method on the spot, or hands its reply to the journal's
ticket; it starts a task for an `async def`, after the method's `admit` has decided, still in wire order. A message
over its method's `slice_bytes` is decoded and prepared in slices by a task; until it has decided, later
requests of the same connection are held, so that wire order stays the order of effects.

A rule that does not know a run raises `Lookup`; then a task asks the catalog and calls the rule again. A gated
method first waits in a task for a host's word (`gate.py`), and begins with the approved bytes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import trio
from msgspec import UNSET, Raw, UnsetType

from car_trio.config import Config
from car_trio.methods.context import Answer, Context
from car_trio.methods.method import Method
from car_trio.nursery.callbacks import Callbacks
from car_trio.nursery.gate import Gate
from car_trio.nursery.lookups import LookupDesk
from car_trio.nursery.outbound import Post
from car_trio.state.absent import Lookup
from car_trio.state.session import Fatal
from car_trio.wire.errors import (
    DEADLINE_EXCEEDED,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    REFUSED,
    TOO_MANY_REQUESTS,
    Refusal,
)
from car_trio.wire.frames import Frame, Unreadable, encode, error_frame, notification, parse, result_frame
from car_trio.wire.pieces import at_once

LOG = logging.getLogger("car_trio.dispatch")
PROGRESS_SECONDS = 10.0
SHOWN_NAME = 80
ENDS = frozenset({"runs.complete", "runs.record_turns"})
"""What is still done while the daemon stops, or for a client that went before its held requests were begun: an agent
that just finishes should not lose its word. Anything else would belong to nobody."""

Spawn = Callable[..., None]
Steps = Generator[None, None, Any]


class Request(NamedTuple):
    """A request under way. `id` is the bytes to echo, `None` for a notification; `serial` tells equal ids apart."""

    serial: int
    id: bytes | None
    method: str
    began: float


class Dispatcher:
    """The requests of one connection. `spawn` starts a task among them; `close` begins the connection's close."""

    __slots__ = (
        "_callbacks", "_close", "_context", "_desk", "_gate", "_handler_seconds", "_held", "_is_fixed",
        "_max_in_flight", "_methods", "_post", "_reads", "_serial", "_spawn", "in_flight", "is_stopping",
    )  # fmt: skip  # a connection that says nothing has one, too

    def __init__(
        self,
        context: Context,
        callbacks: Callbacks,
        desk: LookupDesk,
        gate: Gate,
        config: Config,
        *,
        post: Post,
        close: Callable[[int, str], None],
        spawn: Spawn,
    ) -> None:
        self._context = context
        self._callbacks = callbacks
        self._desk = desk
        self._post = post
        self._close = close
        self._spawn = spawn
        self._methods: dict[str, Method] = context.daemon.methods
        self._gate = gate
        self._max_in_flight = config.server.max_in_flight
        self._handler_seconds = config.environment.handler_timeout or config.server.handler_timeout_seconds
        self._is_fixed = config.environment.handler_timeout is not None
        self._serial = 0
        self._held: deque[tuple[Request, Frame, int]] | None = None
        self._reads: trio.Semaphore | None = None
        self.in_flight: dict[int, Request] = {}
        self.is_stopping = False

    def take(self, message: bytes | bytearray) -> None:
        """One message from the client."""
        try:
            frame = parse(message)
        except Unreadable as refusal:
            self._callbacks.fail_unreadable(message, refusal.message)
            self._post(error_frame(refusal.reply_id, refusal))
            return
        if frame.method is UNSET:
            self._take_reply(frame)
            return
        self._serial += 1
        reply_id = None if frame.id is UNSET else bytes(frame.id)
        request = Request(self._serial, reply_id, frame.method, trio.current_time())
        if self._held is not None and len(self.in_flight) < self._max_in_flight:
            self.in_flight[request.serial] = request
            self._held.append((request, frame, len(message)))
        else:
            self._begin(request, frame, len(message))

    def _take_reply(self, frame: Frame) -> None:
        reply_id = b"null" if frame.id is UNSET else bytes(frame.id)
        is_late = reply_id.startswith(b'"cb-')
        if (
            not self._callbacks.settle(frame)
            and frame.result is UNSET
            and frame.error is UNSET
            and not is_late
        ):
            self._post(error_frame(reply_id, Refusal("not a request: no method", INVALID_REQUEST)))

    def _begin(self, request: Request, frame: Frame, size: int) -> None:
        try:
            method = self._admitted(request)
            self.in_flight[request.serial] = request
            is_gated = self._gate.guards(request.method)
            if size > method.slice_bytes and frame.params is not UNSET:
                decoding = method.decode_in_steps(request.method, frame.params)
            else:
                params = method.decode(request.method, frame.params)
                if not is_gated:
                    self._start(request, method, params)
                    return
                decoding = nothing_left(params)
            if is_gated:
                self._start_gated(request, method, decoding, frame.params)
            else:
                self._start_large(request, method, decoding)
        except Refusal as refusal:
            self._refuse(request, refusal)
        except Exception:
            self._broke(request)

    def _admitted(self, request: Request) -> Method:
        """The method, if this connection may call it now."""
        method = self._methods.get(request.method)
        self._context.session.require(request.method, "client" if method is None else method.who)
        self._check_wanted(request.method, self.is_stopping)
        if len(self.in_flight) >= self._max_in_flight and request.serial not in self.in_flight:
            raise Refusal(
                f"too many requests in flight: {len(self.in_flight)} wait for their replies on this connection, "
                "read some before sending more",
                TOO_MANY_REQUESTS,
            )
        if method is None:
            shown = request.method[:SHOWN_NAME]
            raise Refusal(f"unknown method '{shown}'; rpc.discover lists what there is", METHOD_NOT_FOUND)
        return method

    def _check_wanted(self, name: str, is_late: bool = False) -> None:
        """What is decided when the client is gone, and what belonged to it is cleaned up, would belong to nobody."""
        if (is_late or self._context.session.is_gone) and name not in ENDS:
            raise stopping()

    def _start_gated(
        self, request: Request, method: Method, decoding: Steps, params: Raw | UnsetType
    ) -> None:
        shown = b"null" if params is UNSET else bytes(params)
        self._spawn(self._run, request, partial(self._gated, request.method, method, decoding, shown))

    def _start_large(self, request: Request, method: Method, decoding: Steps) -> None:
        self._held = deque() if self._held is None else self._held
        # A method that waits lets the others go on as soon as it is admitted, one that does not when it has answered.
        after = None if method.is_async else self._release
        self._spawn(
            self._run, request, partial(self._in_slices, request.method, method, decoding), False, after
        )

    def _start(self, request: Request, method: Method, params: Any) -> None:
        context = self._context
        prepared = params
        if method.whole is not None:
            prepared = method.whole(context, params)
        elif method.slices is not None:
            prepared = at_once(method.slices(context, params))
        rule = method.call if not method.is_async else method.admit
        try:
            decided = prepared if rule is None else rule(context, prepared)
        except Lookup:
            work = partial(self._after_lookup, request.method, method, prepared)
            self._spawn(self._run, request, work, method.reads)
            return
        if method.is_async:
            self._spawn(self._run, request, partial(_call, method, decided), method.reads)
        else:
            self._answer(request, decided)

    # Tasks

    async def _run(
        self,
        request: Request,
        work: Callable[[Context], Awaitable[Any]],
        reads: bool = False,
        after: Callable[[], None] | None = None,
    ) -> None:
        """A request's task, until its deadline; whatever happens the request is answered, once.

        `reads`: its reply is built from disk. Those of one connection are built one after the other, each when the
        peer has read enough of what was sent before: pipelined, they would fill the memory with replies.
        """
        scope = trio.CancelScope(deadline=trio.current_time() + self._handler_seconds)
        told = False
        with scope:
            try:
                async with self._turn_to_read if reads else nullcontext():
                    context = self._context.of_request(partial(self._allow, scope))
                    self._answer(request, await work(context))
                told = True
            except Refusal as refusal:
                told = True
                self._refuse(request, refusal)
            except Exception:
                told = True
                self._broke(request)
            finally:
                # Cancelled from outside, alone or in a group of its own nursery's: the daemon or the connection stops.
                if not told and not scope.cancel_called:
                    self._refuse(request, stopping())
                if after is not None:
                    after()
        if scope.cancelled_caught:
            waited = trio.current_time() - request.began
            text = f"'{request.method}' was abandoned at its deadline after {waited:.0f} s"
            self._refuse(request, Refusal(text, DEADLINE_EXCEEDED))

    @property
    def _turn_to_read(self) -> trio.Semaphore:
        if self._reads is None:
            self._reads = trio.Semaphore(1)
        return self._reads

    def _allow(self, scope: trio.CancelScope, seconds: float) -> None:
        if not self._is_fixed:
            scope.deadline = max(scope.deadline, trio.current_time() + seconds)

    async def _decided(
        self, name: str, rule: Callable[[Context, Any], Any] | None, context: Context, prepared: Any
    ) -> Any:
        while True:
            self._check_wanted(name)
            try:
                return prepared if rule is None else rule(context, prepared)
            except Lookup as question:
                await self._desk.ask(question.run_id)

    async def _after_lookup(self, name: str, method: Method, prepared: Any, context: Context) -> Any:
        rule = method.admit if method.is_async else method.call
        decided = await self._decided(name, rule, context, prepared)
        return await method.call(context, decided) if method.is_async else decided

    async def _gated(self, name: str, method: Method, decoding: Steps, shown: bytes, context: Context) -> Any:
        """`decoding` reads the bytes that are `shown`. What does not fit the method is refused, nobody is asked."""
        context.allow(self._gate.timeout + self._handler_seconds)
        params = await context.in_steps(decoding)
        self._check_wanted(name)
        await self._gate.approved(context, name, shown)
        prepared = params if method.slices is None else await context.in_steps(method.slices(context, params))
        return await self._after_lookup(name, method, prepared, context)

    async def _in_slices(self, name: str, method: Method, decoding: Steps, context: Context) -> Any:
        try:
            params = await context.in_steps(decoding)
            prepared = (
                params if method.slices is None else await context.in_steps(method.slices(context, params))
            )
            rule = method.admit if method.is_async else method.call
            decided = await self._decided(name, rule, context, prepared)
        finally:
            if method.is_async:
                self._release()
        return await method.call(context, decided) if method.is_async else decided

    def _release(self) -> None:
        """The large message is done: what was held goes on in wire order, up to the next large one."""
        held, self._held = self._held or deque(), None
        while held and self._held is None:
            self._begin(*held.popleft())
        if held:
            self._held = held

    # Replies

    def _answer(self, request: Request, answer: Any) -> None:
        if not isinstance(answer, Answer):
            self._reply(request, answer)
        elif answer.ticket is None:
            self._settled(request, answer, None)
        else:
            answer.ticket.then(partial(self._settled, request, answer))

    def _settled(self, request: Request, answer: Answer, late: Refusal | None) -> None:
        try:
            if late is not None:
                # What was accepted will be true: the caller learns now what the reply would have said.
                self._refuse(
                    request, Refusal(late.message, late.code, {**late.data, "result": answer.result})
                )
                return
            self._reply(request, answer.result)
            if answer.then is not None:
                answer.then()
        except Exception:
            # The journal may be calling, and an error here is none of its own.
            self._broke(request)

    def _reply(self, request: Request, result: Any) -> None:
        self.in_flight.pop(request.serial, None)
        if request.id is not None:
            encoded = bytes(result) if isinstance(result, Raw) else encode(result)
            self._post(result_frame(request.id, encoded), not self.in_flight)
        self._close_when_idle()

    def _refuse(self, request: Request, refusal: Refusal) -> None:
        self.in_flight.pop(request.serial, None)
        if request.id is not None:
            self._post(error_frame(request.id, refusal), not self.in_flight)
        if isinstance(refusal, Fatal):
            self._close(1008, "authentication")
        self._close_when_idle()

    def _broke(self, request: Request) -> None:
        """A defect of ours. The client learns that, and nothing of what is inside; the log has the rest."""
        LOG.exception("%s failed on session %s", request.method[:SHOWN_NAME], self._context.session.id)
        text = f"'{request.method[:SHOWN_NAME]}' failed inside the daemon; its log says why"
        self._refuse(request, Refusal(text, REFUSED))

    def stop(self) -> None:
        """Nothing new is begun; when the last reply is posted the connection closes."""
        self.is_stopping = True
        self._close_when_idle()

    def _close_when_idle(self) -> None:
        if self.is_stopping and not self.in_flight:
            self._close(1001, "daemon is stopping")

    def progress(self, before: float, now: float) -> None:
        """Tells the client about requests that have waited for another ten seconds since it was told before, so that it
        goes on waiting."""
        for request in self.in_flight.values():
            waited, told = now - request.began, before - request.began
            if request.id is not None and waited // PROGRESS_SECONDS > max(0.0, told) // PROGRESS_SECONDS:
                self._post(notification("infer.progress", {"id": Raw(request.id)}))


async def _call(method: Method, decided: Any, context: Context) -> Any:
    return await method.call(context, decided)


def nothing_left(params: Any) -> Steps:
    """Params that are decoded already."""
    return params
    yield  # a generator without a step


def stopping() -> Refusal:
    return Refusal("daemon is stopping; reconnect when it is back and try again", REFUSED)

"""Calls back into the client: `tools.execute` and its end (protocol `wire.md` section 4), and requests of chats.

The table of pending calls belongs to this object. A call is in the table from before its request is posted until it
is settled, exactly once: by the client's reply, or by leaving `call_tool` any other way (deadline, stop, drop), which
is one `finally` and posts one `tools.cancel`. A reply to anything else is dropped and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import trio
from msgspec import UNSET, Raw

from car_trio.methods.context import CallbackTimedOut, ChannelClosed
from car_trio.nursery.backstops import Backstops
from car_trio.nursery.outbound import Post
from car_trio.wire.frames import ErrorObject, Frame, notification, read_error, request
from car_trio.wire.tools import CancelTool, ExecuteTool

NULL = Raw(b"null")
_decode_id = msgspec.json.Decoder(str).decode
_CALL_ID = re.compile(rb'"id"\s*:\s*"(cb-[0-9]+)"')


@dataclass(slots=True, eq=False)
class _Pending:
    """A call under way. `task` waits for it, and for nothing else; `None` when it does not wait any more."""

    task: trio.lowlevel.Task | None
    answer: Raw | ErrorObject | None = None

    @property
    def is_over(self) -> bool:
        return self.task is None

    def expire(self) -> None:
        """The wait is over, whether there is an answer or not."""
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
            self.task = None

    def abort(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Callbacks:
    """The pending calls of one connection."""

    __slots__ = (
        "_backstops", "_counters", "_minted", "_open", "_pending", "_post", "reason",
    )  # fmt: skip  # there is one for each idle connection

    def __init__(self, post: Post, backstops: Backstops, counters: Counter[str]) -> None:
        self._post = post
        self._backstops = backstops
        self._counters = counters
        self._pending: dict[str, _Pending] = {}
        self._minted = 0
        self._open = True
        self.reason = "deadline"
        """What `tools.cancel` says; the connection changes it when it stops."""

    def __len__(self) -> int:
        return len(self._pending)

    async def call_tool(
        self, tool: str, parameters: object, *, action_id: str, attempt: int, timeout_ms: int | None,
        session_id: str, backstop: float,
    ) -> Raw | ErrorObject:  # fmt: skip
        """One attempt. Returns the client's result, or the error it answered with.

        Raises `ChannelClosed` when the client left, `CallbackTimedOut` after `backstop` seconds. If cancelled, the
        client has been told to stop, and its late reply will be dropped.
        """
        request_id = self._mint()
        ask = ExecuteTool(action_id, tool, parameters, timeout_ms, attempt, request_id, session_id)

        def tell() -> None:
            self._post(notification("tools.cancel", CancelTool(request_id, action_id, self.reason)))

        return await self._answer(request_id, request("tools.execute", request_id, ask), backstop, tell)

    async def ask(self, method: str, params: object, seconds: float) -> Raw | ErrorObject:
        """Any other request to the client. Returns and raises as `call_tool`; giving up is not told to the client."""
        request_id = self._mint()
        return await self._answer(request_id, request(method, request_id, params), seconds, lambda: None)

    def _mint(self) -> str:
        self._minted += 1
        return f"cb-{self._minted - 1}"

    async def _answer(
        self, request_id: str, frame: bytes, seconds: float, gave_up: Callable[[], None]
    ) -> Raw | ErrorObject:
        if not self._open:
            raise ChannelClosed
        pending = self._pending[request_id] = _Pending(trio.lowlevel.current_task())
        self._backstops.add(pending, seconds)
        try:
            # No checkpoint until the task waits: nobody can end what has not begun.
            self._post(frame, len(self._pending) == 1)
            await trio.lowlevel.wait_task_rescheduled(pending.abort)
        finally:
            answer, pending.answer = pending.answer, None
            if self._pending.pop(request_id, None) is not None:
                gave_up()
        if answer is not None:
            return answer
        if self._open:
            raise CallbackTimedOut(round(seconds))
        raise ChannelClosed

    def settle(self, frame: Frame) -> bool:
        """A reply from the client. `False` when nobody waits for it."""
        pending = self._pending.pop(_text(frame.id), None)
        if pending is None:
            self._counters["late_replies"] += 1
            return False
        if frame.error is not UNSET and frame.error != NULL:
            pending.answer = read_error(frame.error)
        else:
            pending.answer = NULL if frame.result is UNSET else Raw(bytes(frame.result))
        pending.expire()
        return True

    def fail_unreadable(self, message: bytes | bytearray, why: str) -> None:
        """A message that is no envelope. If it names a call as its id, that call has its answer, a failure: a result
        that cannot be read (a lone surrogate, NaN, nested too deeply) must not look like a tool that never answers."""
        named = _CALL_ID.search(message)
        pending = self._pending.pop(named[1].decode(), None) if named is not None else None
        if pending is not None:
            pending.answer = ErrorObject(message=f"malformed reply: {why}")
            pending.expire()

    def close(self) -> None:
        """The client is gone: everybody who waits for it goes on without an answer."""
        self._open = False
        for pending in self._pending.values():
            pending.expire()
        self._pending.clear()


def _text(raw: Raw | msgspec.UnsetType) -> str:
    if raw is UNSET:
        return ""
    try:
        return _decode_id(raw)
    except msgspec.MsgspecError:
        return ""

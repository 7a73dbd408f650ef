"""`car-trio chat AGENT`: a conversation with an attached agent, a line for each prompt.

Lines are read by a task of their own, in a thread that nothing waits for, so the agent streams while somebody types.
Ctrl-C ends the turn that is under way and nothing else, Ctrl-D leaves. What an agent wants approved is shown whole;
only an answer that says so approves, the end of the input denies. In a pipe there is the text alone: no prompt, no
colour, and a turn that fails makes the exit code 1. Nothing that an agent says reaches the terminal unescaped.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from typing import Annotated, Any

import msgspec
import trio

from car_trio.cli.app import NO, OK
from car_trio.cli.calling import talk
from car_trio.cli.failures import FailedError, no_such
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.screen import folded, is_terminal, say_json, styled, width
from car_trio.client import CallRefused, Car, Chat, ChatEvent
from car_trio.wire.host import HostAgent
from car_trio.wire.text import escaped, one_line

READ_BYTES = 65536
ENVELOPE = {"session_id", "agent_id", "kind"}
YES = {"y", "yes", "approve"}
HINTS = "Ctrl-C cancels the turn, Ctrl-D leaves"


def chat(
    agent: str,
    /,
    *,
    model: Annotated[str | None, Flag("The model that the agent is asked to use.")] = None,
    home: Home = None,
    json: Json = False,
) -> int:
    """Talk with an attached agent, a line for each prompt. --json: a document per event."""

    async def converse(car: Car) -> int:
        conversation = Conversation(car, agent, model, Paper(agent, json=json))
        async with trio.open_nursery() as around:
            around.start_soon(conversation.interrupts)
            code = await conversation.talk(around)
            around.cancel_scope.cancel()
        return code

    return talk(home, converse)


class Paper:
    """Where the conversation is written. Knows whether a line is begun, so that what is not text starts on its own."""

    def __init__(self, agent: str, *, json: bool) -> None:
        self.json = json
        self.asks = is_terminal() and sys.stdin.isatty() and not json
        self.heard = False
        self._agent = agent
        self._begun = False

    def prompt(self) -> None:
        """Ready for the next turn."""
        self.heard = False
        self.end_line()
        if self.asks:
            print(styled("you> ", "bold"), end="", flush=True)

    def text(self, text: str) -> None:
        """A piece of what the agent says."""
        if not text:
            return
        if not self._begun and self.asks:
            print(styled(f"{folded(self._agent, 24)}> ", "cyan"), end="")
        print(escaped(text), end="", flush=True)
        self.heard, self._begun = True, not text.endswith("\n")

    def note(self, text: str, style: str = "dim") -> None:
        """A line about the conversation; `text` is safe already."""
        self.end_line()
        print(styled(text, style), flush=True)

    def end_line(self) -> None:
        if self._begun:
            print(flush=True)
        self._begun = False


class Conversation:
    """Prompts and turns, one after the other. `_turn` is the one under way."""

    def __init__(self, car: Car, agent: str, model: str | None, paper: Paper) -> None:
        self._car = car
        self._agent = agent
        self._model = model
        self._paper = paper
        self._session_id = new_session()
        self._turn: trio.CancelScope | None = None
        self._code = OK
        self._said = False
        self._input = Lines()

    async def interrupts(self) -> None:
        """Ctrl-C: ends the turn; between turns it ends a program in a pipe, and a person is told how to leave."""
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                if self._turn is not None:
                    self._turn.cancel()
                elif self._paper.asks:
                    self._paper.note(f"\n{HINTS}")
                    self._paper.prompt()
                else:
                    raise KeyboardInterrupt

    async def talk(self, around: trio.Nursery) -> int:
        """Until the input ends; returns the exit code."""
        around.start_soon(self._input.read)
        if self._paper.asks:
            await self._greet()
        self._paper.prompt()
        async for line in self._input:
            if line.strip():
                self._said = True
                await self._take_turn(line)
            self._paper.prompt()
        if self._paper.asks:
            print()
        if not self._said:
            await self._refuse_unknown()
        return self._code

    async def _greet(self) -> None:
        """Says with whom a person talks. An agent may be attached without having registered, so a name of which nobody
        has heard is no reason not to begin; one that is near to it is worth a word before the first prompt."""
        registered = await self._registered()
        unknown = no_such("registered agent", self._agent, registered)
        if self._agent not in registered and unknown.is_near:
            self._paper.note(one_line(str(unknown)), "yellow")
        self._paper.note(f"talking with {folded(self._agent, max(8, width() - len(HINTS) - 15))}; {HINTS}")

    async def _take_turn(self, prompt: str) -> None:
        is_over = False
        with trio.CancelScope() as self._turn:
            try:
                async with self._car.chat(
                    self._agent, prompt, session_id=self._session_id, model=self._model
                ) as said:
                    async for event in said:
                        await self._show(said, event)
                    is_over = True
            except CallRefused as refused:
                await self._refused(refused)
        if self._turn.cancelled_caught and not self._paper.json:
            self._paper.note("cancelled", "yellow")
        self._turn = None
        if not is_over:
            # The daemon may still have to say that the chat has ended; under a new name nobody mistakes that.
            self._session_id = new_session()

    async def _refused(self, refused: CallRefused) -> None:
        self._code = NO
        why = await self._not_there(refused)
        if not self._paper.asks:
            raise why
        self._paper.note(one_line(str(why)), "red")

    async def _not_there(self, refused: CallRefused) -> Exception:
        """The refusal, with the nearest agent if it is about one that is not attached."""
        if "is not attached" not in refused.message:
            return refused
        return FailedError(
            f"{refused.message}. In short, {no_such('registered agent', self._agent, await self._registered())}"
        )

    async def _refuse_unknown(self) -> None:
        """Raises FailedError for an agent of which nobody has heard: only a prompt would have found out more."""
        registered = await self._registered()
        if self._agent not in registered:
            raise FailedError(f"nothing was said, and {no_such('registered agent', self._agent, registered)}")

    async def _registered(self) -> list[str]:
        """The agents that registered and are connected."""
        known = await self._car.call("host.agents", None, list[HostAgent])
        return [agent.id for agent in known if agent.session_id is not None]

    async def _show(self, chat: Chat, event: ChatEvent) -> None:
        fields = event.fields
        if self._paper.json:
            say_json(fields)
            sys.stdout.flush()
        if event.kind == "error":
            self._code = NO
        if event.kind == "approval_pending":
            await self._decide(chat, fields)
        elif not self._paper.json:
            self._write(event.kind, fields)

    def _write(self, kind: str, fields: dict[str, Any]) -> None:
        match kind:
            case "token":
                self._paper.text(words(fields.get("delta")))
            case "done":
                # Who streamed said everything already; `text` is the whole of it once more.
                self._paper.text("" if self._paper.heard else words(fields.get("text")))
                self._paper.end_line()
            case "error":
                self._paper.note(f"error: {one_line(words(fields.get('error')))}", "red")
            case "tool_call":
                self._paper.note(f"  calls {on_a_line(fields.get('tool'))} {on_a_line(fields.get('params'))}")
            case _:
                rest = {name: value for name, value in fields.items() if name not in ENVELOPE}
                self._paper.note(f"  {on_a_line(kind)} {on_a_line(rest)}")

    async def _decide(self, chat: Chat, fields: dict[str, Any]) -> None:
        """Shows what is asked, and passes the answer on."""
        if not self._paper.json:
            self._paper.note(f"{on_a_line(fields.get('action'))}: the agent asks for approval", "yellow")
            details = msgspec.json.format(msgspec.json.encode(fields.get("details")), indent=2).decode()
            self._paper.note("\n".join(f"    {line}" for line in escaped(details).split("\n")))
        if self._paper.asks:
            print(styled("approve? [y/N] ", "bold"), end="", flush=True)
        answer = await self._input.next()
        decision = "approve" if (answer or "").strip().lower() in YES else "deny"
        try:
            taken = await chat.approve(words(fields.get("approval_id")), decision)
            said = decision if taken else f"{decision}, which the agent did not take"
        except CallRefused as refused:
            said = f"{decision}, which had no effect: {one_line(refused.message)}"
        if not self._paper.json:
            self._paper.note(f"    {said}")


class Lines:
    """The lines of standard input. The thread that waits for the next one is left behind when the conversation ends:
    a read from a terminal cannot be called off."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[str](0)

    async def read(self) -> None:
        """Reads until the input ends."""
        rest = b""
        async with self._send:
            while data := await trio.to_thread.run_sync(read_some, abandon_on_cancel=True):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    await self._send.send(line.decode(errors="replace"))
            if rest:
                await self._send.send(rest.decode(errors="replace"))

    def __aiter__(self) -> trio.MemoryReceiveChannel[str]:
        return self._receive

    async def next(self) -> str | None:
        """The next line; None after the last."""
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            return None


def read_some() -> bytes:
    return os.read(sys.stdin.fileno(), READ_BYTES)


def new_session() -> str:
    return f"chat-{uuid.uuid4()}"


def words(value: Any) -> str:
    """A field that should be text, as text."""
    return value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode()


def on_a_line(value: Any) -> str:
    return folded(words(value), max(20, width() - 20))

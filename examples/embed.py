"""A daemon inside this program, with a method of its own that does not run before a person approves it.

    $ python examples/embed.py

The method is `messages.send`. One client calls it, another one, a host, is asked and approves; then it runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import trio

from car_trio import Daemon, Method, connect
from car_trio.methods.context import Context
from car_trio.wire.errors import Refusal


class Message(msgspec.Struct):
    to: str
    text: str


class Sent(msgspec.Struct):
    sent_by: str | None


OUTBOX: list[Message] = []


def send(context: Context, message: Message) -> Sent:
    if not message.to:
        raise Refusal("messages.send: 'to' is empty; name a recipient")
    OUTBOX.append(message)
    return Sent(context.session.agent_id)


def embedded(home: Path) -> Daemon:
    daemon = Daemon(home, settings={"server.port": 0, "server.socket": "off"})
    daemon.add("messages.send", Method(Message, send, Sent, "Send a message."), gated=True)
    return daemon


async def approve_what_is_asked(home: Path) -> None:
    """A host. A person's screen would follow `host.event`, show the row and wait for a click."""
    async with connect(home=str(home), host=True) as host:
        while True:
            rows = (await host.call("host.approvals"))["approvals"]
            for row in rows:
                if row["status"] == "pending":
                    print(f"{row['action']} {msgspec.json.encode(row['details']).decode()}: approved")
                    await host.call("host.resolve_approval", {"approval_id": row["id"], "approved": True})
            await trio.sleep(0.05)


async def main(home: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(embedded(home).serve)
        nursery.start_soon(approve_what_is_asked, home)
        async with connect(home=str(home), agent_id="secretary") as car:
            sent = await car.call("messages.send", {"to": "ada", "text": "the engine runs"})
            print(f"sent by {sent['sent_by']}: {OUTBOX[-1].text}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        trio.run(main, Path(directory))

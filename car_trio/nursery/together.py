"""A stretch without a checkpoint in which many sockets are posted to, as when one flush settles many replies.

At its end each of them sends what it got, once, without waking its writer: for a small reply a writer's turn costs more
than the system call.
"""

from __future__ import annotations

from typing import Protocol


class Sender(Protocol):
    def send_now(self) -> None: ...


class Together:
    """A stretch without a checkpoint; it is entered by one place at a time."""

    def __init__(self) -> None:
        self._senders: list[Sender] | None = None

    def __enter__(self) -> None:
        self._senders = []

    def __exit__(self, *_: object) -> None:
        senders, self._senders = self._senders or [], None
        for sender in senders:
            sender.send_now()

    def takes(self, sender: Sender) -> bool:
        """Whether such a stretch is under way; then the sender takes part."""
        if self._senders is None:
            return False
        self._senders.append(sender)
        return True


TOGETHER = Together()
"""One per process, as there is one loop; it holds nothing outside its `with`."""

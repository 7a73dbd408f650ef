"""What a service manager wants to hear: sd_notify(3), without its library."""

from __future__ import annotations

import contextlib
import socket


def notify(address: str | None, message: str) -> None:
    """Sends one datagram to `NOTIFY_SOCKET`; without one, or when nobody listens, nothing happens."""
    if not address:
        return
    # A leading @ is how an abstract name is written in the environment.
    target = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        channel.sendto(message.encode(), target)

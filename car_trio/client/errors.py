"""What can go wrong for a client, one type per thing the caller would do about it.

`DaemonUnreachable`: start the daemon or correct the address. `CallRefused`: the daemon answered no; read why.
`TokenRefused` and `TokenUnreadable`: correct where the token comes from.
`Disconnected`: nobody knows whether the call took effect. `TurnsDropped` and `WatchReplaced` are answers that
look like success on the wire and would lose something if they were overlooked, so here they are exceptions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class CarError(Exception):
    """Every exception that the client library raises on its own account."""


class DaemonUnreachable(CarError):  # noqa: N818 - named for the situation, as the caller sees it
    """No daemon answers at `address`; the message says how the address was found and what to do next."""

    def __init__(self, address: str, found_by: str, why: str) -> None:
        super().__init__(
            f"no car daemon answers at {address} ({found_by}): {why}. "
            "Start one with `car-trio serve`, or point CAR_DAEMON_URL at a running one"
        )
        self.address = address
        self.why = why


class CallRefused(CarError):  # noqa: N818 - a refusal is an answer, not a defect
    """The daemon answered a call with an error: its JSON-RPC `code`, `message` and `data`."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class TokenRefused(CallRefused):
    """The daemon does not take the token of `CAR_AUTH_TOKEN`, which wins over the file that has the right one."""

    def __init__(self, refused: CallRefused) -> None:
        super().__init__(
            refused.code,
            "auth failed: the token in CAR_AUTH_TOKEN is not this daemon's; unset CAR_AUTH_TOKEN or correct it",
            refused.data,
        )


class TokenUnreadable(CarError):  # noqa: N818 - named for the situation, as the caller sees it
    """The file of the host token is there and cannot be read, so the host role cannot be had."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"the host token {path} cannot be read: {why}; make it a file that you can read, or ask as the user "
            "who started the daemon"
        )
        self.path = path


class Disconnected(CarError):  # noqa: N818 - named for the situation, as the caller sees it
    """The socket is gone. A call that was under way may or may not have taken effect; it is never sent
    again."""


class TurnsDropped(CarError):  # noqa: N818 - `dropped` is the protocol's word
    """The daemon recorded none of a batch of turns. `recorded` turns of the same `record` call came before
    it."""

    def __init__(self, run_id: str, reason: str, recorded: int) -> None:
        advice = ADVICE.get(reason, "the reason is the daemon's")
        super().__init__(f"turns of run {run_id!r} were not recorded: {reason} ({advice})")
        self.run_id = run_id
        self.reason = reason
        self.recorded = recorded


class RunNotCurrent(CarError):  # noqa: N818 - named for the situation, as the caller sees it
    """A plan that would have been recorded in another run of the connection, `current`, or in none. Nothing was
    submitted."""

    def __init__(self, run_id: str, current: str | None) -> None:
        where = "in none" if current is None else f"in run {current!r}, which was started later"
        super().__init__(
            f"run {run_id!r} is not the current one of this connection: the plan would be recorded {where}; "
            "give each run a connection of its own, or tell its turns with record()"
        )
        self.run_id = run_id
        self.current = current


ADVICE = {
    "run_not_found": "unknown, or another agent's: only a connection bound to the run's agent writes turns; "
    "connect(agent_id=...) binds",
    "run_terminal": "the run has ended; start another one",
    "run_turn_limit": "the batch would pass the run's ceiling of turns",
    "turn_too_large": "a turn stays over 256 KiB after its long strings were cut",
}


class WatchReplaced(CarError):  # noqa: N818 - named for the situation, as the caller sees it
    """Another watch of the same run, or of the host events (`run_id` is None), was opened on the same
    connection; the daemon sends events only to the newest."""

    def __init__(self, run_id: str | None) -> None:
        what = "the host events" if run_id is None else f"run {run_id!r}"
        super().__init__(f"another watch of {what} on this connection replaced this one")
        self.run_id = run_id


class ChatOverrun(CarError):  # noqa: N818 - named for the situation, as the caller sees it
    """The agent spoke faster than its events were read, and some are lost: they cannot be asked for again."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"chat {session_id!r} was read too slowly: events of it are lost; start another one")
        self.session_id = session_id


class TerminalToolError(Exception):
    """Raised by a tool to say that trying again is pointless: the daemon stops the proposal whatever the
    action says."""

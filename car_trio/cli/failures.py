"""What went wrong, as one line for a person and an exit code for a program: the only place that decides either.

Errors of libraries are looked at only if the library was imported, so that a command which reads files does not load
the client to fail.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from car_trio.cli.app import DAMAGED, NO, OK, UNAUTHORISED, UNREACHABLE, USAGE
from car_trio.cli.streams import OutputError, let_go
from car_trio.config import ConfigError
from car_trio.wire.errors import NOT_AUTHENTICATED, Refusal
from car_trio.wire.text import one_line


class FailedError(Exception):
    """A command's own no: what it is about, why, what to do next, and the exit code."""

    def __init__(self, message: str, code: int = NO, *, is_near: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_near = is_near
        """It is about a name, and names another that is like it."""


LISTS = {
    "run": "car-trio runs ls",
    "agent": "car-trio runs ls",
    "registered agent": "car-trio agents ls",
    "approval": "car-trio approvals ls",
    "tool": "car-trio runs show RUN",
    "method": "car-trio call rpc.discover",
}


def no_such(what: str, name: str, known: Iterable[str]) -> FailedError:
    """For a name that does not exist: says so, and the nearest that does, or where to look."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1, cutoff=0.4)
    hint = f"the nearest is '{near[0]}'" if near else f"{LISTS[what]} lists what there is"
    return FailedError(f"there is no {what} '{name}'; {hint}", is_near=bool(near))


def explain(error: Exception, command: str = "COMMAND") -> int | None:
    """Says what went wrong in a command and returns the exit code; None for a defect, which deserves its traceback."""
    if isinstance(error, BrokenPipeError | OutputError):
        let_go()
    if isinstance(error, BrokenPipeError):
        return OK  # whoever read along has seen enough
    code = _code(error)
    if code is not None:
        said = one_line(" ".join(_said(error).split()))
        hint = f" (car-trio {command} --help shows its options)" if _is_of_cyclopts(error) else ""
        print(f"car-trio: {said}{hint}", file=sys.stderr)
    return code


def _said(error: Exception) -> str:
    """The error's own words; for what cyclopts says of words that it could not place, ours."""
    words: list[str] = getattr(error, "unused_tokens", None) or []
    match type(error).__name__ if _is_of_cyclopts(error) else "":
        case "UnusedCliTokensError":
            return f"nothing more is expected at {' '.join(map(repr, words))}"
        case "MissingArgumentError" if (flag := getattr(error, "keyword", None)) in words[:-1]:
            word = words[words.index(flag) + 1]
            sign = f"; an age is written without a sign: {flag} {word[1:]}" if word[1:2].isdigit() else ""
            return f"{flag} wants a value, and {word!r} is taken for a flag{sign}"
        case _:
            return str(error)


def _code(error: Exception) -> int | None:
    match error:
        case FailedError():
            return error.code
        case ConfigError() | Refusal():
            return USAGE
        case _ if _is_of_cyclopts(error):
            return USAGE
        case OSError():
            return DAMAGED if error.filename is not None and not isinstance(error, PermissionError) else USAGE
        case _ if "car_trio.client.errors" in sys.modules:
            return _client_code(error)
        case _ if "car_trio.store.lock" in sys.modules:
            return _store_code(error)
        case _:
            return None


def _is_of_cyclopts(error: Exception) -> bool:
    cyclopts = sys.modules.get("cyclopts")
    return cyclopts is not None and isinstance(error, cyclopts.CycloptsError)


def _store_code(error: Exception) -> int | None:
    from car_trio.store.lock import StoreBusy

    return NO if isinstance(error, StoreBusy) else None


def _client_code(error: Exception) -> int | None:
    from car_trio.client.errors import CallRefused, DaemonUnreachable, Disconnected, TokenUnreadable

    match error:
        case DaemonUnreachable() | Disconnected():
            return UNREACHABLE
        case TokenUnreadable():
            return UNAUTHORISED
        case CallRefused():
            refused = error.code == NOT_AUTHENTICATED or any(word in error.message for word in DENIALS)
            return UNAUTHORISED if refused else NO
        case _:
            return _store_code(error)


DENIALS = ("auth failed", "auth required", "not authorized", "is for hosts", "needs the host role")
"""Ordinary refusals share one code in this protocol; these words tell those about the right to ask."""

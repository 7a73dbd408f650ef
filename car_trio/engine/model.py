"""Reading a proposal (protocol `engine.md` section 5).

msgspec decodes and checks in one pass. Only when it says no does `explain` look again, to say why in the
reference library's words. A proposal may come as JSON text or decoded; the daemon reads its bytes with
`parse_strict`, which refuses a key that stands twice in one object: two readers could take different values
from it, so what was verified or approved might not be what runs.

A large proposal is read piece by piece, because one call that decodes it all would keep everybody else waiting, in
whatever thread it is made. What comes out, and what is said against it, is the same; but a number that cannot be read
is refused also where nobody would look at it.
"""

from __future__ import annotations

import json
import json.scanner
import re
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from car_trio.engine.explain import Misfit, misfit, pointer, syntax_error
from car_trio.engine.values import MAX_DEPTH, is_list, is_object, too_deep
from car_trio.wire.frames import DEEPEST_VALUE, is_utf8
from car_trio.wire.pieces import Repeated, TooMany, at_once, decoded_in_steps, most_containers
from car_trio.wire.proposals import Action, Proposal

LARGE_BYTES: Final = 256 * 1024
ACTIONS_AT_ONCE: Final = 1000
PREFIX: Final = "invalid proposal JSON: "
_FREE_FORM_DEPTH: Final = 3
"""How deep `parameters` and its like stand in a proposal."""
_SHORT: Final = 16 * 1024
_DEEPEST: Final = MAX_DEPTH - _FREE_FORM_DEPTH

_scanners: Any = json.scanner
_decoder = msgspec.json.Decoder(Proposal)
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(?:([Zz])|([+-]\d\d:?\d\d))", re.ASCII
)


class InvalidProposal(ValueError):  # noqa: N818 - an answer, not a defect
    """The proposal cannot be read. The text ends in a JSON pointer to what is wrong with it."""


class _Twice:
    """Stands in a decoded document for an object in which `key` stands more than once."""

    def __init__(self, key: str) -> None:
        self.key = key


def parse(proposal: Any, prefix: str = PREFIX, deepest: int = _DEEPEST) -> Proposal:
    """The proposal with every default filled in; its values nest at most so deep. Raises `InvalidProposal`."""
    try:
        decoded = _decode(proposal)
        return _normalised(decoded, deepest if _may_be_deep(proposal, deepest) else None)
    except Misfit as reason:
        raise InvalidProposal(f"{prefix}{reason}") from None
    except RecursionError:
        raise InvalidProposal(f"{prefix}recursion limit exceeded at /") from None


def parse_strict(given: bytes | msgspec.Raw, prefix: str = PREFIX) -> Proposal:
    """Like `parse`, for bytes from outside: also refuses a duplicate key anywhere in them, and values that nest too
    deep to come back to who sent them. What is `Raw` has passed a decoder's grammar as part of its message."""
    raw = bytes(given)
    if len(raw) > LARGE_BYTES and (isinstance(given, msgspec.Raw) or _is_json(raw)):
        return _parse_large(raw, prefix)
    proposal = parse(raw, prefix, DEEPEST_VALUE)
    if len(raw) <= _SHORT and _is_as_we_write(raw):
        return proposal
    try:
        path = _duplicate(raw)
    except RecursionError:
        raise InvalidProposal(f"{prefix}recursion limit exceeded at /") from None
    except ValueError:  # in a field that the decoder skipped because it does not know it
        raise InvalidProposal(f"{prefix}{syntax_error(raw)}") from None
    if path:
        raise InvalidProposal(f"{prefix}duplicate key `{path[-1]}` at {pointer(path)}")
    return proposal


def _is_as_we_write(raw: bytes) -> bool:
    """Whether the text is, but for the space between its tokens, what its decoded value is encoded to: then no key
    stands twice in it. Most texts are, and where they are not long this is faster than looking at each object."""
    try:
        return msgspec.json.format(raw, indent=-1) == msgspec.json.encode(msgspec.json.decode(raw))
    except (ValueError, RecursionError):  # looking at each object tells what is wrong
        return False


def _may_be_deep(proposal: Any, deepest: int) -> bool:
    """Whether values can nest too deeply: not in a text with fewer brackets than that. Of a long one it is faster to
    look at the values."""
    if not isinstance(proposal, (str, bytes, bytearray)) or len(proposal) > _SHORT:
        return True
    if isinstance(proposal, str):
        return proposal.count("{") + proposal.count("[") > deepest
    return proposal.count(b"{") + proposal.count(b"[") > deepest


def _is_json(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return is_utf8(raw)


def _parse_large(raw: bytes, prefix: str) -> Proposal:
    """The same piece by piece, for a thread: others go on meanwhile."""
    most = most_containers(len(raw))
    try:
        try:
            return _normalised(_converted(at_once(decoded_in_steps(raw, sys.maxsize, most, unique=True))))
        except Repeated:
            # What else is wrong with it is said first.
            _normalised(_converted(at_once(decoded_in_steps(raw, sys.maxsize, most))))
        path = _duplicate(raw, _Patient)
    except TooMany as error:
        raise InvalidProposal(f"{prefix}{error} at /") from None
    except msgspec.ValidationError:
        raise InvalidProposal(f"{prefix}number out of range at /") from None
    except Misfit as reason:
        raise InvalidProposal(f"{prefix}{reason}") from None
    except RecursionError:
        raise InvalidProposal(f"{prefix}recursion limit exceeded at /") from None
    raise InvalidProposal(f"{prefix}duplicate key `{path[-1]}` at {pointer(path)}")


def _converted(document: Any) -> Proposal:
    """The document as a proposal, some actions at a time."""
    actions: Any = document.get("actions") if is_object(document) else None
    try:
        if not is_list(actions):
            return msgspec.convert(document, Proposal)
        head = msgspec.convert({**document, "actions": []}, Proposal)
        for at in range(0, len(actions), ACTIONS_AT_ONCE):
            head.actions.extend(msgspec.convert(actions[at : at + ACTIONS_AT_ONCE], list[Action]))
    except msgspec.ValidationError:
        raise misfit(document) or Misfit("invalid value at /") from None
    return head


class _Patient(json.JSONDecoder):
    """Decodes in Python itself: slowly, and without keeping the interpreter from anybody."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.scan_once: Any = _scanners.py_make_scanner(self)


def plain(argument: Any) -> Any:
    """An argument that may be JSON text, decoded."""
    if isinstance(argument, (str, bytes, bytearray)):
        return msgspec.json.decode(argument)
    return argument


def _duplicate(raw: bytes, decoder: type[json.JSONDecoder] = json.JSONDecoder) -> list[str]:
    """The path of a key that stands twice in one object; empty when there is none."""
    twice: list[_Twice] = []

    def build(pairs: list[tuple[str, Any]]) -> Any:
        built = dict(pairs)
        if len(built) == len(pairs):
            return built
        counts = Counter(key for key, _ in pairs)
        twice.append(_Twice(next(key for key in counts if counts[key] > 1)))
        return twice[-1]

    document = json.loads(raw, cls=decoder, object_pairs_hook=build, parse_int=_unread, parse_float=_unread)
    return _path_to_twice(document) if twice else []


def _unread(number: str) -> None:
    """Only keys matter here, and reading a long enough integer takes minutes."""


def _path_to_twice(document: Any) -> list[str]:
    if isinstance(document, _Twice):
        return [document.key]
    members: Iterable[tuple[Any, Any]] = ()
    if is_object(document):
        members = document.items()
    elif is_list(document):
        members = enumerate(document)
    for key, value in members:
        if path := _path_to_twice(value):
            return [str(key), *path]
    return []


def _decode(proposal: Any) -> Proposal:
    try:
        if isinstance(proposal, (str, bytes, bytearray)):
            return _decoder.decode(proposal)
        return msgspec.convert(proposal, Proposal)
    except (msgspec.DecodeError, UnicodeError):
        raise _reason(proposal) from None


def _reason(proposal: Any) -> Misfit:
    """Why msgspec refused it: the text is not JSON, holds a number no double reaches, or is no proposal."""
    try:
        document = plain(proposal)
    except msgspec.ValidationError:
        return Misfit("number out of range at /")
    except (msgspec.DecodeError, UnicodeError):
        return Misfit(syntax_error(proposal))
    return misfit(document) or Misfit("invalid value at /")


def _normalised(proposal: Proposal, deepest: int | None = DEEPEST_VALUE) -> Proposal:
    if deepest is not None:
        _bound_depth(proposal, deepest)
    timestamp = utc(proposal.timestamp)
    if timestamp == proposal.timestamp:
        return proposal
    return msgspec.structs.replace(proposal, timestamp=timestamp)


def _bound_depth(proposal: Proposal, deepest: int) -> None:
    for place, action in enumerate(proposal.actions):
        if any(too_deep(value, deepest) for value in action.free_form()):
            raise Misfit(f"recursion limit exceeded at /actions/{place}")
    if too_deep(proposal.context, MAX_DEPTH - 1):
        raise Misfit("recursion limit exceeded at /context")


def utc(timestamp: str) -> str:
    """The same moment in UTC with `Z` and 0, 3, 6 or 9 digits of a second. Raises `Misfit`."""
    found = _TIME.fullmatch(timestamp)
    if found is None:
        raise Misfit("input contains invalid characters at /timestamp")
    day, time, fraction, zulu, offset = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{time}")
        if not zulu:
            moment = datetime.fromisoformat(f"{day}T{time}{offset}").astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise Misfit("input is out of range at /timestamp") from None
    return f"{moment.isoformat()}{_fraction(fraction or '')}Z"


def _fraction(digits: str) -> str:
    digits = digits.rstrip("0")
    if not digits:
        return ""
    return "." + digits.ljust(-(-len(digits) // 3) * 3, "0")

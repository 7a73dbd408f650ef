"""What may go into a record, and how big (protocol `runs.md` section 2, "record_turns").

Everything an agent says is bounded here, once, before it is written: long strings are cut at a character boundary
and leave their full length and digest behind, a turn that is still too long loses whole fields, in a fixed order.
Cutting never depends on anything but the value, so the same turn is cut the same way wherever it comes from.

Every `Raw` that passes has been decoded once: a record that a reader cannot decode must not get into a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from typing import NamedTuple, get_args

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from car_trio.wire.errors import invalid_params
from car_trio.wire.frames import DEEPEST_VALUE, Json, encode
from car_trio.wire.pieces import PIECE_BYTES, TooDeep, at_once, block, may_be_unreadable, read_in_steps
from car_trio.wire.runs import (
    AgentOutcome,
    CliOutcome,
    Cut,
    Ended,
    EvidenceKind,
    NarratedTurn,
    Started,
    Turn,
    Verdict,
)

MAX_STRING_BYTES = 16_384
MAX_LINE_BYTES = 262_144
CUT_MARK = "…[truncated]"
FIELD_MARK = "…[truncated: turn exceeded 256 KiB]"
BLOCK_BYTES = 8192
"""Half of what a cut leaves of a string: how finely a large payload is looked at before it is read."""
REPLACED_IN_ORDER = ("output", "parameters", "prompt")

EVIDENCE_KINDS = frozenset(get_args(EvidenceKind))


class TurnTooLarge(Exception):  # noqa: N818 - an answer (`dropped`), not a defect
    """A turn whose line passes `MAX_LINE_BYTES` even without output, parameters and prompt."""


Cuts = dict[str, Cut]


def cut_text(text: str, path: str, cuts: Cuts) -> str:
    """`text` whole, or its first 16,384 bytes and a mark; a cut is noted under `path`."""
    if len(text) * 4 <= MAX_STRING_BYTES:
        return text
    whole = text.encode()
    if len(whole) <= MAX_STRING_BYTES:
        return text
    cuts[path] = _cut_of(whole)
    return whole[:MAX_STRING_BYTES].decode(errors="ignore") + CUT_MARK


def _cut_of(whole: bytes) -> Cut:
    return Cut(len(whole), hashlib.sha256(whole).hexdigest())


def cut_value(value: Json, path: str, cuts: Cuts) -> Json:
    """A decoded JSON value with every string inside it cut; keys of objects are left alone."""
    if isinstance(value, str):
        return cut_text(value, path, cuts)
    if isinstance(value, list):
        return [cut_value(item, f"{path}/{i}", cuts) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: cut_value(item, f"{path}/{_pointer(key)}", cuts) for key, item in value.items()}
    return value


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def cut_raw(raw: Raw, path: str, cuts: Cuts, *, is_ours: bool = False) -> Raw:
    """A payload, read once for the readers' sake and passed on as the bytes it came as unless a string was cut.

    `is_ours`: we have encoded it ourselves, so it can be read. What is too long for a record however it is cut is
    passed on as it is: it is never written.

    Raises Refusal (-32602) for a value that cannot be decoded (a number out of range, say).
    """
    whole = bytes(raw)
    is_large = len(whole) > MAX_STRING_BYTES
    kept, may_have_long = _looked_at(whole) if is_large else (0, False)
    if kept > MAX_LINE_BYTES:
        # It will be replaced by a mark, unread, or its record refused.
        return raw
    if not is_ours:
        _bound_depth(whole, path)
    if may_have_long:
        before = len(cuts)
        cut = cut_value(_decoded(whole, path), path, cuts)
        if len(cuts) > before:
            return Raw(encode(cut))
    elif not (is_ours or (is_large and not may_be_unreadable(whole))):
        _decoded(whole, path)
    # A line break between tokens is legal JSON but would end the record's line early.
    return Raw(msgspec.json.format(whole, indent=-1)) if b"\n" in whole or b"\r" in whole else raw


def _bound_depth(whole: bytes, path: str) -> None:
    if whole.count(b"[") + whole.count(b"{") > DEEPEST_VALUE:
        try:
            at_once(read_in_steps(whole, DEEPEST_VALUE))
        except (msgspec.MsgspecError, TooDeep) as error:
            raise invalid_params(f"{path} cannot be read back: {error}") from None


def _decoded(whole: bytes, path: str) -> Json:
    try:
        value: Json = msgspec.json.decode(whole)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_params(f"{path} cannot be read back: {error or 'nested too deeply'}") from None
    return value


def _looked_at(whole: bytes) -> tuple[int, bool]:
    """How many bytes no cut takes away, at least, and whether a string is long enough to be cut; perhaps it is not.

    A string that is to be cut has a whole block inside of it, and a cut takes away such blocks only: of the string it
    leaves more than the rest of its last block. So everything else counts. Nothing is decoded for this.
    """
    at = kept = 0
    within = may_have_long = False
    while at < len(whole):
        part = block(whole, at, BLOCK_BYTES)
        quotes = part.count(b'"')
        if within and not quotes:
            may_have_long = True
        else:
            kept += len(part)
        within ^= quotes % 2 == 1
        at += len(part)
    return kept, may_have_long


_NO_TEXT = Raw(b"null")


class _Members(Struct):
    """The members of a payload that matter here; the others are passed over unread."""

    kind: Raw = _NO_TEXT
    prompt: Raw = _NO_TEXT


def _members(raw: Raw) -> _Members:
    try:
        return msgspec.json.decode(raw, type=_Members)
    except (msgspec.MsgspecError, RecursionError):
        return _Members()


def _text(raw: Raw) -> str | None:
    """What is a string; anything else is not decoded."""
    return msgspec.json.decode(raw, type=str) if bytes(memoryview(raw)[:1]) == b'"' else None


def cli_outcome_of(output: Raw | UnsetType) -> CliOutcome | UnsetType:
    """The command-line outcome in a tool's result, when the result has that shape."""
    if output is UNSET or b'"output_tail"' not in bytes(output):
        return UNSET
    try:
        return msgspec.json.decode(output, type=CliOutcome)
    except msgspec.MsgspecError:
        return UNSET


def verdict_of(outcome: CliOutcome | UnsetType) -> Verdict:
    """`passed` for exit code 0 in time, `failed` for any other command-line outcome, else `not_run`."""
    if outcome is UNSET:
        return "not_run"
    return "passed" if outcome.exit_code == 0 and not outcome.timed_out else "failed"


class Body(NamedTuple):
    """A turn's record, encoded, without its position: `rest` is what follows the index in the line."""

    tool: str | None
    rest: bytes


_BEFORE_INDEX = b'{"record":"turn","index":'
_INDEX_DIGITS = 10


def stamped(body: Body, index: int) -> bytes:
    """The record at this position: the line in the file, the event and the replay are these bytes."""
    return b"%b%d%b" % (_BEFORE_INDEX, index, body.rest)


def narrated(turn: NarratedTurn, recorded_at: str) -> Body:
    """A turn as an agent tells it, cut to size and encoded.

    Raises `TurnTooLarge` when no cut makes it fit, Refusal (-32602) for a payload that cannot be decoded.
    """
    cuts: Cuts = {}
    record = Turn(
        index=0,
        prompt=UNSET if turn.prompt is None else cut_text(turn.prompt, "prompt", cuts),
        tool=UNSET if turn.tool is None else turn.tool,
        parameters=_cut_payload(turn.parameters, "parameters", cuts),
        output=_cut_payload(turn.output, "output", cuts),
        cli_outcome=UNSET if turn.cli_outcome is None else turn.cli_outcome,
        verifier_verdict=turn.verifier_verdict,
        policy_rejected=UNSET if turn.policy_rejected is None else turn.policy_rejected,
        recorded_at=recorded_at,
        truncated=cuts or UNSET,
    )
    return _encoded(record, {"output": turn.output, "parameters": turn.parameters})


def received_bytes(turn: NarratedTurn) -> int:
    """How much there is to look at."""
    prompt = 0 if turn.prompt is None else len(turn.prompt)
    return prompt + _size(turn.parameters) + _size(turn.output)


def _size(raw: Raw | UnsetType) -> int:
    return 0 if raw is UNSET else len(memoryview(raw))


def _cut_payload(raw: Raw | UnsetType, path: str, cuts: Cuts) -> Raw | UnsetType:
    return UNSET if raw is UNSET else cut_raw(raw, path, cuts)


def executed(
    *,
    tool: str | None,
    parameters: Raw,
    output: Raw | UnsetType,
    status: str,
    error: str | None,
    action_id: str,
    proposal_id: str,
    recorded_at: str,
) -> Body:
    """A turn from a row of a proposal. Nothing in it may be refused, so every text of it is cut, not only the ones
    that a narrated turn may have cut."""
    cuts: Cuts = {}
    prompt = _text(_members(parameters).prompt)
    cli = cli_outcome_of(output)
    if cli is not UNSET:
        cli.output_tail = cut_text(cli.output_tail, "cli_outcome/output_tail", cuts)
        cli.cli = cli.cli if cli.cli is None else cut_text(cli.cli, "cli_outcome/cli", cuts)
    record = Turn(
        index=0,
        prompt=UNSET if prompt is None else cut_text(prompt, "prompt", cuts),
        tool=UNSET if tool is None else cut_text(tool, "tool", cuts),
        parameters=cut_raw(parameters, "parameters", cuts, is_ours=True),
        output=_cut_payload(output, "output", cuts),
        cli_outcome=cli,
        verifier_verdict=verdict_of(cli),
        policy_rejected=True if status == "rejected" else UNSET,
        recorded_at=recorded_at,
        status=status,
        error=UNSET if error is None else cut_text(error, "error", cuts),
        action_id=cut_text(action_id, "action_id", cuts),
        proposal_id=cut_text(proposal_id, "proposal_id", cuts),
        truncated=cuts or UNSET,
    )
    return _encoded(record, {"output": output, "parameters": parameters})


def _encoded(turn: Turn, received: dict[str, Raw | UnsetType]) -> Body:
    """Encodes the turn, replacing whole fields by a mark, in order, only as far as needed."""
    line = encode(turn)
    for name in REPLACED_IN_ORDER:
        if len(line) <= MAX_LINE_BYTES - _INDEX_DIGITS:
            break
        _replace(turn, name, received.get(name, UNSET))
        line = encode(turn)
    else:
        if len(line) > MAX_LINE_BYTES - _INDEX_DIGITS:
            raise TurnTooLarge
    return Body(None if turn.tool is UNSET else turn.tool, line[len(_BEFORE_INDEX) + 1 :])


def _whole(sent: Raw | str) -> bytes:
    """What a digest is of: the text of a string, of anything else the JSON as it came."""
    if isinstance(sent, str):
        return sent.encode()
    text = _text(sent)
    return bytes(sent) if text is None else text.encode()


def _replace(turn: Turn, name: str, received: Raw | UnsetType) -> None:
    value: Raw | str | UnsetType = getattr(turn, name)
    if value is UNSET:
        return
    cuts = {} if turn.truncated is UNSET else turn.truncated
    # The digest is of what was sent: a prompt that was cut before has left it already.
    whole = _whole(received if isinstance(received, Raw) else value)
    kept = {path: cut for path, cut in cuts.items() if not path.startswith(f"{name}/")}
    turn.truncated = {**kept, name: cuts.get(name) or _cut_of(whole)}
    setattr(turn, name, FIELD_MARK if isinstance(value, str) else Raw(encode(FIELD_MARK)))


def started_line(record: Started) -> bytes:
    """The first line of a run. Raises Refusal (-32602) when it is too long whatever is cut."""
    cuts: Cuts = {}
    record.intent = cut_text(record.intent, "intent", cuts)
    if record.outcome_description is not None:
        record.outcome_description = cut_text(record.outcome_description, "outcome_description", cuts)
    record.truncated = cuts or None
    return _bounded(encode(record), "runs.start")


def ended_line(record: Ended, cuts: Cuts | None = None) -> bytes:
    """The last line of a run, whose outcome was cut before: `cuts`. Raises Refusal (-32602) for a line too long."""
    record.truncated = cuts or None
    return _bounded(encode(record), "runs.complete")


def cut_outcome(outcome: AgentOutcome, cuts: Cuts) -> Generator[None, None, None]:
    """Cuts an outcome to size, some evidence in a step. Raises Refusal (-32602) for evidence without a known kind."""
    outcome.summary = cut_text(outcome.summary, "termination/outcome/summary", cuts)
    kept: list[Raw] = []
    looked_at = 0
    for i, item in enumerate(outcome.evidence):
        kept.append(cut_raw(item, f"termination/outcome/evidence/{i}", cuts))
        if _text(_members(item).kind) not in EVIDENCE_KINDS:
            expected = ", ".join(sorted(EVIDENCE_KINDS))
            raise invalid_params(f"runs.complete: outcome.evidence[{i}].kind must be one of {expected}")
        looked_at += len(memoryview(item))
        if looked_at > PIECE_BYTES:
            looked_at = 0
            yield
    outcome.evidence = kept


def _bounded(line: bytes, method: str) -> bytes:
    if len(line) > MAX_LINE_BYTES:
        raise invalid_params(
            f"{method}: the record has {len(line)} bytes, at most {MAX_LINE_BYTES} fit; shorten it"
        )
    return line

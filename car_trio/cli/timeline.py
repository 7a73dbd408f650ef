"""A run as a person reads it: what each record becomes on the screen. Pure: records in, lines out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC

import msgspec
from msgspec import UNSET, Raw, UnsetType

from car_trio.cli.saying import counts, cuts, ended_badly, evidence, exit_of, is_in_output
from car_trio.cli.screen import (
    ago,
    columns,
    counted,
    folded,
    human_size,
    is_terminal,
    lasting,
    moment,
    padded,
    seconds_between,
    styled,
    toned,
    width,
)
from car_trio.wire.runs import CatalogRow, CliOutcome, Cut, Damaged, Ended, Outcome, Started, Turn
from car_trio.wire.text import escaped

KNOWN: msgspec.json.Decoder[Started | Turn | Ended | Damaged] = msgspec.json.Decoder(
    Started | Turn | Ended | Damaged
)
INDENT = " " * 7


def decoded(raw: bytes) -> Started | Turn | Ended | Damaged | None:
    """A record; None for one that this version does not know."""
    try:
        return KNOWN.decode(raw)
    except msgspec.ValidationError:
        return None


def heading(row: CatalogRow) -> Iterator[str]:
    """What is known of a run before its first turn."""
    room = width() - 8
    end = f" {toned(row.outcome)}" if row.outcome else ""
    yield f"{styled('run', 'dim')}     {styled(folded(row.run_id, room), 'bold')}"
    yield f"{styled('agent', 'dim')}   {folded(row.agent_id, room)}"
    yield f"{styled('intent', 'dim')}  {folded(row.intent, room)}"
    if row.outcome_description:
        yield f"{styled('wanted', 'dim')}  {folded(row.outcome_description, room)}"
    size = f"{counted(row.turn_count, 'turn')}, {human_size(row.bytes)}"
    took = f", took {lasting(seconds_between(row.started_at, row.ended_at))}" if row.ended_at else ""
    yield f"{styled('status', 'dim')}  {toned(row.status)}{end}, {size}{took}"
    yield f"{styled('began', 'dim')}   {folded(began(row.started_at), room)}"
    yield ""


def began(at: str) -> str:
    """A time as a person says it; in a pipe as it is."""
    then = moment(at)
    if then is None or not is_terminal():
        return at
    return f"{then.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {ago(at)}"


class Timeline:
    """Lines of one run's records, in order: one of each payload, or with `whole` every byte of it. A turn took as long
    as it is after the record before it. `taken` columns of the terminal are somebody else's; with `begins` the start of
    the run has a line of its own, for where there is no heading."""

    def __init__(self, *, whole: bool = False, begins: bool = False, taken: int = 0) -> None:
        self._whole = whole
        self._begins = begins
        self._taken = taken
        self._last: str | None = None

    def after(self, raw: bytes | None) -> None:
        """The next record comes after this one, which is not shown; None when nobody knows which that is."""
        match decoded(raw) if raw is not None else None:
            case Turn(recorded_at=str() as at) | Started(started_at=at):
                self._last = at
            case _:
                self._last = None

    def lines(self, raw: bytes) -> Iterator[str]:
        match decoded(raw):
            case Started() as started:
                yield from self._start(started)
            case Turn() as turn:
                yield from self._turn(turn)
            case Ended() as ended:
                yield from self._end(ended)
            case Damaged() as damaged:
                where = f" of continuation {damaged.segment}" if damaged.segment else ""
                yield styled(f"     ! line {damaged.line}{where} is damaged", "red")
            case None:
                yield f"     ? {self._text(raw.decode(errors='replace'))}"

    def _start(self, started: Started) -> Iterator[str]:
        self._last = started.started_at
        if self._begins:
            agent = folded(started.agent_id, 24)
            intent = folded(started.intent, max(20, width() - self._taken - columns(agent) - 13))
            yield f"begins, of {styled(agent, 'bold')}: {intent}"
        yield from self._cuts(started.truncated)

    def _turn(self, turn: Turn) -> Iterator[str]:
        at = _or_none(turn.recorded_at)
        took = lasting(seconds_between(self._last, at))
        self._last = at or self._last
        words = [word for word in (_or_none(turn.status), _verdict(turn)) if word]
        if turn.policy_rejected is True and "rejected" not in words:
            words.append("rejected")
        name = padded(folded(_or_none(turn.tool) or "says", 28), 20)
        said = " ".join(toned(word) for word in words)
        yield f"{turn.index:5}  {styled(name, 'bold')} {took:>8}  {said}".rstrip()
        yield from self._field("  ", _or_none(turn.prompt))
        yield from self._payload("← ", turn.parameters)
        yield from self._payload("→ ", turn.output)
        if turn.cli_outcome is not UNSET:
            yield from self._program(turn, turn.cli_outcome)
        yield from self._field("✗ ", _or_none(turn.error), "red")
        yield from self._cuts(turn.truncated)
        if self._whole:
            yield from self._field("  ", ", ".join(_identity(turn)) or None, "dim")

    def _program(self, turn: Turn, cli: CliOutcome) -> Iterator[str]:
        """How a program ended, and what it printed last unless the output has said so."""
        is_bad = ended_badly(cli)
        program = f"{cli.cli}  " if cli.cli else ""
        yield from self._field("$ ", f"{program}{exit_of(cli)}", "red" if is_bad else None)
        tail = cli.output_tail.rstrip()
        if not tail or (is_in_output(cli.output_tail, turn) and (self._whole or not is_bad)):
            return
        # Of a program that failed the end says why, and where a line is all there is, that is the last one.
        *before, last = tail.split("\n")
        shown = f"… {last}" if before and is_terminal() and not self._whole else tail
        yield from self._field("⋮ ", shown)

    def _end(self, ended: Ended) -> Iterator[str]:
        took = lasting(seconds_between(self._last, ended.ended_at))
        if not isinstance(ended.termination, Outcome):
            yield f"  end  {toned('incomplete')}: {ended.termination.reason}"
            return
        outcome = ended.termination.outcome
        yield f"  end  {toned(outcome.status, 20)} {took:>8}"
        yield from self._field("  ", outcome.summary or None)
        pieces = list(evidence(outcome))
        for piece in pieces if self._whole else [f"[{','.join(pieces)}]"] if pieces else []:
            yield from self._field("evidence  ", piece)
        yield from self._field("counted   ", counts(outcome.metrics) or None)
        yield from self._cuts(ended.truncated)

    def _cuts(self, truncated: Mapping[str, Cut] | UnsetType | None) -> Iterator[str]:
        for cut in cuts(truncated):
            yield from self._field("… ", cut, "yellow")

    def _payload(self, mark: str, payload: Raw | UnsetType) -> Iterator[str]:
        if payload is UNSET:
            return
        # A cut of the bytes first: what one line shows is not worth decoding a quarter of a megabyte for.
        raw = bytes(payload)
        text = (raw if self._whole or not is_terminal() else raw[:2000]).decode(errors="replace")
        yield from self._field(mark, text)

    def _field(self, mark: str, text: str | None, style: str | None = None) -> Iterator[str]:
        if text is None:
            return
        first = f"{INDENT}{mark}"
        if not self._whole:
            yield styled(first + self._text(text, len(first)), style)
            return
        for line in text.split("\n"):
            yield styled(first + escaped(line), style)
            first = " " * len(first)

    def _text(self, text: str, taken: int = 7) -> str:
        return escaped(text) if self._whole else folded(text, max(20, width() - self._taken - taken))


def _identity(turn: Turn) -> Iterator[str]:
    """When a turn was recorded, and as which action of which proposal."""
    told = {"recorded": turn.recorded_at, "action": turn.action_id, "proposal": turn.proposal_id}
    yield from (f"{name} {value}" for name, value in told.items() if value is not UNSET)


def _or_none(value: str | UnsetType) -> str | None:
    return None if value is UNSET else value


def _verdict(turn: Turn) -> str | None:
    return None if turn.verifier_verdict == "not_run" else turn.verifier_verdict

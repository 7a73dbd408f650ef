"""A run as a person reads it: what each record becomes on the screen. Pure: records in, lines out."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UNSET, Raw, UnsetType

from car_trio.cli.screen import (
    ago,
    counted,
    folded,
    human_size,
    is_terminal,
    lasting,
    seconds_between,
    styled,
    toned,
    width,
)
from car_trio.wire.runs import CatalogRow, Damaged, Ended, Outcome, Started, Turn
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
    end = f" {toned(row.outcome)}" if row.outcome else ""
    yield f"{styled('run', 'dim')}     {styled(folded(row.run_id, 80), 'bold')}"
    yield f"{styled('agent', 'dim')}   {folded(row.agent_id, 80)}"
    yield f"{styled('intent', 'dim')}  {folded(row.intent, max(20, width() - 8))}"
    if row.outcome_description:
        yield f"{styled('wanted', 'dim')}  {folded(row.outcome_description, max(20, width() - 8))}"
    took = lasting(seconds_between(row.started_at, row.ended_at))
    began = folded(row.started_at, 40) + (f" ({ago(row.started_at)})" if is_terminal() else "")
    yield (
        f"{styled('status', 'dim')}  {toned(row.status)}{end}, began {began}, took {took}, "
        f"{counted(row.turn_count, 'turn')}, {human_size(row.bytes)}"
    )
    yield ""


class Timeline:
    """Lines of one run's records, in order: one of each payload, or with `whole` every byte of it. A turn took as long
    as it is after the record before it."""

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self._last: str | None = None

    def lines(self, raw: bytes) -> Iterator[str]:
        match decoded(raw):
            case Started() as started:
                self._last = started.started_at
            case Turn() as turn:
                yield from self._turn(turn)
            case Ended() as ended:
                yield from self._end(ended)
            case Damaged() as damaged:
                where = f" of continuation {damaged.segment}" if damaged.segment else ""
                yield styled(f"     ! line {damaged.line}{where} is damaged", "red")
            case None:
                yield f"     ? {self._text(raw.decode(errors='replace'))}"

    def _turn(self, turn: Turn) -> Iterator[str]:
        at = _or_none(turn.recorded_at)
        took = lasting(seconds_between(self._last, at))
        self._last = at or self._last
        words = [word for word in (_or_none(turn.status), _verdict(turn)) if word]
        if turn.policy_rejected is True and "rejected" not in words:
            words.append("rejected")
        name = folded(_or_none(turn.tool) or "says", 28)
        said = " ".join(toned(word) for word in words)
        yield f"{turn.index:5}  {styled(f'{name:20}', 'bold')} {took:>8}  {said}".rstrip()
        yield from self._field("  ", _or_none(turn.prompt))
        yield from self._payload("← ", turn.parameters)
        yield from self._payload("→ ", turn.output)
        if turn.cli_outcome is not UNSET:
            cli = turn.cli_outcome
            yield from self._field("$ ", f"exit {cli.exit_code}{' (timed out)' if cli.timed_out else ''}")
        yield from self._field("✗ ", _or_none(turn.error), "red")

    def _end(self, ended: Ended) -> Iterator[str]:
        took = lasting(seconds_between(self._last, ended.ended_at))
        if isinstance(ended.termination, Outcome):
            outcome = ended.termination.outcome
            yield f"  end  {toned(outcome.status, 20)} {took:>8}"
            yield from self._field("  ", outcome.summary or None)
        else:
            yield f"  end  {toned('incomplete')}: {ended.termination.reason}"

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
        return escaped(text) if self._whole else folded(text, max(20, width() - taken))


def _or_none(value: str | UnsetType) -> str | None:
    return None if value is UNSET else value


def _verdict(turn: Turn) -> str | None:
    return None if turn.verifier_verdict == "not_run" else turn.verifier_verdict

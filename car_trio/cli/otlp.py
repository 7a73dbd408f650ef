"""Runs as OpenTelemetry spans in OTLP's JSON form: a run is an `invoke_agent` span, a turn with a tool an
`execute_tool` span under it (the semantic conventions for generative AI).

Ids are derived from the run's id and the turn's position, so an export is the same every time and a backend that is
given a run twice has it once. A turn says when it was recorded and not when it began: it is taken to begin where the
record before it was written. A run that is still open has no status yet, and its span ends with its newest record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

import car_trio
from car_trio.cli.files import Files
from car_trio.cli.screen import moment
from car_trio.cli.timeline import decoded
from car_trio.store.survey import ref_of
from car_trio.wire.runs import CatalogRow, Turn

INTERNAL = 1
STATUS_UNSET, STATUS_OK, STATUS_ERROR = range(3)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def otlp_json(files: Files, rows: list[CatalogRow]) -> Iterator[bytes]:
    """One `TracesData` document: a trace per run."""
    resource = {
        "attributes": attributes({"service.name": "car-trio", "service.version": car_trio.__version__})
    }
    yield b'{"resourceSpans":[{"resource":' + msgspec.json.encode(resource)
    yield b',"scopeSpans":[{"scope":{"name":"car_trio"},"spans":['
    comma = b"\n"
    for row in rows:
        for span in spans(files, row):
            yield comma + msgspec.json.encode(span)
            comma = b",\n"
    yield b"]}]}]}\n"


def spans(files: Files, row: CatalogRow) -> Iterator[dict[str, Any]]:
    """The span of the run, then those of its turns."""
    run = derived("span", row.run_id)[:16]
    trace = derived("trace", row.run_id)
    yield run_span(row, trace, run, row.ended_at or newest(files, row))
    last = row.started_at
    for record in files.records(ref_of(row)):
        turn = decoded(record.raw)
        if not isinstance(turn, Turn):
            continue
        ended = turn.recorded_at if isinstance(turn.recorded_at, str) else last
        if isinstance(turn.tool, str):
            span = derived("span", row.run_id, str(turn.index))[:16]
            yield tool_span(turn, trace, span, run, nanoseconds(last), nanoseconds(ended))
        last = ended


def newest(files: Files, row: CatalogRow) -> str:
    """When the newest turn of a run was recorded; without one, when the run began."""
    last = row.started_at
    for record in files.records(ref_of(row)):
        turn = decoded(record.raw)
        if isinstance(turn, Turn) and isinstance(turn.recorded_at, str):
            last = turn.recorded_at
    return last


def run_span(row: CatalogRow, trace: str, span: str, end: str) -> dict[str, Any]:
    return {
        "traceId": trace,
        "spanId": span,
        "name": f"invoke_agent {row.agent_id}",
        "kind": INTERNAL,
        "startTimeUnixNano": nanoseconds(row.started_at),
        "endTimeUnixNano": nanoseconds(end),
        "attributes": attributes(
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.id": row.agent_id,
                "gen_ai.agent.name": row.agent_id,
                "gen_ai.conversation.id": row.run_id,
                "car.run.intent": row.intent,
                "car.run.status": row.status,
                "car.run.outcome": row.outcome,
            }
        ),
        "status": run_status(row),
    }


def run_status(row: CatalogRow) -> dict[str, Any]:
    if row.ended_at is None:
        return {"code": STATUS_UNSET}
    failed = row.outcome in {"failure", "timeout"} or row.status == "incomplete"
    return {"code": STATUS_ERROR, "message": row.summary} if failed else {"code": STATUS_OK}


def tool_span(turn: Turn, trace: str, span: str, parent: str, start: str, end: str) -> dict[str, Any]:
    """A turn in which a tool was used."""
    error = turn.error if isinstance(turn.error, str) else None
    failed = error is not None or turn.status in {"failed", "rejected"}
    return {
        "traceId": trace,
        "spanId": span,
        "parentSpanId": parent,
        "name": f"execute_tool {turn.tool}",
        "kind": INTERNAL,
        "startTimeUnixNano": start,
        "endTimeUnixNano": end,
        "attributes": attributes(
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": turn.tool,
                "gen_ai.tool.call.id": turn.action_id,
                "gen_ai.tool.call.arguments": turn.parameters,
                "gen_ai.tool.call.result": turn.output,
                "error.type": (turn.status if isinstance(turn.status, str) else "error") if failed else None,
                "car.turn.index": turn.index,
                "car.turn.verdict": turn.verifier_verdict,
            }
        ),
        "status": {"code": STATUS_ERROR, "message": error or ""} if failed else {"code": STATUS_OK},
    }


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Attributes as OTLP writes them; integers are text in its JSON, payloads stay JSON text."""
    found: list[dict[str, Any]] = []
    for key, value in values.items():
        match value:
            case int():
                found.append({"key": key, "value": {"intValue": str(value)}})
            case str():
                found.append({"key": key, "value": {"stringValue": value}})
            case msgspec.Raw():
                found.append({"key": key, "value": {"stringValue": bytes(value).decode(errors="replace")}})
            case _:
                pass
    return found


def derived(*parts: str) -> str:
    """32 hexadecimal digits, the same for the same parts."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def nanoseconds(text: str) -> str:
    """A time in nanoseconds since 1970, exactly, as text; 0 for one that cannot be read."""
    then = moment(text)
    if then is None:
        return "0"
    passed = then - _EPOCH
    return str(((passed.days * 86400 + passed.seconds) * 1_000_000 + passed.microseconds) * 1000)

"""The ledger of decisions, and the event log's own bounds."""

from __future__ import annotations

import json

import pytest

from car_trio.state import permissions
from car_trio.state.event_log import MAX_TEXT, MAX_WAITING, EventLog
from car_trio.state.permissions import Ledger
from car_trio.wire.analysis import LedgerLine
from car_trio.wire.errors import Refusal
from car_trio.wire.frames import encode


class Told:
    def then(self, settled):
        settled(None)


def line(fingerprint: str, decision: str = "approved") -> LedgerLine:
    return LedgerLine(
        fingerprint, "full_access", decision, "me", None, None, "2026-01-01T00:00:00.000000000+00:00"
    )


def test_the_last_line_about_a_fingerprint_counts_and_a_damaged_one_allows_nothing():
    damaged = encode(line("c")).replace(b"approved", b"maybe")
    ledger = Ledger(
        lambda _: Told(),
        [encode(line("a")), damaged, b"\xff", encode(line("a", "rejected")), encode(line("b"))],
    )
    assert ledger.damaged == 2
    found = ledger.about(["a", "b", "c", "d"])
    assert {mark: each["decision"] for mark, each in found.items()} == {"a": "rejected", "b": "approved"}


def test_the_ledger_is_bounded(monkeypatch):
    written = []

    def write(encoded):
        written.append(encoded)
        return Told()

    ledger = Ledger(write)
    with pytest.raises(Refusal, match="262144"):
        ledger.decide(line("x" * 262_144))
    monkeypatch.setattr(permissions, "MAX_FINGERPRINTS", 1)
    ledger.decide(line("a"))
    with pytest.raises(Refusal, match="all it can"):
        ledger.decide(line("b"))
    ledger.decide(line("a", "rejected"))
    assert [json.loads(each)["decision"] for each in written] == ["approved", "rejected"]


def test_events_are_handed_over_in_bunches_and_long_texts_cut():
    written, ends = [], []

    def write(client_id, lines, last):
        written.append(lines)
        ends.append(last)
        return Told()

    log = EventLog("c", write, lambda: "now")
    log.flush()
    assert log.ticket is None
    for _ in range(MAX_WAITING + 1):
        log.note("k", {"error": "x" * 5000, "keys": ["y" * 5000] * 100, "n": 1}, action_id="i" * 5000)
    assert [each.count(b"\n") + 1 for each in written] == [MAX_WAITING]
    event = json.loads(written[0].split(b"\n")[0])
    assert event["action_id"] == "i" * MAX_TEXT + "…"
    assert event["data"]["error"] == "x" * MAX_TEXT + "…"
    assert event["data"]["keys"] == ["y" * MAX_TEXT + "…"] * 64
    log.flush()
    assert len(written) == 2
    assert log.count == MAX_WAITING + 1
    log.close()
    assert (written[2:], ends) == ([b""], [False, False, True])
    EventLog("d", write, lambda: "now").close()
    assert len(written) == 3, "who logged nothing has no file"

"""Turns and results of an offered tool."""

from __future__ import annotations

from msgspec import Raw

from car_trio.state import tools
from car_trio.state.tools import Offer, Results, Turns
from car_trio.wire.tools import RateLimit, Tool


def test_no_interval_holds_more_turns_than_the_limit():
    turns = Turns(RateLimit(2, 10.0))
    assert [turns.take(now) for now in (0, 4, 5, 5, 5)] == [0, 4, 10, 14, 20]
    assert turns.take(30) == 30


def test_a_turn_that_is_given_back_is_free_and_giving_it_back_again_changes_nothing():
    turns = Turns(RateLimit(1, 10.0))
    turns.take(0)
    late = turns.take(1)
    turns.give_back(late)
    turns.give_back(late)
    assert turns.take(1) == late


def offer(ttl: float | None = 10.0) -> Offer:
    return Offer(Tool("t", cache_ttl_secs=ttl))


def test_results_are_given_up_least_recently_used_first(monkeypatch):
    monkeypatch.setattr(tools, "MAX_CACHED_BYTES", 30)
    results, tool = Results(), offer()
    for name in (b"a", b"b"):
        results.put(tool, name, Raw(b"0123456789"), 0)
    assert results.get(tool, b"a", 1) is not None
    results.put(tool, b"c", Raw(b"0123456789"), 2)
    assert [results.get(tool, name, 3) is not None for name in (b"a", b"b", b"c")] == [True, False, True]


def test_a_result_is_kept_once_until_it_is_stale_and_never_a_large_one(monkeypatch):
    monkeypatch.setattr(tools, "MAX_CACHED_BYTES", 22)
    monkeypatch.setattr(tools, "MAX_CACHED_RESULT", 15)
    results, tool = Results(), offer()
    for _ in range(3):
        results.put(tool, b"a", Raw(b"0123456789"), 0)
    results.put(tool, b"b", Raw(b"0123456789"), 1)
    results.put(tool, b"c", Raw(b"0123456789abcdef"), 1)
    assert results.get(tool, b"a", 9) is not None, "putting it thrice took its room once"
    assert results.get(tool, b"a", 10) is None
    assert results.get(tool, b"a", 9) is None, "what was stale is gone"
    assert results.get(tool, b"c", 2) is None
    results.put(offer(None), b"a", Raw(b"1"), 0)
    assert results.get(offer(), b"a", 0) is None

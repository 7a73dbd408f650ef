"""State of a connection or a tenant, and its bounds (`wire.md` section 5)."""

from __future__ import annotations

import pytest
from msgspec import Raw

from car_trio.state import values
from car_trio.state.values import Opened, Tenants, Values, decoded, large_bytes
from car_trio.wire.errors import Refusal


def test_a_key_holds_what_was_set_last_until_it_is_deleted():
    store = Values()
    store["k"] = {"a": 1}
    store["k"] = None
    assert "k" in store
    assert store.get("k", "default") is None
    assert store.snapshot() == {"k": None}
    del store["k"]
    assert list(store) == []
    assert store.get("k", "default") == "default"


def test_a_state_that_would_grow_past_its_limit_is_refused_and_unchanged(monkeypatch):
    monkeypatch.setattr(values, "MAX_STATE_BYTES", 100)
    store = Values()
    store["k"] = "x" * 80
    with pytest.raises(Refusal, match="'other' would bring this state to 1") as caught:
        store["other"] = "y" * 80
    assert caught.value.code == -32602
    assert store.snapshot() == {"k": "x" * 80}


def test_room_that_a_key_gave_back_can_be_used_again(monkeypatch):
    monkeypatch.setattr(values, "MAX_STATE_BYTES", 100)
    store = Values()
    for _ in range(10):
        store["k"] = "x" * 80
        store["k"] = ""
        store["other"] = "y" * 80
        del store["other"]
    assert store.snapshot() == {"k": ""}


@pytest.fixture
def large(monkeypatch) -> None:
    """Nearly every value is large."""
    monkeypatch.setattr(values, "LARGE_BYTES", 4)


def test_a_large_value_is_kept_as_json_and_decoded_for_whoever_looks_into_it(large):
    store = Values()
    store["k"] = Raw(b'{"a": 1.50}')
    store["other"] = [1, 2, 3]
    store["small"] = 7
    assert bytes(store.get("k")) == b'{"a": 1.50}'
    assert (store.get("small"), store.get("nothing")) == (7, None)
    assert bytes(store.snapshot()["other"]) == b"[1,2,3]"
    seen = Opened(store)
    assert (seen.get("k"), seen.get("other"), seen.get("small")) == ({"a": 1.5}, [1, 2, 3], 7)
    assert "k" in seen
    assert decoded(store.snapshot()) == {"k": {"a": 1.5}, "other": [1, 2, 3], "small": 7}
    assert large_bytes(store.snapshot()) == len(b'{"a": 1.50}[1,2,3]')


def test_a_large_value_is_decoded_once_until_it_changes(large):
    store = Values()
    store["k"] = [1, 2, 3]
    store["small"] = 7
    seen = Opened(store)
    assert seen.get("k") is seen.get("k")
    store["k"] = [4, 5, 6]
    assert seen.get("k") == [4, 5, 6]
    del store["k"]
    assert seen.get("k") is None


def test_large_values_can_be_decoded_before_they_are_asked_for(large, monkeypatch):
    store = Values()
    store["k"] = [1, 2, 3]
    store["small"] = 7
    seen = Opened(store)
    ahead = seen.large(["k", "small", "nothing"])
    assert list(ahead) == ["k"]
    seen.open(ahead)
    monkeypatch.delattr(values, "opened")
    assert seen.get("k") == [1, 2, 3]


def test_large_values_count_towards_the_limit(monkeypatch, large):
    monkeypatch.setattr(values, "MAX_STATE_BYTES", 20)
    store = Values()
    store["k"] = Raw(b'"0123456789"')
    with pytest.raises(Refusal):
        store["l"] = Raw(b'"0123456789"')
    assert list(store) == ["k"]


def test_a_tenant_is_made_when_it_is_first_named_and_there_are_at_most_64():
    tenants = Tenants()
    tenants.of("t0")["k"] = 1
    assert tenants.of("t0").get("k") == 1
    for n in range(1, 64):
        tenants.of(f"t{n}")
    with pytest.raises(Refusal, match="65th") as caught:
        tenants.of("one too many")
    assert caught.value.code == -32602
    assert tenants.of("t0").get("k") == 1

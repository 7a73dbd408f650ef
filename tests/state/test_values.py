"""State of a connection or a tenant, and its bounds (`wire.md` section 5)."""

from __future__ import annotations

import pytest

from car_trio.state import values
from car_trio.state.values import Tenants, Values
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

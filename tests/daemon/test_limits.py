"""The store's share of the descriptors is closed to newcomers."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from car_trio.nursery import limits
from car_trio.nursery.limits import MAX_HELD, MIN_HELD, PASSING, has_room, held_files, raise_descriptor_limit


@contextmanager
def lowest_free(number: int) -> Iterator[int]:
    """Every lower number is in use; gives one that is open."""
    first = os.open(os.devnull, os.O_RDONLY)
    taken = [first]
    while taken[-1] < number - 1:
        taken.append(os.dup(first))
    try:
        yield first
    finally:
        for each in taken:
            os.close(each)


def limited(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (soft, soft))


def test_a_newcomer_is_let_in_up_to_the_last_descriptor_that_is_not_the_stores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limited(monkeypatch, 200)
    last = 200 - held_files() - PASSING - 1
    with lowest_free(last) as descriptor:
        assert has_room(descriptor)
    with lowest_free(last + 1) as descriptor:
        assert not has_room(descriptor)


def test_asking_for_room_takes_none() -> None:
    with lowest_free(100) as descriptor:
        for _ in range(50):
            has_room(descriptor)
        next_one = os.dup(descriptor)
        os.close(next_one)
    assert next_one == 100


def test_without_any_descriptor_left_there_is_no_room() -> None:
    assert not has_room(-1)


@pytest.mark.parametrize(
    ("soft", "held"), [(20, MIN_HELD), (64, MIN_HELD), (400, 100), (1_000_000, MAX_HELD)]
)
def test_the_journal_holds_a_quarter_within_bounds(
    monkeypatch: pytest.MonkeyPatch, soft: int, held: int
) -> None:
    limited(monkeypatch, soft)
    assert held_files() == held


def test_the_soft_limit_becomes_the_hard_one_and_what_is_not_allowed_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_to = []
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (10, 99))
    monkeypatch.setattr(limits.resource, "setrlimit", lambda kind, pair: set_to.append((kind, pair)))
    raise_descriptor_limit()
    assert set_to == [(resource.RLIMIT_NOFILE, (99, 99))]

    def refuse(kind: int, pair: tuple[int, int]) -> None:
        raise ValueError(kind, pair)

    monkeypatch.setattr(limits.resource, "setrlimit", refuse)
    raise_descriptor_limit()

"""Which runs have to go, and the line that stays of each (protocol `runs.md` section 3). Pure: no disk, no
clock. Which run is old, and which of two is older, says `When`: the times that runs carry are only as good as the wall
clock was (`lived_time.py`)."""

from __future__ import annotations

import logging
import math
import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

import msgspec

from car_trio.store.layout import Layout
from car_trio.wire.runs import CatalogRow, RunRef, rfc3339

When = Callable[[datetime], datetime]
"""When a moment that was read from the wall clock was, by the wall clock of now."""
LOG = logging.getLogger("car_trio.store")
MAX_PER_AGENT = 1000
MAX_AGE_DAYS = 90.0


class Limits(NamedTuple):
    """How much stays: ended runs per agent, and days from a run's end. At or below zero there is no limit."""

    max_per_agent: int = MAX_PER_AGENT
    max_age_days: float = MAX_AGE_DAYS


class Expired(NamedTuple):
    """A run that has to go, and why."""

    row: CatalogRow
    why: str


class _Tombstone(msgspec.Struct, omit_defaults=True):
    run_id: str
    agent_id: str
    intent: str
    status: str
    started_at: str
    removed_at: str
    why: str
    ended_at: str | None = None
    outcome: str | None = None


def expired(
    rows: Iterable[CatalogRow],
    now: datetime,
    max_per_agent: int,
    max_age_days: float,
    when: When = lambda moment: moment,
) -> list[Expired]:
    """The ended runs beyond either limit, the one that ended first in front. Open runs stay and do not
    count."""
    cutoff = ended_before(now, max_age_days)
    places: dict[str, int] = {}
    gone: list[Expired] = []
    ended = [row for row in rows if row.ended_at is not None]
    for row in sorted(ended, key=lambda row: _place(row.started_at, when), reverse=True):
        place = places[row.agent_id] = places.get(row.agent_id, 0) + 1
        if 0 < max_per_agent < place:
            gone.append(Expired(row, f"max_per_agent {max_per_agent}"))
        elif cutoff is not None and _ended_before(row, cutoff, when):
            gone.append(Expired(row, f"max_age_days {max_age_days:g}"))
    return sorted(gone, key=lambda expired: _place(expired.row.ended_at or "", when))


def ended_before(now: datetime, max_age_days: float) -> datetime | None:
    """Runs that ended before this moment are too old; None when no run ever is."""
    if max_age_days <= 0:
        return None
    try:
        return now - timedelta(days=max_age_days)
    except OverflowError:
        return None


def tombstone(row: CatalogRow, why: str, removed_at: str) -> bytes:
    """The line in `deleted-runs.jsonl` that says what was removed, when and why."""
    return msgspec.json.encode(
        _Tombstone(
            row.run_id,
            row.agent_id,
            row.intent,
            row.status,
            row.started_at,
            removed_at,
            why,
            row.ended_at,
            row.outcome,
        )
    )


def removed_by(tombstones: Iterable[bytes]) -> set[RunRef]:
    """The runs of which these lines say that they were removed; some may be there again."""
    found: set[RunRef] = set()
    for line in tombstones:
        with suppress(msgspec.ValidationError, msgspec.DecodeError):
            told = msgspec.json.decode(line, type=_Tombstone)
            found.add(RunRef(told.agent_id, told.run_id))
    return found


def read_limits(layout: Layout) -> Limits:
    """The limits of the root's `config.toml`. A missing or broken key has its own default; broken ones are
    logged."""
    try:
        text = layout.config.read_text()
        table = tomllib.loads(text).get("runs", {})
    except FileNotFoundError:
        return Limits()
    except (OSError, ValueError) as error:
        LOG.warning("%s cannot be read (%s): runs are kept by the defaults", layout.config, error)
        return Limits()
    if not isinstance(table, dict):
        LOG.warning("%s: [runs] is no table: runs are kept by the defaults", layout.config)
        return Limits()
    values = cast(dict[str, Any], table)
    return Limits(
        int(_number(values, "max_per_agent", MAX_PER_AGENT, (int,))),
        _number(values, "max_age_days", MAX_AGE_DAYS, (int, float)),
    )


def _number(values: dict[str, Any], key: str, default: float, kinds: tuple[type, ...]) -> float:
    value = values.get(key, default)
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if is_number and math.isfinite(cast(float, value)):
        return cast(float, value)
    LOG.warning("config.toml: runs.%s is %r, not a number: %s holds", key, value, default)
    return default


def _ended_before(row: CatalogRow, cutoff: datetime, when: When) -> bool:
    # A time that cannot be read never makes a run old.
    moment = _moment(row.ended_at or "")
    return moment is not None and when(moment) < cutoff


def _place(time: str, when: When) -> str:
    """Where a time stands among others; one that cannot be read stands where its text does."""
    moment = _moment(time)
    return time if moment is None else rfc3339(when(moment))


def _moment(time: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

"""What a plan reads and writes without an order between the two (protocol `engine.md` section 7).

Pairs are found through the keys that they share, never by comparing every action with every other one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

from car_trio.engine.model import parse, plain
from car_trio.engine.ordering import ancestors, edges, written_keys
from car_trio.wire.proposals import Action

Conflict = dict[str, Any]


def transaction_check(proposal: Any, versions: Any = None, state: Any = None) -> dict[str, Any]:
    """`{"consistent", "conflicts"}`. `versions`: key to the shared state's version; `state` is unused."""
    actions = parse(proposal).actions
    conflicts = [*_unordered(actions), *_stale(actions, plain(versions) or {})]
    return {"consistent": not conflicts, "conflicts": conflicts}


def _unordered(actions: Sequence[Action]) -> Iterator[Conflict]:
    """Conflicts of every pair that shares a key and has no order, pair after pair."""
    write_sets = [list(dict.fromkeys([*action.write_set, *written_keys(action)])) for action in actions]
    read_sets = [_read_set(action) for action in actions]
    writers, readers = _by_key(write_sets), _by_key(read_sets)
    reached = ancestors(edges(actions))
    found: dict[tuple[int, int], list[Conflict]] = {}

    def report(one: int, other: int, conflict: Conflict) -> None:
        earlier, later = sorted((one, other))
        if not reached[later] >> earlier & 1:
            found.setdefault((earlier, later), []).append(conflict)

    for key, places in writers.items():
        for one, other in combinations(places, 2):
            report(one, other, _write_write(key, actions[one].id, actions[other].id))
        for reader in readers.get(key, ()):
            for writer in places:
                if writer != reader:
                    report(reader, writer, _read_write(key, actions[reader].id, actions[writer].id))
    for pair in sorted(found):
        yield from sorted(found[pair], key=lambda conflict: conflict["kind"] == "read_write")


def _read_set(action: Action) -> list[str]:
    keys = [*action.read_set, *action.state_dependencies, *(each.key for each in action.assumptions)]
    if action.type == "state_read" and (key := action.key) is not None:
        keys.append(key)
    return list(dict.fromkeys(keys))


def _by_key(sets: Iterable[list[str]]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, keys in enumerate(sets):
        for key in keys:
            places.setdefault(key, []).append(place)
    return places


def _stale(actions: Sequence[Action], versions: dict[str, Any]) -> Iterator[Conflict]:
    for action in actions:
        for assumption in action.assumptions:
            now = versions.get(assumption.key)
            if assumption.read_version is not None and assumption.read_version != now:
                yield _stale_assumption(action.id, assumption.key, assumption.read_version, now)


def _write_write(key: str, earlier: str, later: str) -> Conflict:
    return {
        "kind": "write_write",
        "key": key,
        "actions": [earlier, later],
        "explanation": f"actions '{earlier}' and '{later}' both write '{key}' with no ordering dependency "
        "— last-writer-wins is nondeterministic",
        "resolution": "declare an ordering (add the writer's key to the other action's state_dependencies), "
        "split into distinct keys, or define a semantic merge for this key",
    }


def _read_write(key: str, reader: str, writer: str) -> Conflict:
    return {
        "kind": "read_write",
        "key": key,
        "actions": [reader, writer],
        "explanation": f"action '{reader}' reads '{key}' while '{writer}' writes it, unordered "
        "— the read may observe the pre- or post-write value",
        "resolution": f"sequence the reader after the writer (add '{key}' to '{reader}'.state_dependencies) "
        "if the fresh value is intended, or before it if the prior value is",
    }


def _stale_assumption(action: str, key: str, planned: int, now: Any) -> Conflict:
    current = "absent" if now is None else now
    return {
        "kind": "stale_assumption",
        "key": key,
        "actions": [action],
        "explanation": f"action '{action}' planned against '{key}' at version {planned} "
        f"but the shared state is now at {current} — the plan is based on a stale read",
        "resolution": "re-verify the action against current state and reconcile its belief "
        "(re-plan from the new version) before executing",
    }

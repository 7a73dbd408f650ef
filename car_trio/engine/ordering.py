"""Which action waits for which (protocol `engine.md` section 6).

Edges come from state keys alone: an action that lists a key in `state_dependencies` waits for the last writer
of that key, if it stands earlier in the list; a `state_write` waits for the previous `state_write` of its
key. An edge always points to an earlier place, so cycles cannot occur. Actions are known by their place,
since ids may repeat here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from car_trio.wire.proposals import Action


def written_keys(action: Action) -> list[str]:
    """The keys an action declares to write: a `state_write`'s own, then its expected effects."""
    effects = action.expected_effects
    key = action.key if action.type == "state_write" else None
    if key is None or key in effects:
        return list(effects)
    return [key, *effects]


def writers(actions: Sequence[Action]) -> dict[str, list[int]]:
    """For each written key the places of its writers, in list order."""
    found: dict[str, list[int]] = {}
    for place, action in enumerate(actions):
        if action.expected_effects or action.type == "state_write":
            for key in written_keys(action):
                found.setdefault(key, []).append(place)
    return found


def edges(actions: Sequence[Action]) -> list[list[int]]:
    """For each action the earlier places that it waits for."""
    last_writer = {key: places[-1] for key, places in writers(actions).items()}
    previous_write: dict[str, int] = {}
    waits_for: list[list[int]] = []
    for place, action in enumerate(actions):
        keys = action.state_dependencies
        found = [writer for key in keys if (writer := last_writer.get(key, place)) < place] if keys else []
        if action.type == "state_write" and (key := action.key) is not None:
            if key in previous_write:
                found.append(previous_write[key])
            previous_write[key] = place
        waits_for.append(found)
    return waits_for


def levels(actions: Sequence[Action]) -> list[list[int]]:
    """The places of the actions, level after level, list order within a level."""
    depth: list[int] = []
    found: list[list[int]] = []
    for place, earlier in enumerate(edges(actions)):
        level = 1 + max(map(depth.__getitem__, earlier)) if earlier else 0
        depth.append(level)
        if level == len(found):
            found.append([])
        found[level].append(place)
    return found


def ancestors(waits_for: Iterable[list[int]]) -> list[int]:
    """For each action the set of all it waits for, directly or not, as a bit mask of places."""
    reached: list[int] = []
    for earlier in waits_for:
        mask = 0
        for place in earlier:
            mask |= reached[place] | 1 << place
        reached.append(mask)
    return reached

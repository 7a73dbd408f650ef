"""Dropping dependencies that nothing in the plan can satisfy (protocol `engine.md` section 7)."""

from __future__ import annotations

from typing import Any

from car_trio.engine.model import parse
from car_trio.engine.ordering import writers


def optimize(proposal: Any) -> dict[str, Any]:
    """The whole proposal, without every `state_dependencies` key that no action in it writes."""
    read = parse(proposal)
    written = writers(read.actions)
    optimized = read.plain()
    for action in optimized["actions"]:
        action["state_dependencies"] = [key for key in action["state_dependencies"] if key in written]
    return optimized

"""hostile: whatever comes in, nothing inside breaks and nobody else notices.

Two parts. Mutated messages and frames reach a daemon in memory, many and fast (`hostile_memory`). Connections that
mean harm, or are merely broken, reach a daemon in a process of its own over every socket that it has
(`hostile_sockets`). A round is three connections of the first and twenty of the second; of the time each has half.
"""

from __future__ import annotations

from dataclasses import replace

from torture import hostile_memory, hostile_sockets
from torture.orders import Orders, Verdict


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    hostile_sockets.attack(replace(orders, minutes=orders.minutes / 2), verdict)
    hostile_memory.attack(orders, verdict)
    for what in ("hostile connections", hostile_memory.MUTATED):
        verdict.expect(verdict.counts[what], f"there was no time for {what}")
    return verdict

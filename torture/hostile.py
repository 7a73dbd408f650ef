"""hostile: whatever comes in, nothing inside breaks and nobody else notices.

Two parts. Mutated messages and frames reach a daemon in memory, many and fast (`hostile_memory`). Connections that
mean harm, or are merely broken, reach a daemon in a process of its own over every socket that it has
(`hostile_sockets`). A round is two connections of the first and twenty of the second.
"""

from __future__ import annotations

from torture import hostile_memory, hostile_sockets
from torture.orders import Orders, Verdict


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    hostile_sockets.attack(orders, verdict)
    hostile_memory.attack(orders, verdict)
    return verdict

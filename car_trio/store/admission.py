"""Whether the store takes something new now. What was accepted is never asked about again."""

from __future__ import annotations

from typing import Literal

from car_trio.wire.errors import storage_degraded

KEPT_BYTES = 64 << 20
Purpose = Literal["start", "turns"]


def admit(
    purpose: Purpose,
    *,
    degraded: str | None,
    pending_bytes: int,
    free_bytes: int | None,
    keep_free_bytes: int,
) -> None:
    """Raises the refusal (-32011, not pending) that it deserves: the disk fails, or is behind, or nearly full. A run
    that is open may use half of what is kept in reserve, so that it comes to its end."""
    if degraded is not None:
        raise storage_degraded(degraded, pending=False)
    if pending_bytes >= KEPT_BYTES:
        raise storage_degraded(f"{pending_bytes} bytes already wait for the disk", pending=False)
    needed = keep_free_bytes if purpose == "start" else keep_free_bytes // 2
    if free_bytes is not None and free_bytes < needed:
        why = f"the disk has {free_bytes} bytes free, fewer than the {needed} kept in reserve"
        raise storage_degraded(why, pending=False)

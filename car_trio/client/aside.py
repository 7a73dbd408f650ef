"""Exceptions set aside, to be looked at or raised where the block they came from has been left behind."""

from __future__ import annotations

from types import TracebackType


class SetAside:
    """Takes the exception of a block, cancellation included, out of the way and keeps it as `error`.

    Two things need this: a nursery would wrap in a group what should pass through as it is, and waiting
    inside an `except` clause would lose the exception if that wait is cancelled. Whoever sets aside raises
    `error` afterwards.
    """

    error: BaseException | None = None

    def __enter__(self) -> SetAside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.error = error
        return True

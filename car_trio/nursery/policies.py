"""The policies that come from files, kept level with the files.

One stat pass tells whether anything changed; only then the files are read. Both run on the loop: the files are few
and small, they change when a person edits them, and a rule that was just written must hold for the very submit that
noticed it. While a file cannot be used nothing that depends on policies goes on, and the rules read last stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from car_trio.state.policy_files import BrokenPolicyFile, FilePolicies, read
from car_trio.store.policy_reading import Stamp, Unreadable, read_texts, stamps
from car_trio.wire.errors import Refusal

LOG = logging.getLogger("car_trio.policies")


def faults(directory: Path) -> tuple[str | None, Sequence[str]]:
    """Which file as it is now cannot be used, where and why, None when a daemon could use all of them; and what should
    be corrected in those."""
    try:
        return None, read(read_texts(directory, stamps(directory)), FilePolicies(), lambda: 0.0).remarks
    except (Unreadable, BrokenPolicyFile) as error:
        return str(error), ()


class PolicyFiles:
    """`current` is what holds. Reads the directory when made."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._clock = clock
        self._stamps: tuple[Stamp, ...] | None = ()
        self._broken: str | None = None
        self.current = FilePolicies()
        self.refresh()

    def refresh(self) -> None:
        """Reads the files again if they changed."""
        try:
            found = stamps(self._directory)
            if found == self._stamps:
                return
            self._stamps = found
            self.current = read(read_texts(self._directory, found), self.current, self._clock)
        except (Unreadable, BrokenPolicyFile) as error:
            if isinstance(error, Unreadable):
                self._stamps = (
                    None  # what could not be read may become readable without looking any different
                )
            self._break(str(error))
        else:
            self._broken = None
            LOG.info("%d policies from %d files", len(self.current.policies), len(found))
            for remark in self.current.remarks:
                LOG.warning("%s; correct it in the file", remark)

    def _break(self, why: str) -> None:
        if why != self._broken:
            LOG.error("policies cannot be used: %s", why)
        self._broken = why

    def require(self) -> None:
        """Raises Refusal while a file cannot be used. A file that was mended is noticed here too."""
        if self._broken is not None:
            self.refresh()
        if self._broken is not None:
            raise Refusal(
                f"policies cannot be used, so nothing that depends on them goes on: "
                f"{self._broken}; correct the file or remove it",
                data={"policy_file": self._broken},
            )

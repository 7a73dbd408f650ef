"""What humans decided about fingerprints (protocol `engine.md` sections 1 and 10, "Tiers").

A decision holds for good: it is a line in the ledger, and the last line about a fingerprint counts. It is in force
as soon as it is made and true once its line is on disk, which is when whoever made it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from car_trio.state.run import Ticket
from car_trio.wire.analysis import LedgerLine, Tier
from car_trio.wire.errors import invalid_params
from car_trio.wire.frames import encode

MAX_LINE_BYTES = 262_144
MAX_FINGERPRINTS = 100_000


class Ledger:
    """The decisions. `write` hands a line to the journal, to be synced."""

    def __init__(self, write: Callable[[bytes], Ticket], lines: Iterable[bytes] = ()) -> None:
        self._write = write
        self._decisions: dict[str, LedgerLine] = {}
        self.damaged = 0
        """Lines of the file that could not be read. What they decided is not known, so nothing is allowed by them."""
        for line in lines:
            try:
                known = msgspec.json.decode(line, type=LedgerLine)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.damaged += 1
            else:
                self._decisions[known.fingerprint] = known

    def decide(self, line: LedgerLine) -> Ticket:
        """Raises Refusal (-32602) for a line too long to be kept, or one too many."""
        encoded = encode(line)
        if not line.fingerprint or len(encoded) > MAX_LINE_BYTES:
            raise invalid_params(
                f"fingerprint must not be empty, and the ledger line has {len(encoded)} bytes of {MAX_LINE_BYTES}"
            )
        if line.fingerprint not in self._decisions and len(self._decisions) >= MAX_FINGERPRINTS:
            raise invalid_params(f"the ledger holds {MAX_FINGERPRINTS} fingerprints, which is all it can")
        self._decisions[line.fingerprint] = line
        return self._write(encoded)

    def about(self, fingerprints: Iterable[str]) -> Mapping[str, Mapping[str, Any]]:
        """The decisions about these, as the rules read them. Nothing is asked of them while there are none."""
        if not self._decisions:
            return {}
        found = {mark: self._decisions.get(mark) for mark in fingerprints}
        return {mark: msgspec.structs.asdict(line) for mark, line in found.items() if line is not None}


class Permissions:
    """The gate: whether it is on, the tier that a session starts with, and the ledger."""

    def __init__(self, ledger: Ledger, *, gate: bool, tier: Tier) -> None:
        self.ledger = ledger
        self.gate = gate
        self.tier: Tier = tier

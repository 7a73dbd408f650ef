"""Who may use the page: codes that let a browser in once, and the sessions that they become (`wire.md` section 3).

A code is minted for a host and lives for a minute; whoever shows it gets the key of a session, and the code is gone.
A session lives for twelve hours, through any number of connections. Both are kept as digests, in memory alone: a stop
of the daemon revokes all of them, and nothing that is kept here can be shown again.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable

from car_trio.wire.errors import Refusal

CODE_SECONDS = 60
SESSION_SECONDS = 12 * 60 * 60
MAX_CODES = 8
MAX_SESSIONS = 64


class Keys:
    """Secrets that are valid for a time. Above `most` the oldest goes: somebody is waiting for the newest."""

    def __init__(self, seconds: int, most: int, mint: Callable[[], str]) -> None:
        self.seconds = seconds
        self._most = most
        self._mint = mint
        self._until: dict[bytes, float] = {}

    def make(self, now: float) -> str:
        """A new one; only its digest stays."""
        while len(self._until) >= self._most:
            del self._until[next(iter(self._until))]
        key = self._mint()
        self._until[_digest(key)] = now + self.seconds
        return key

    def until(self, key: str, now: float) -> float | None:
        """When it ends, if it is valid. Each digest is compared, so that time tells nothing about any of them."""
        shown = _digest(key)
        found = [until for kept, until in self._until.items() if hmac.compare_digest(kept, shown)]
        return found[0] if found and now < found[0] else None

    def drop(self, key: str) -> None:
        del self._until[_digest(key)]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


class WebSessions:
    """The page's door. `url` is where the page is, `None` when it is not served; then `why` says so."""

    def __init__(
        self, *, clock: Callable[[], float], mint: Callable[[], str], url: str | None, why: str = ""
    ) -> None:
        self._clock = clock
        self._codes = Keys(CODE_SECONDS, MAX_CODES, mint)
        self._sessions = Keys(SESSION_SECONDS, MAX_SESSIONS, mint)
        self._url = url
        self._why = why

    def code(self) -> tuple[str, str]:
        """A new code, and the page's address. Raises Refusal when the page is not served."""
        if self._url is None:
            raise Refusal(self._why)
        return self._codes.make(self._clock()), self._url

    def redeem(self, code: str) -> tuple[str, float]:
        """The key of a new session, and when it ends. Raises Refusal for a code that is no good."""
        now = self._clock()
        if self._codes.until(code, now) is None:
            raise Refusal(
                f"auth failed: this code is wrong, older than {CODE_SECONDS} s or used already; "
                "run car-trio ui for another"
            )
        self._codes.drop(code)
        return self._sessions.make(now), now + self._sessions.seconds

    def resume(self, key: str) -> float:
        """When this session ends. Raises Refusal when it has."""
        until = self._sessions.until(key, self._clock())
        if until is None:
            raise Refusal(
                "auth failed: this web session is over, or not of this start of the daemon; run car-trio ui again"
            )
        return until

    def left(self, until: float) -> int | None:
        """The whole seconds up to then; `None` for what has no end."""
        return None if until == math.inf else int(until - self._clock())

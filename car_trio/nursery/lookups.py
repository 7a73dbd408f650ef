"""Questions to the catalog, which is asked in a thread.

An answer may be older than what happened meanwhile; the registry knows whether to believe it (`state/absent.py`)."""

from __future__ import annotations

from collections.abc import Callable

import trio

from car_trio.nursery.peer import settled
from car_trio.nursery.threads import in_thread
from car_trio.state.runs import RunRegistry
from car_trio.wire.runs import CatalogRow


class LookupDesk:
    """Asks the catalog about runs that are not in memory. Everybody who asks for the same one waits for one answer, or
    for the end of its removal."""

    def __init__(self, find: Callable[[str], CatalogRow | None], runs: RunRegistry) -> None:
        self._find = find
        self._runs = runs
        self._asked: dict[str, trio.Event] = {}

    async def ask(self, run_id: str) -> None:
        """Returns when the question was answered, or when whoever asked it gave up: ask the rule again."""
        asked = self._asked.get(run_id)
        if asked is not None:
            await asked.wait()
            return
        asked = self._asked[run_id] = trio.Event()
        try:
            removal = self._runs.ask(run_id)
            if removal is None:
                row = await in_thread(self._find, run_id)
                self._runs.answer(run_id, row)
            else:
                await settled(removal)
        finally:
            self._runs.give_up(run_id)
            del self._asked[run_id]
            asked.set()

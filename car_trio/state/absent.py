"""What is known of runs that are not in memory, and until when it is true.

The catalog is asked in a thread, so its answer may be older than what happened meanwhile: the run was begun anew, ended
or removed. Each of these ends the question, and an answer that nobody waits for any more is not believed.

A run that is being removed is neither there nor gone: nobody may join it, and its file is not free yet. Nothing is
known of it until the removal is settled.

A file is found by its run's id, and an id can be used again. Who reads while others go on takes the run's `Life` when
it decides to read, and looks at it when it has read: over means that what was read may be another run's, leaving that
a part of it may be missing.
"""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakValueDictionary

from car_trio.state.run import Run, Ticket, from_row
from car_trio.wire.runs import CatalogRow

MAX_REMEMBERED = 1024


class Lookup(Exception):  # noqa: N818 - a question, not a defect
    """The rule needs to know whether the disk has this run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id


class Life:
    """From a run's start to its removal. `leaving`: the removal, while it is under way and takes one file after the
    other."""

    __slots__ = ("__weakref__", "is_over", "leaving")

    def __init__(self) -> None:
        self.is_over = False
        self.leaving: Ticket | None = None


class Absent:
    """The newest answers about runs on disk: each an ended run, or `None` for one that does not exist."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Run | None] = OrderedDict()
        self._questions: set[str] = set()
        self._leaving: dict[str, Ticket] = {}
        self._lives: WeakValueDictionary[str, Life] = WeakValueDictionary()

    def find(self, run_id: str) -> Run | None:
        """Raises KeyError when only the disk can tell."""
        if run_id in self._leaving:
            raise KeyError(run_id)
        return self._known[run_id]

    def learn(self, run_id: str, row: CatalogRow | None) -> None:
        self._questions.discard(run_id)
        self._known[run_id] = None if row is None else from_row(row)
        self._known.move_to_end(run_id)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    def appeared(self, run_id: str) -> None:
        """It is in memory now, begun anew."""
        self._end_life(run_id)
        self._questions.discard(run_id)
        self._known.pop(run_id, None)

    # Questions

    def ask(self, run_id: str) -> Ticket | None:
        """The catalog is about to be asked. With a ticket it need not be: the run is being removed, until that is
        settled."""
        if run_id not in self._leaving:
            self._questions.add(run_id)
        return self._leaving.get(run_id)

    def answer(self, run_id: str, row: CatalogRow | None) -> None:
        """What the catalog said, unless something newer is known."""
        if run_id in self._questions:
            self.learn(run_id, row)

    def give_up(self, run_id: str) -> None:
        """Nobody waits for the answer any more, whether it came or not."""
        self._questions.discard(run_id)

    # Removals

    def is_still(self, row: CatalogRow) -> bool:
        """Whether nothing is known against that this very run lies on disk."""
        try:
            run = self.find(row.run_id)
        except KeyError:
            return row.run_id not in self._leaving
        return run is not None and run.started_at == row.started_at

    def leaves(self, run_id: str, removal: Ticket) -> None:
        self._questions.discard(run_id)
        self._leaving[run_id] = removal
        if (life := self._lives.get(run_id)) is not None:
            life.leaving = removal

    def left(self, run_id: str, *, gone: bool) -> None:
        """The removal is settled."""
        del self._leaving[run_id]
        if (life := self._lives.get(run_id)) is not None:
            life.leaving = None
        if gone:
            self._end_life(run_id)
            self.learn(run_id, None)

    # Lives

    def life(self, run_id: str) -> Life:
        """That of the run which has this id now, if one has. It is known for as long as somebody holds it."""
        return self._lives.setdefault(run_id, Life())

    def _end_life(self, run_id: str) -> None:
        life = self._lives.pop(run_id, None)
        if life is not None:
            life.is_over = True

"""`car-trio runs tail`: runs as they happen, every record once and in order.

Without a daemon the files are followed: a place between two records (`Position`) is all that is remembered, and it
survives continuations, so nothing is shown twice or left out whoever writes and however often that starts anew. With a
daemon the turns and the end come from its socket, when they are durable, through the client's watch, which counts the
turns it has handed out and dials again from that number when the daemon comes back (`live.py`); the start, which no
watch repeats, comes from the file.

Which runs there are is looked up by the names of the files: once, and then, without a daemon, again and again in those
directories that have changed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from car_trio.cli.app import OK, USAGE
from car_trio.cli.failures import FailedError
from car_trio.cli.files import Files
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.screen import folded, is_terminal, padded, styled
from car_trio.cli.timeline import Timeline
from car_trio.store.lock import lock_is_held
from car_trio.store.reader import START, Position
from car_trio.store.survey import agents, ref_of, survey_agent
from car_trio.wire.runs import RunRef, SearchRuns
from car_trio.wire.text import escaped_json, one_line

POLL_SECONDS = 0.5
MARK_COLUMNS = 8
SETTLED_NS = 3_000_000_000
"""More than the coarsest clock of a file system."""
From = Annotated[int, Flag("The first turn to show, counted from 0.", ("--from",))]
All = Annotated[bool, Flag("Every run that is open or begins.", ("--all",))]


def tail(
    run: Annotated[str | None, Flag("A run's id, or how it begins.")] = None,
    /,
    *,
    agent: Annotated[str | None, Flag("Every run of this agent that is open or begins.")] = None,
    everything: All = False,
    first_turn: From = 0,
    home: Home = None,
    json: Json = False,
) -> int:
    """Follow a run to its end, or an agent's runs or all until interrupted. --json: a document per record."""
    if (run is not None) + (agent is not None) + everything != 1:
        raise FailedError("say what to follow: a run, --agent or --all, and only one of them", USAGE)
    if first_turn < 0:
        raise FailedError(f"--from is {first_turn}: turns are counted from 0", USAGE)
    if first_turn and run is None:
        raise FailedError(
            "--from goes with one run: the turns of several are counted each on their own", USAGE
        )
    files = Files(home)
    if agent is not None:
        note_stranger(files, agent)
    chosen = Chosen(files, agent)
    printer = Printer(first_turn, json=json, several=run is None)
    only = None
    if run is not None:
        row = files.row(run)
        only = ref_of(row)
        if row.ended_at is None and lock_is_held(files.layout):
            from car_trio.cli.live import follow_run

            if follow_run(home, files, printer, only):
                return OK
    elif lock_is_held(files.layout):
        from car_trio.cli.live import follow_many

        if follow_many(home, files, printer, chosen):
            return OK
    with suppress(KeyboardInterrupt):
        follow_files(files, printer, (lambda: [only]) if only else chosen.new, until_ended=only is not None)
    return OK


def note_stranger(files: Files, agent_id: str) -> None:
    """An agent without a run may begin one yet; a name that was misspelt never will, so it is said."""
    try:
        files.require_agent(agent_id)
    except FailedError as unknown:
        print(f"car-trio: {one_line(str(unknown))}; waiting for its first run", file=sys.stderr)


class Chosen:
    """The runs to follow when no single one was named: those without an end now, and all that appear later."""

    def __init__(self, files: Files, agent: str | None) -> None:
        self._files = files
        self._agent = agent
        self._known: set[RunRef] = set()
        self._looked = False
        self._settled: dict[str, int] = {}

    def new(self) -> list[RunRef]:
        """Those that were not there at the last call."""
        # What has ended is looked up before the names, so that no run falls between the two.
        if not self._looked:
            self._looked = True
            rows = self._files.search(SearchRuns(agent_id=self._agent, limit=500))
            self._known = {ref_of(row) for row in rows if row.ended_at is not None}
        return [fresh for ref in self._names() for fresh in self.fresh(ref)]

    def fresh(self, ref: RunRef) -> list[RunRef]:
        """The run, if it is to be followed and was not known."""
        if ref in self._known or self._agent not in {None, ref.agent_id}:
            return []
        self._known.add(ref)
        return [ref]

    def _names(self) -> Iterator[RunRef]:
        """The runs in the directories that have changed since they were last looked at."""
        disk, layout = self._files.disk, self._files.layout
        for agent_id in agents(disk, layout) if self._agent is None else [self._agent]:
            try:
                changed = disk.stat(layout.agent_directory(agent_id)).mtime_ns
            except FileNotFoundError:
                continue
            if self._settled.get(agent_id) == changed:
                continue
            # A directory that changed just now may change again without a later time: it is looked at once more.
            if time.time_ns() - changed > SETTLED_NS:
                self._settled[agent_id] = changed
            for found in survey_agent(disk, layout, agent_id):
                yield found.ref


@dataclass
class Followed:
    """A run and how far it was shown: the place in its files, and the turns before it."""

    ref: RunRef
    position: Position = START
    turns: int = 0
    ended: bool = False


@dataclass
class Printer:
    """Shows records; several runs are told apart by the beginning of their ids."""

    first_turn: int = 0
    json: bool = False
    several: bool = False
    timelines: dict[RunRef, Timeline] = field(default_factory=dict[RunRef, Timeline])

    def record(self, ref: RunRef, kind: str, raw: bytes, turns: int) -> None:
        """A record after which the run has so many turns."""
        if kind in {"turn", "damaged"} and turns <= self.first_turn:
            if turns == self.first_turn > 0:
                self.timeline(ref).after(raw)
            return
        if self.json:
            head = msgspec.json.encode({"run_id": ref.run_id, "agent_id": ref.agent_id, "cursor": turns})
            document = head[:-1] + b',"record":' + raw + b"}"
            print(escaped_json(document.decode(errors="replace")), flush=True)
            return
        timeline = self.timeline(ref)
        mark = styled(f"{short(ref.run_id)} ", "cyan") if self.several else ""
        for line in timeline.lines(raw):
            print(f"{mark}{line}", flush=True)
        if kind == "started" and self.first_turn:
            timeline.after(None)
        if kind == "ended":
            del self.timelines[ref]

    def timeline(self, ref: RunRef) -> Timeline:
        taken = MARK_COLUMNS + 1 if self.several else 0
        return self.timelines.setdefault(ref, Timeline(begins=True, taken=taken))

    def retracted(self, ref: RunRef, turns: int) -> None:
        """The daemon has lost what came after so many turns."""
        if self.json:
            print(
                escaped_json(msgspec.json.encode({"run_id": ref.run_id, "retracted_from": turns}).decode()),
                flush=True,
            )
        else:
            print(
                styled(f"! turns from {turns} on were lost before they were safe on disk", "red"), flush=True
            )


def short(run_id: str) -> str:
    """The beginning of an id, in columns of the same width; in a pipe all of it."""
    return padded(folded(run_id[:MARK_COLUMNS] if is_terminal() else run_id, MARK_COLUMNS), MARK_COLUMNS)


def follow_files(
    files: Files,
    printer: Printer,
    new: Callable[[], list[RunRef]],
    *,
    until_ended: bool,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Shows what is there and then what is added; `until_ended` until no run that was found is open."""
    known: set[RunRef] = set()
    followed: list[Followed] = []
    while True:
        fresh = [ref for ref in new() if ref not in known]
        known.update(fresh)
        followed += [Followed(ref) for ref in fresh]
        for one in followed:
            catch_up(files, printer, one)
        followed = [one for one in followed if not one.ended]
        if until_ended and not followed:
            return
        pause(POLL_SECONDS)


def catch_up(files: Files, printer: Printer, one: Followed) -> None:
    """Shows what has been added to a run since. A run that was removed counts as ended."""
    while not one.ended:
        try:
            page = files.page(one.ref, one.position)
        except FileNotFoundError:
            one.ended = True
            return
        for record in page.records:
            # A line that cannot be read stands in the place of a turn, but for the first.
            is_turn = record.kind == "turn" or (record.kind == "damaged" and record.after.record > 1)
            one.turns += is_turn
            one.ended = one.ended or record.kind == "ended"
            printer.record(one.ref, record.kind, record.raw, one.turns)
        one.position = page.position
        if page.at_end:
            return

"""What must be true of a run's files after a power cut, whatever the cut has left; read without code of the store's.

A *state* is what one power cut can leave of one run, or of one journal file beside the runs: which of its names are
there, and the bytes under each. Every state is made as bytes and judged as bytes. States are counted once: when
nothing about a run has changed between two operations it is not judged again, and when only the promise to it has
grown it is judged again and not counted. Nothing reads two runs to understand one, so a state of the whole disk is
right if each run in it is; those combinations are not counted. The one promise between two files is judged as one:
a run may be gone only when its line in `deleted-runs.jsonl` is certain.

- Every line that is whole and free of zeros is one that was written, at its place, once.
- Every line that was promised is there.
- When the name of a removed run is used again, no line of the run before is there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product, takewhile
from pathlib import Path

import msgspec

from tests.sim_disk import SimDirectory, SimDisk, SimFile
from torture.orders import Verdict
from torture.power_states import FileStates, extremes

MOST_NAMES = 6
"""Files of one name, with its continuations, that are looked at."""


@dataclass(slots=True)
class Account:
    """What was written to one name, in order, and how many of these lines were promised: of one life of a run, if its
    name is used again after a removal."""

    path_of: Callable[[int], Path]
    places: dict[bytes, int] = field(default_factory=dict[bytes, int])
    promised: int = 0
    tombstone: bytes | None = None
    """The line that must be certain before the run may be gone; None while nobody removes it."""
    removed: bool = False
    """It was promised that it is gone."""
    earlier: frozenset[bytes] = frozenset()
    """The lines of the lives before this one, all of them gone when it began."""
    doubtful: frozenset[bytes] = frozenset()
    """Lines that were not promised and that a cut seems to have taken."""

    def put(self, lines: Sequence[bytes]) -> int:
        """Notes lines on their way; returns how many there are now."""
        for line in lines:
            self.places[line] = len(self.places)
        return len(self.places)


class Judge:
    """Looks at one account at every cut."""

    def __init__(
        self,
        account: Account,
        disk: SimDisk,
        verdict: Verdict,
        dice: random.Random,
        *,
        certain: Callable[[bytes], bool],
    ) -> None:
        self.account = account
        self._disk = disk
        self._verdict = verdict
        self._dice = dice
        self._certain = certain
        self._files: dict[int, tuple[SimFile, FileStates]] = {}
        self._versions: tuple[object, ...] = ()
        self._judged: set[int] = set()
        self._told: set[str] = set()
        self._whole: tuple[bytes, frozenset[int]] = b"", frozenset()

    def look(self) -> None:
        """Judges what a power cut could leave now and could not leave before."""
        options = self._options()
        files = {id(each): each for option in options for each in option if each is not None}
        versions = (
            tuple(tuple(map(id, option)) for option in options),
            tuple(each.version for each in files.values()),
            self.account.promised,
            self.account.removed,
        )
        if versions == self._versions:
            return
        promise_grew = self._versions[2:] != versions[2:]
        same_names = self._versions[:1] == versions[:1]
        self._versions = versions
        for option in product(*options):
            present = [each for each in takewhile(lambda each: each is not None, option) if each is not None]
            if not present:
                self._absent()
            elif len(present) == 1:
                self._one_file(present[0], again=promise_grew or not same_names)
            else:
                self._continued(present)

    def lines(self, option: Sequence[SimFile]) -> list[int | None]:
        """The places of all whole lines of files as a process sees them."""
        return [self.account.places.get(line) for line in reading([bytes(each.seen) for each in option])]

    def _options(self) -> list[list[SimFile | None]]:
        """For each file of the name what may stand there. Without its directory no file is there."""
        path = self.account.path_of(0)
        folder, above = self._disk.folder(path.parent), self._disk.folder(path.parent.parent)
        if folder is None:
            return [[None]]
        found: list[list[SimFile | None]] = []
        for segment in range(MOST_NAMES):
            name = self.account.path_of(segment).name
            nodes = folder.may_stand_for(name)
            option = list(dict.fromkeys(each for each in nodes if not isinstance(each, SimDirectory)))
            if segment and option == [None]:
                break
            found.append(option)
        if (
            above is not None
            and path.parent != self._disk.root_path
            and None in above.may_stand_for(path.parent.name)
        ):
            found[0] = list(dict.fromkeys([*found[0], None]))
        return found

    def _count(self) -> None:
        self._verdict.counts["states"] += 1

    def _absent(self) -> None:
        if 0 not in self._judged:
            self._judged.add(0)
            self._count()
        gone = self.account.tombstone is not None and self._certain(self.account.tombstone)
        self._expect(gone or not self.account.promised, "there is no file of it")

    def _one_file(self, file: SimFile, *, again: bool) -> None:
        known = self._files.get(id(file))
        if known is None:
            known = self._files[id(file)] = (file, FileStates(file, self._dice))
        self._expect(not self.account.removed, "was removed, and is back")
        if self.account.tombstone is not None and self.account.removed:
            return
        self._judge_contents(file, known[1], counted=True)
        if again and not self._promised() <= self._settled(file)[1]:
            self._judge_contents(file, FileStates(file, self._dice), counted=False)

    def _judge_contents(self, file: SimFile, states: FileStates, *, counted: bool) -> None:
        base, contents = states.new()
        last, before = self._settled(file, base)
        need = self._promised() - before
        self._whole = b"", frozenset({-1})
        count = 0
        for content in contents:
            count += 1
            self._region(content, last, need)
        self._verdict.counts["states" if counted else "states judged again"] += count

    def _promised(self) -> frozenset[int]:
        return frozenset(range(self.account.promised))

    def _settled(self, file: SimFile, until: int | None = None) -> tuple[int, frozenset[int]]:
        """The last place and all places that stand before an offset of the platter, judged too."""
        content = bytes(file.platter[:until])
        places = self._places(content)
        return max(places, default=-1), frozenset(places)

    def _region(self, content: bytes, last: int, need: frozenset[int]) -> None:
        """The end of a file, after lines of which the last has the place `last`."""
        whole = content[: content.rfind(b"\n") + 1]
        if whole == self._whole[0] and need == self._whole[1]:
            return
        self._whole = whole, need
        places = self._places(whole, last)
        if need and not need <= set(places):
            self._expect(False, f"promised lines are lost: {sorted(need - set(places))[:5]}")

    def _places(self, content: bytes, last: int = -1) -> list[int]:
        """The places of all whole lines that were written; the rest must be no records."""
        places: list[int] = []
        for line in content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]:
            place = self.account.places.get(line)
            if place is None:
                if line in self.account.earlier:
                    self._expect(False, f"another life's line is back: {line[:80]!r}")
                elif not (is_damaged(line) or line in self.account.doubtful):
                    self._expect(False, f"holds a record that nobody wrote: {line[:80]!r}")
            elif place > last:
                places.append(place)
                last = place
            else:
                self._expect(False, f"line {place} is there after line {last}")
        return places

    def _continued(self, files: Sequence[SimFile]) -> None:
        """A run in several files: each content of the last against the extremes of the others, and the reverse."""
        self._expect(not self.account.removed, "was removed, and is back")
        all_new: list[list[bytes]] = []
        for file in files:
            known = self._files.setdefault(id(file), (file, FileStates(file, self._dice)))[1]
            base, contents = known.new()
            head = bytes(file.platter[:base])
            all_new.append([head + content for content in contents])
        ends = [extremes(file) for file in files]
        for place, new in enumerate(all_new):
            self._combined([*ends[:place], new, *ends[place + 1 :]])
        self._combined(ends)

    def _combined(self, contents: Sequence[Sequence[bytes]]) -> None:
        for files in product(*contents):
            known = hash(files)
            if known not in self._judged:
                self._judged.add(known)
                self._count()
            places = self._places(b"".join(line + b"\n" for line in reading(files)))
            self._expect(self._promised() <= set(places), "promised lines are lost in a continued file")

    def _expect(self, holds: object, finding: str) -> None:
        if not holds and finding[:20] not in self._told:
            self._told.add(finding[:20])  # one of a kind is enough: the next thousand states have it too
            self._verdict.expect(False, f"{self.account.path_of(0).name}: {finding}")


def reading(files: Sequence[bytes]) -> Iterator[bytes]:
    """The whole lines of a name, each file up to where the next one says."""
    for place, content in enumerate(files):
        counted: int | None = None
        following = files[place + 1] if place + 1 < len(files) else b""
        first, newline, _ = following.partition(b"\n")
        if newline:
            counted = previous_bytes(first)
        lines = content[:counted]
        whole = lines[: lines.rfind(b"\n") + 1].split(b"\n")[:-1]
        if place and whole and previous_bytes(whole[0]) is not None:
            del whole[0]
        yield from whole
        if not newline:
            return


def previous_bytes(line: bytes) -> int | None:
    """How many bytes of the file before count, when this line says so."""
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    return int(found["previous_bytes"]) if found.get("record") == "segment" else None


def is_damaged(line: bytes) -> bool:
    """Whether no reader takes the line for a record."""
    if b"\0" in line:
        return True
    try:
        line.decode()
        return not isinstance(msgspec.json.decode(line), dict)
    except (UnicodeDecodeError, msgspec.DecodeError):
        return True

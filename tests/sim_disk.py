"""A disk that forgets: it knows what survives a power cut and what does not, and fails when it is told to.

A file is what a process sees (`seen`) and what the platter holds (`platter`); a directory's names likewise. A
write makes bytes dirty, a sync carries the dirty bytes over. A sync that fails drops them: they are still
seen, the next sync succeeds, and they are on no platter. `crash` makes the disk as it may be found after a
power cut."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from car_trio.store.disk import Disk, FileStat, NotRegularError

ROOT = Path("/sim")
Change = tuple[int, bytes | None]
"""Bytes written at an offset, or a cut to a size."""
MUTATING = [
    "create",
    "open_append",
    "open_read",
    "write",
    "sync",
    "truncate",
    "make_directory",
    "remove_directory",
    "rename",
    "unlink",
    "sync_directory",
]


class SimFile:
    def __init__(self) -> None:
        self.seen = bytearray()
        self.platter = bytearray()
        self.dirty: list[tuple[int, int]] = []
        self.changes: list[Change] = []
        """All since the last sync that succeeded: of each a power cut may leave all, a part or nothing. A failed sync
        leaves them in doubt."""
        self.version = 0
        """Rises with every change and every sync."""
        self.mtime_ns = 0

    def change(self, offset: int, written: bytes | None) -> None:
        self.changes.append((offset, written))
        self.version += 1

    def carry_over(self) -> None:
        self.changes.clear()
        self.version += 1
        for start, end in self.dirty:
            self.put_on_platter(start, bytes(self.seen[start:end]))
        self.dirty.clear()
        self.resize_platter(len(self.seen))

    def put_on_platter(self, start: int, content: bytes) -> None:
        self.resize_platter(max(len(self.platter), start + len(content)))
        self.platter[start : start + len(content)] = content

    def resize_platter(self, size: int) -> None:
        del self.platter[size:]
        self.platter.extend(bytes(size - len(self.platter)))


class SimDirectory:
    def __init__(self) -> None:
        self.seen: dict[str, SimFile | SimDirectory] = {}
        self.platter: dict[str, SimFile | SimDirectory] = {}
        self.unsynced: dict[str, list[SimFile | SimDirectory | None]] = {}
        """What each name that changed since the last sync has stood for: a power cut may leave any of it."""
        self.version = 0

    def set(self, name: str, found: SimFile | SimDirectory | None) -> None:
        """Let the name stand for something else, or for nothing."""
        self.unsynced.setdefault(name, [self.platter.get(name)]).append(found)
        self.version += 1
        if found is None:
            del self.seen[name]
        else:
            self.seen[name] = found

    def carry_over(self) -> None:
        self.platter = dict(self.seen)
        self.unsynced.clear()
        self.version += 1

    def may_stand_for(self, name: str) -> list[SimFile | SimDirectory | None]:
        """All that a name may stand for after a power cut."""
        return self.unsynced.get(name) or [self.platter.get(name)]


class Fault:
    """What happens at the n-th operation (of a kind): an error, an error after half a write, or half a
    write."""

    def __init__(
        self, at: int, number: int = errno.EIO, *, kind: str | None = None, halfway: bool = False
    ) -> None:
        self.at = at
        self.number = number
        self.kind = kind
        self.halfway = halfway
        self.struck = False


class SimDisk(Disk):
    """A disk with nothing on it but the directory `root`."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = SimDirectory()
        self.root_path = root
        folder = self.root
        for part in root.parts[1:]:
            folder.seen[part] = folder.platter[part] = below = SimDirectory()
            folder = below
        self.open_files: dict[int, SimFile] = {}
        self.log: list[str] = []
        self.faults: list[Fault] = []
        self.broken: dict[str, int] = {}
        """Operations that fail until the disk is healed, with what."""
        self.full_at: Callable[[Path | None], bool] = lambda path: True
        """Which paths `broken` concerns (writes and syncs are told no path: they ask with the file's)."""
        self.space = 1 << 40
        self.on_step: Callable[[], None] = lambda: None
        """Called before every operation."""
        self._paths: dict[int, Path] = {}
        self._next = 1000
        self._clock = 0
        self._counts: dict[str | None, int] = {}

    # The port

    def create(self, path: Path) -> int:
        self._step("create", path)
        folder = self._folder(path.parent)
        if path.name in folder.seen:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        folder.set(path.name, SimFile())
        return self._open_descriptor(path)

    def open_append(self, path: Path) -> int:
        self._step("open_append", path)
        return self._open_descriptor(path)

    def open_read(self, path: Path) -> int:
        self._step("open_read", path)
        return self._open_descriptor(path)

    def write(self, descriptor: int, payload: bytes) -> int:
        fault = self._step("write", self._paths[descriptor], halfway=True)
        file = self.open_files[descriptor]
        taken = payload if fault is None else payload[: len(payload) // 2]
        start = len(file.seen)
        file.seen += taken
        file.dirty.append((start, len(file.seen)))
        file.change(start, taken)
        self._touch(file)
        if fault is not None and fault.number:
            raise OSError(fault.number, os.strerror(fault.number))
        return len(taken)

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        return bytes(self.open_files[descriptor].seen[offset : offset + count])

    def sync(self, descriptor: int) -> None:
        file = self.open_files[descriptor]
        try:
            self._step("sync", self._paths[descriptor])
        except OSError:
            file.dirty.clear()
            raise
        file.carry_over()

    def sync_queue(self) -> None:
        """The kernel knows none of these files."""

    def truncate(self, descriptor: int, size: int) -> None:
        self._step("truncate", self._paths[descriptor])
        file = self.open_files[descriptor]
        del file.seen[size:]
        file.dirty = [(start, min(end, size)) for start, end in file.dirty if start < size]
        file.change(size, None)
        self._touch(file)

    def close(self, descriptor: int) -> None:
        del self.open_files[descriptor]
        del self._paths[descriptor]

    def fstat(self, descriptor: int) -> FileStat:
        return self._stat(self.open_files[descriptor])

    def stat(self, path: Path) -> FileStat:
        return self._stat(self._find(path))

    def entries(self, path: Path) -> list[tuple[str, FileStat]]:
        return [(name, self._stat(found)) for name, found in self._folder(path).seen.items()]

    def make_root(self, path: Path) -> None:
        self._folder(path)

    def make_directory(self, path: Path) -> None:
        self._step("make_directory", path)
        folder = self._folder(path.parent)
        if path.name in folder.seen:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        folder.set(path.name, SimDirectory())

    def remove_directory(self, path: Path) -> None:
        self._step("remove_directory", path)
        if self._folder(path).seen:
            raise OSError(errno.ENOTEMPTY, "not empty", str(path))
        self._folder(path.parent).set(path.name, None)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename", source)
        found = self._find(source)
        self._folder(source.parent).set(source.name, None)
        self._folder(target.parent).set(target.name, found)

    def unlink(self, path: Path) -> None:
        self._step("unlink", path)
        self._find(path)
        self._folder(path.parent).set(path.name, None)

    def sync_directory(self, path: Path) -> None:
        folder = self._folder(path)
        self._step("sync_directory", path)
        folder.carry_over()

    def free_bytes(self, path: Path) -> int:
        return self.space

    # For tests

    def begin(self) -> None:
        """Forget what was done so far: faults count from here."""
        self.log.clear()
        self._counts.clear()

    def heal(self) -> None:
        self.broken.clear()

    def folder(self, path: Path) -> SimDirectory | None:
        """The directory of that path as a process sees it, if there is one."""
        with suppress(OSError):
            return self._folder(path)
        return None

    def text(self, path: Path) -> bytes:
        """What a process sees in a file."""
        found = self._find(path)
        assert isinstance(found, SimFile)
        return bytes(found.seen)

    def put(self, path: Path, content: bytes) -> None:
        """A file that is there, durably."""
        file = SimFile()
        file.seen += content
        file.platter += content
        folder = self._folder(path.parent)
        folder.seen[path.name] = folder.platter[path.name] = file
        self._touch(file)

    def crash(self, choice: random.Random) -> SimDisk:
        """The disk after a power cut: of what was not synced, anything may be there, or zeros in its
        place."""
        after = SimDisk(self.root_path)
        after.root = _after_crash(self.root, choice, {})
        after._clock = self._clock
        return after

    def restart(self) -> SimDisk:
        """The disk as the next process finds it when only this one was killed."""
        after = SimDisk(self.root_path)
        after.root, after._clock = self.root, self._clock
        return after

    def _step(self, kind: str, path: Path, *, halfway: bool = False) -> Fault | None:
        self.on_step()
        self.log.append(f"{kind} {path.name}")
        for counted in (None, kind):
            self._counts[counted] = self._counts.get(counted, 0) + 1
        if kind in self.broken and self.full_at(path):
            raise OSError(self.broken[kind], os.strerror(self.broken[kind]), str(path))
        for fault in self.faults:
            if fault.kind in (None, kind) and self._counts[fault.kind] == fault.at:
                fault.struck = True
                if fault.halfway and halfway:
                    return fault
                if fault.number:
                    raise OSError(fault.number, os.strerror(fault.number), str(path))
        return None

    def _open_descriptor(self, path: Path) -> int:
        found = self._find(path)
        if isinstance(found, SimDirectory):
            raise NotRegularError(path)
        self._next += 1
        self.open_files[self._next] = found
        self._paths[self._next] = path
        return self._next

    def _find(self, path: Path) -> SimFile | SimDirectory:
        found: SimFile | SimDirectory = self.root
        for part in path.parts[1:]:
            if not isinstance(found, SimDirectory) or part not in found.seen:
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            found = found.seen[part]
        return found

    def _folder(self, path: Path) -> SimDirectory:
        found = self._find(path)
        if isinstance(found, SimFile):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))
        return found

    def _touch(self, file: SimFile) -> None:
        self._clock += 1
        file.mtime_ns = self._clock

    def _stat(self, found: SimFile | SimDirectory) -> FileStat:
        if isinstance(found, SimFile):
            return FileStat(len(found.seen), found.mtime_ns, regular=True, directory=False)
        return FileStat(0, 0, regular=False, directory=True)


def _after_crash(folder: SimDirectory, choice: random.Random, files: dict[int, SimFile]) -> SimDirectory:
    after = SimDirectory()
    for name in sorted(folder.seen.keys() | folder.platter.keys() | folder.unsynced.keys()):
        found = choice.choice(folder.may_stand_for(name))
        if isinstance(found, SimDirectory):
            after.seen[name] = _after_crash(found, choice, files)
        elif found is not None:
            after.seen[name] = files.setdefault(id(found), _file_after_crash(found, choice))
    after.platter = dict(after.seen)
    return after


def _file_after_crash(file: SimFile, choice: random.Random) -> SimFile:
    after = SimFile()
    after.platter += file.platter
    for start, end in file.dirty:
        fate = choice.choice(("nothing", "all", "part", "zeros", "part and zeros"))
        kept = end if fate == "all" else choice.randint(start, end)
        if fate in ("all", "part", "part and zeros"):
            after.put_on_platter(start, bytes(file.seen[start:kept]))
        if fate in ("zeros", "part and zeros"):
            after.resize_platter(max(len(after.platter), end))
    if len(after.platter) > len(file.seen):
        after.resize_platter(choice.choice((len(file.seen), len(after.platter))))
    after.seen += after.platter
    after.mtime_ns = file.mtime_ns
    return after

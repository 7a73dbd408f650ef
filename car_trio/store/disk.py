"""The port through which every byte of the store reaches the file system (protocol `runs.md` section 3).

It is small so that a simulated disk can stand in for it, fail at any call and lose power at any moment. It
decides nothing: it opens, writes, syncs and reports errors as `OSError`; what an error means is the caller's
business. The catalog (SQLite) goes around the port on purpose: it is derived from the files and can be thrown
away.

Two promises are made here once for everybody. Nothing is followed: neither the last component of a path nor
the directory it lies in may be a symbolic link, and what is opened is a regular file, so that a planted link
leads nowhere and a planted FIFO blocks nobody. And nothing is readable for others: files are 0600,
directories 0700, whatever the umask is."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from car_trio.store.sync_queue import SyncQueue, open_queue

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


NOT_REGULAR = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EMLINK)
"""How opening a link, a directory, a socket or a FIFO without its other end is refused."""


class FileStat(NamedTuple):
    """What the store wants to know about a name. `regular` is false for links, FIFOs, sockets and
    directories."""

    size: int
    mtime_ns: int
    regular: bool
    directory: bool


class InTheWayError(OSError):
    """The disk is well: what lies at this name is something else than the store put there."""


class NotRegularError(InTheWayError):
    """Something else than a regular file lies where a file of the store belongs."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "not a regular file (refused, never followed)", str(path))


class NotDirectoryError(InTheWayError, NotADirectoryError):
    """Something else than a directory lies where a directory of the store belongs."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ENOTDIR, "not a directory (refused, never followed)", str(path))


def _datasync() -> Callable[[int], None]:
    """How this platform makes the bytes of a file survive a power cut."""
    if sys.platform == "darwin":  # pragma: no cover - fsync there leaves the bytes in the drive's own cache

        def full_sync(descriptor: int) -> None:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)

        return full_sync
    return os.fdatasync


class Disk:
    """The real file system. Safe from any thread: it has no state of its own."""

    _sync = staticmethod(_datasync())

    def create(self, path: Path) -> int:
        """Make a new file for appending and reading; `FileExistsError` when the name is taken by anything."""
        return self._open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL)

    def open_append(self, path: Path) -> int:
        """Open an existing file for appending and reading."""
        return self._open(path, os.O_RDWR | os.O_APPEND)

    def open_read(self, path: Path) -> int:
        return self._open(path, os.O_RDONLY)

    def write(self, descriptor: int, payload: bytes) -> int:
        """Append; returns how many bytes were taken, which may be fewer than offered."""
        return os.write(descriptor, payload)

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        return os.pread(descriptor, count, offset)

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes survive a power cut. After an error the descriptor is not to be
        trusted."""
        self._sync(descriptor)

    def sync_queue(self) -> SyncQueue | None:
        """What syncs many files with one call, as `sync` does one; `None` where nothing does."""
        return open_queue(self.sync)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def fstat(self, descriptor: int) -> FileStat:
        return _file_stat(os.fstat(descriptor))

    def stat(self, path: Path) -> FileStat:
        """Of the name itself, never of what a link points to."""
        with _directory(path.parent) as parent:
            return _file_stat(os.stat(path.name, dir_fd=parent, follow_symlinks=False))

    def entries(self, path: Path) -> list[tuple[str, FileStat]]:
        """The names in a directory with what they are, in no order. Names that vanish meanwhile are left
        out."""
        with _directory(path) as descriptor, os.scandir(descriptor) as found:
            return list(_entries(found))

    def make_root(self, path: Path) -> None:
        """Make a directory with all above it, unless it is there."""
        for missing in [each for each in (*reversed(path.parents), path) if not each.exists()]:
            missing.mkdir(DIRECTORY_MODE, exist_ok=True)

    def make_directory(self, path: Path) -> None:
        """Make one directory; `FileExistsError` when the name is taken by anything."""
        path.mkdir(DIRECTORY_MODE)

    def remove_directory(self, path: Path) -> None:
        path.rmdir()

    def rename(self, source: Path, target: Path) -> None:
        """Move a name within one directory, replacing what had the new name."""
        with _directory(source.parent) as parent:
            os.rename(source.name, target.name, src_dir_fd=parent, dst_dir_fd=parent)

    def unlink(self, path: Path) -> None:
        with _directory(path.parent) as parent:
            os.unlink(path.name, dir_fd=parent)

    def sync_directory(self, path: Path) -> None:
        """Return when the names in a directory survive a power cut."""
        with _directory(path) as descriptor:
            os.fsync(descriptor)

    def free_bytes(self, path: Path) -> int:
        """What this user may still write to the file system that holds `path`."""
        space = os.statvfs(path)
        return space.f_bavail * space.f_frsize

    def _open(self, path: Path, flags: int) -> int:
        with _directory(path.parent) as parent:
            try:
                descriptor = os.open(path.name, flags | _FLAGS, FILE_MODE, dir_fd=parent)
            except OSError as error:
                if error.errno in NOT_REGULAR:
                    raise NotRegularError(path) from None
                error.filename = str(path)
                raise
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise NotRegularError(path)


@contextmanager
def _directory(path: Path) -> Generator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _file_stat(result: os.stat_result) -> FileStat:
    mode = result.st_mode
    return FileStat(result.st_size, result.st_mtime_ns, stat.S_ISREG(mode), stat.S_ISDIR(mode))


def _entries(entries: Iterator[os.DirEntry[str]]) -> Iterator[tuple[str, FileStat]]:
    for entry in entries:
        try:
            result = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield entry.name, _file_stat(result)

"""The policy files under the state root: noticed by one stat pass, read as text. Both block, briefly."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

MAX_FILES = 1000
MAX_FILE_BYTES = 1024 * 1024
SUFFIX = ".toml"


class Stamp(NamedTuple):
    """What a file looks like from outside; a change of any of it makes it worth reading."""

    name: str
    size: int
    mtime_ns: int
    inode: int
    is_file: bool


class Unreadable(Exception):  # noqa: N818 - an answer, not a defect
    """A policy file, or their directory, that cannot be read: which and why."""


def stamps(directory: Path) -> tuple[Stamp, ...]:
    """The policy files as they are now, sorted by name; none when there is no directory. Raises `Unreadable`."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(SUFFIX)]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise Unreadable(f"{directory}: {error.strerror}") from None
    if len(names) > MAX_FILES:
        raise Unreadable(f"{directory}: holds more than {MAX_FILES} policy files")
    return tuple(stamp for name in sorted(names) if (stamp := _stamp(directory / name)) is not None)


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        # Gone since the directory was listed, or a link to nothing, which is a file that somebody meant to be there.
        return Stamp(path.name, 0, 0, 0, False) if path.is_symlink() else None
    except OSError as error:
        raise Unreadable(f"{_named(path)}: {error.strerror}") from None
    return Stamp(path.name, found.st_size, found.st_mtime_ns, found.st_ino, stat.S_ISREG(found.st_mode))


def read_texts(directory: Path, files: tuple[Stamp, ...]) -> list[tuple[str, str]]:
    """Name, with that of the directory, and text of each of these files. Raises `Unreadable`."""
    return [(_named(directory / each.name), _text(directory / each.name, each)) for each in files]


def _named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _bytes_of(path: Path) -> bytes:
    # What was a regular file a moment ago may be a FIFO now, for whose writer nobody should wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _text(path: Path, stamp: Stamp) -> str:
    if not stamp.is_file:
        raise Unreadable(f"{_named(path)}, line 1: is no regular file")
    if stamp.size > MAX_FILE_BYTES:
        raise Unreadable(f"{_named(path)}, line 1: has {stamp.size} bytes, at most {MAX_FILE_BYTES} are read")
    try:
        return _bytes_of(path).decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise Unreadable(f"{_named(path)}, line {line}: is not UTF-8") from None
    except OSError as error:
        raise Unreadable(f"{_named(path)}, line 1: {error.strerror}") from None

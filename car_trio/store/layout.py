"""Where everything lies under the state root, and how an id becomes a file name (protocol `runs.md` section
3).

```text
<root>/catalog.sqlite        derived
<root>/deleted-runs.jsonl    tombstones
<root>/run/                  lock, what the daemon says about itself, the mark of a clean stop
<root>/runs/<agent>/<run>.jsonl, <run>~1.jsonl …, <run>.torn
```
Ids come from outside. `encode_name` maps each to a name that is one path component, never hidden, never `..`,
equal for no two ids (also on file systems that ignore case), and free of `~`, which is how a continuation is
told from a run. `decode_name` accepts exactly what `encode_name` makes, so a foreign file among ours is no
run."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from car_trio.store.disk import Disk, NotDirectoryError
from car_trio.wire.errors import Refusal, invalid_params
from car_trio.wire.runs import RunRef

MAX_NAME_BYTES = 240
SUFFIX = ".jsonl"
TORN_SUFFIX = ".torn"
_PLAIN = re.compile(rb"[^a-z0-9_.-]")
_RUN_FILE = re.compile(r"(?P<name>[^~]+)(?:~(?P<segment>[1-9][0-9]{0,8}))?\.jsonl")


class RunFileName(NamedTuple):
    """What the name of a file in an agent's directory says. `segment` counts continuations from 1; 0 is the
    run."""

    run_id: str
    segment: int


def encode_name(identifier: str) -> str:
    """The file name of an id; a `Refusal` (-32602) that names the problem when there can be none."""
    if not identifier:
        raise invalid_params("an id is empty: expected at least one character")
    try:
        encoded = identifier.encode()
    except UnicodeEncodeError:
        raise invalid_params(f"the id {identifier!a} is not valid UTF-8: it holds a lone surrogate") from None
    if any(unicodedata.category(character) == "Cc" for character in identifier):
        raise invalid_params(f"the id {identifier!a} holds a control character")
    name = _PLAIN.sub(_percent, encoded).decode("ascii")
    if name.startswith("."):
        name = "%2e" + name[1:]
    if len(name) > MAX_NAME_BYTES:
        raise invalid_params(
            f"an id is too long: {identifier[:40]!a}… takes {len(name)} bytes as a file name, "
            f"at most {MAX_NAME_BYTES} are possible"
        )
    return name


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02x" % match[0][0]


def decode_name(name: str) -> str | None:
    """The id whose file name this is, or None when it is not a name of ours."""
    try:
        raw = re.sub(rb"%([0-9a-f]{2})", _unpercent, name.encode())
        identifier = raw.decode()
    except UnicodeError:
        return None
    with suppress(Refusal):
        if encode_name(identifier) == name:
            return identifier
    return None


def _unpercent(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 16)])


def parse_run_file(name: str) -> RunFileName | None:
    """The run and segment that a name in an agent's directory stands for; None for anything else there."""
    match = _RUN_FILE.fullmatch(name)
    run_id = decode_name(match["name"]) if match else None
    if match is None or run_id is None:
        return None
    return RunFileName(run_id, int(match["segment"] or 0))


class Layout:
    """The paths under one state root. The root itself may be reached through links; nothing under it may."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()
        self.runs = self.root / "runs"
        self.run = self.root / "run"
        self.catalog = self.root / "catalog.sqlite"
        self.deleted_runs = self.root / "deleted-runs.jsonl"
        self.config = self.root / "config.toml"
        self.lock = self.run / "daemon.lock"
        self.daemon_json = self.run / "daemon.json"
        self.clean_stop = self.run / "clean-stop"

    def agent_directory(self, agent_id: str) -> Path:
        return self.runs / encode_name(agent_id)

    def run_file(self, ref: RunRef, segment: int = 0) -> Path:
        """The file of a run, or its n-th continuation."""
        return self.agent_directory(ref.agent_id) / (encode_name(ref.run_id) + _tilde(segment) + SUFFIX)

    def torn_file(self, ref: RunRef, segment: int = 0) -> Path:
        """Where what cannot be read at the end of a run's file is moved to."""
        return self.agent_directory(ref.agent_id) / (encode_name(ref.run_id) + _tilde(segment) + TORN_SUFFIX)

    def log_file(self, relative: str, segment: int = 0) -> Path:
        """A journal file beside the runs; `ValueError` for a path that would leave the root."""
        path = self.check_relative(relative)
        return self.root / path.with_name(path.stem + _tilde(segment) + path.suffix)

    @staticmethod
    @lru_cache(maxsize=1024)
    def check_relative(relative: str) -> PurePosixPath:
        """The path of a journal file relative to the root; `ValueError` when it is none."""
        path = PurePosixPath(relative)
        if path.is_absolute() or not path.parts or ".." in path.parts or "~" in path.name or "\0" in relative:
            raise ValueError(f"not a path under the state root: {relative!r}")
        return path

    def prepare(self, disk: Disk) -> None:
        """Make the directories that everything else expects, durably. What exists is left as it is."""
        disk.make_root(self.root)
        for directory in (self.run, self.runs):
            make_directory(disk, directory)
        mark = self.runs / ".nobackup"
        if not exists(disk, mark):
            with suppress(FileExistsError):
                disk.close(disk.create(mark))


def exists(disk: Disk, path: Path) -> bool:
    """Whether the name is taken, by whatever it is."""
    try:
        disk.stat(path)
    except FileNotFoundError:
        return False
    return True


def make_directory(disk: Disk, path: Path) -> bool:
    """Make one directory and sync its name; false when it was there. Anything but a directory there is
    refused."""
    if exists(disk, path):
        if not disk.stat(path).directory:
            raise NotDirectoryError(path)
        return False
    try:
        disk.make_directory(path)
    except FileExistsError:  # made meanwhile by another process that starts
        return make_directory(disk, path)
    try:
        disk.sync_directory(path.parent)
    except OSError:
        # A name whose sync failed may vanish at a power cut even if a later sync succeeds: make it anew then.
        with suppress(OSError):
            disk.remove_directory(path)
        raise
    return True


def _tilde(segment: int) -> str:
    return f"~{segment}" if segment else ""

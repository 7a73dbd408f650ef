"""The catalog's writing side: what is known about every run without opening its file (protocol `runs.md`
section 3).

SQLite, derived, rebuildable at any time, never the truth. A row is written after the lines it describes are
synced, so the catalog may be behind the files and is never ahead of them. Whether it can be trusted at boot
is decided by a mark of a clean stop that lies outside of it (`run/clean-stop`) and must name the same stop as
the catalog does: an old catalog put back from a backup is not trusted. Anything that looks wrong is thrown
away; the files make it anew.

Without the mark a row is still trusted when its files have the size and the time of change that it says. That is
wrong for files that were never synced: a power cut may leave their size and time and lose their bytes. So mode `os`
notes in which boot of the machine its rows were written, and after another boot none of them is trusted."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from car_trio.store.disk import Disk, NotRegularError
from car_trio.store.layout import Layout
from car_trio.wire.runs import CatalogRow, RunRef

LOG = logging.getLogger("car_trio.catalog")
SCHEMA_VERSION = 1
CACHE_KIB = 512
"""Of each connection. The system caches the file too, so what SQLite keeps beside it only costs memory."""
BUSY_MS = 100
"""How long a write waits for another process that writes. Nobody but a person's own tool is one, and the journal's
thread may not wait for that: what the catalog did not take it takes later."""
COLUMNS = ", ".join(CatalogRow.__struct_fields__)
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL, agent_id TEXT NOT NULL, intent TEXT NOT NULL, outcome_description TEXT,
    started_at TEXT NOT NULL, ended_at TEXT, status TEXT NOT NULL, outcome TEXT, summary TEXT NOT NULL,
    turn_count INTEGER NOT NULL, tools TEXT NOT NULL, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    folded TEXT,
    UNIQUE (run_id, agent_id)
);
CREATE INDEX runs_listed ON runs (agent_id, started_at DESC, run_id DESC);
CREATE INDEX runs_newest ON runs (started_at DESC, run_id DESC);
CREATE INDEX runs_open ON runs (agent_id, run_id) WHERE ended_at IS NULL;
"""
_WORDS = 'CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "unicode61 remove_diacritics 0")'
_UPSERT = f"""
INSERT INTO runs ({COLUMNS}, folded) VALUES ({", ".join("?" * (len(CatalogRow.__struct_fields__) + 1))})
ON CONFLICT (run_id, agent_id) DO UPDATE SET
    {", ".join(f"{column} = excluded.{column}" for column in (*CatalogRow.__struct_fields__, "folded"))}
RETURNING id
"""  # noqa: S608 - made of constants


class CatalogWriter:
    """The only writing connection. Used by one thread at a time; `open_catalog` makes it."""

    def __init__(self, layout: Layout, disk: Disk, connection: sqlite3.Connection, *, clean: bool) -> None:
        self._layout = layout
        self._disk = disk
        self._connection = connection
        self.full_text = _full_text(connection)
        self.clean = clean
        """It knows all runs and which are open: it was closed in order, or `complete` was called since."""

    def write(self, rows: Sequence[CatalogRow], gone: Iterable[RunRef] = (), *, synced: bool = True) -> None:
        """Take out the rows of removed runs and write others, perhaps of runs that have their ids now, in one
        transaction; `sqlite3.Error` when it cannot. `synced`: what the rows describe survives a power cut."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            if not synced:
                self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('unsynced', ?)", (boot_id(),))
            for ref in gone:
                self._drop(ref)
            for row in rows:
                self._put(row)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            # What is damaged is made anew at the next boot; what is only locked or full heals.
            self.clean &= isinstance(error, sqlite3.OperationalError)
            raise

    def open_runs(self) -> list[RunRef]:
        """The runs without an end, as far as the catalog knows."""
        query = "SELECT agent_id, run_id FROM runs WHERE ended_at IS NULL"
        return [RunRef(*found) for found in self._connection.execute(query)]

    def sizes(self) -> dict[RunRef, tuple[int, int]]:
        """Bytes and time of change of every run's files, as they were when its row was written; those that say
        nothing about the bytes any more are -1."""
        trusted = note_of(self._connection, "unsynced") in (None, boot_id())
        columns = "bytes, mtime_ns" if trusted else "-1, -1"
        found = self._connection.execute(f"SELECT agent_id, run_id, {columns} FROM runs")  # noqa: S608 - constants
        return {RunRef(agent_id, run_id): (size, mtime) for agent_id, run_id, size, mtime in found}

    def complete(self) -> None:
        """All runs have their rows now: readers may rely on it. Those that were not trusted are read again."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('complete', '1')")
        self._connection.execute("DELETE FROM meta WHERE key = 'unsynced' AND value != ?", (boot_id(),))
        self.clean = True

    def ended_rows(self) -> list[CatalogRow]:
        """All runs with an end."""
        query = f"SELECT {COLUMNS} FROM runs WHERE ended_at IS NOT NULL"  # noqa: S608 - a constant
        return [decode_row(found) for found in self._connection.execute(query)]

    def close(self, *, clean: bool) -> None:
        """Close; `clean` when everything that was written to files since it was complete is written here
        too."""
        stop = os.urandom(16).hex()
        clean = clean and self.clean
        try:
            if clean:
                self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('stop', ?)", (stop,))
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.close()
        except sqlite3.Error as error:
            LOG.warning(
                "the catalog cannot be closed in order (%s): the next start looks at every file", error
            )
            with suppress(sqlite3.Error):
                self._connection.close()
            return
        if clean:
            _mark_clean_stop(self._disk, self._layout, stop)

    def _put(self, row: CatalogRow) -> None:
        tools = msgspec.json.encode(row.tools).decode()
        text = fold(" ".join((row.intent, row.outcome_description or "", row.summary, *row.tools)))
        values = (*msgspec.structs.astuple(row)[:-3], tools, row.bytes, row.mtime_ns)
        folded = None if self.full_text else text
        (identifier,) = self._connection.execute(_UPSERT, (*values, folded)).fetchone()
        if self.full_text:
            self._connection.execute("DELETE FROM words WHERE rowid = ?", (identifier,))
            self._connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (identifier, text))

    def _drop(self, ref: RunRef) -> None:
        query = "DELETE FROM runs WHERE run_id = ? AND agent_id = ? RETURNING id"
        for (identifier,) in self._connection.execute(query, (ref.run_id, ref.agent_id)).fetchall():
            if self.full_text:
                self._connection.execute("DELETE FROM words WHERE rowid = ?", (identifier,))


def open_catalog(layout: Layout, disk: Disk, *, full_text: bool = True) -> CatalogWriter | None:
    """Open the catalog for writing, made anew where it cannot be trusted at all; None when there can be none.

    The caller holds the store's lock. Until it is closed in order again it counts as unclean, also after a
    power cut."""
    stop = _take_clean_stop(disk, layout)
    for anew in (False, True):
        try:
            if anew:
                throw_away(disk, layout)
            return _open(layout, disk, stop, full_text=full_text)
        except sqlite3.Error as error:
            LOG.warning("%s is not usable (%s): it is made anew from the run files", layout.catalog, error)
        except OSError as error:
            LOG.warning("there is no catalog (%s): run files are read instead", error)
            return None
    return None


def fold(text: str) -> str:
    """A text as it is searched: its words, case-folded, each after one space."""
    return " " + " ".join(re.findall(r"\w+", text.casefold().replace("_", " ")))


def decode_row(found: tuple[Any, ...]) -> CatalogRow:
    """A row from its columns, in the order of `COLUMNS`."""
    values = dict(zip(CatalogRow.__struct_fields__, found, strict=True))
    values["tools"] = msgspec.json.decode(values["tools"])
    return msgspec.convert(values, CatalogRow)


def schema_is_ours(connection: sqlite3.Connection) -> bool:
    """Whether this is a catalog of this version; `sqlite3.Error` when it is not readable as one."""
    return bool(connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,))


def note_of(connection: sqlite3.Connection, key: str) -> str | None:
    """What the catalog says of itself: `stop` names its last clean stop, `complete` is there once all runs
    are."""
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return found[0] if found else None


def boot_id() -> str:
    """Names the time since the machine was started; where the system has no name for it, a new one each time."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return os.urandom(16).hex()  # pragma: no cover - not on Linux


def clean_stop(disk: Disk, layout: Layout) -> str | None:
    """The clean stop that the mark beside the catalog speaks of."""
    try:
        descriptor = disk.open_read(layout.clean_stop)
    except OSError:
        return None
    try:
        return disk.pread(descriptor, 64, 0).decode("ascii", "replace") or None
    finally:
        disk.close(descriptor)


def _open(layout: Layout, disk: Disk, stop: str | None, *, full_text: bool) -> CatalogWriter:
    with suppress(FileExistsError):
        disk.close(disk.create(layout.catalog))  # SQLite would make it with the umask's mode
    if not disk.stat(layout.catalog).regular:
        raise NotRegularError(layout.catalog)
    connection = sqlite3.connect(layout.catalog, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            _create(connection, full_text=full_text)
        clean = _trust(connection, stop)
        connection.execute("DELETE FROM meta WHERE key = 'stop' OR key = ?", ("" if clean else "complete",))
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    except sqlite3.Error:
        connection.close()
        raise
    return CatalogWriter(layout, disk, connection, clean=clean)


def _create(connection: sqlite3.Connection, *, full_text: bool) -> None:
    connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    if full_text:
        with suppress(sqlite3.OperationalError):  # this SQLite was built without FTS5
            connection.execute(_WORDS)


def _trust(connection: sqlite3.Connection, stop: str | None) -> bool:
    """Whether it is complete; `sqlite3.DatabaseError` when it is not even usable."""
    if not schema_is_ours(connection):
        raise sqlite3.DatabaseError("another schema version")
    if stop is not None and note_of(connection, "stop") == stop:
        return True
    connection.execute("SELECT 1 FROM runs LIMIT 1")
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("damaged")
    return False


def _full_text(connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE name = 'words'"
    return connection.execute(query).fetchone() is not None


def catalog_files(layout: Layout) -> list[Path]:
    """The catalog and what SQLite puts beside it."""
    return [layout.catalog.with_name(layout.catalog.name + suffix) for suffix in ("", "-wal", "-shm")]


def throw_away(disk: Disk, layout: Layout) -> None:
    """Remove the catalog. The caller holds the store's lock."""
    for path in catalog_files(layout):
        with suppress(FileNotFoundError):
            disk.unlink(path)


def _take_clean_stop(disk: Disk, layout: Layout) -> str | None:
    stop = clean_stop(disk, layout)
    try:
        disk.unlink(layout.clean_stop)
        # Otherwise a power cut could bring the mark back beside a catalog that has changed since.
        disk.sync_directory(layout.run)
    except FileNotFoundError:
        pass
    except OSError:
        # A mark that says nothing, a directory say, may stay: it will say nothing at the next start either.
        if stop is not None:
            raise
    return stop


def _mark_clean_stop(disk: Disk, layout: Layout, stop: str) -> None:
    try:
        descriptor = disk.create(layout.clean_stop)
        try:
            disk.write(descriptor, stop.encode())
            disk.sync(descriptor)
        finally:
            disk.close(descriptor)
        disk.sync_directory(layout.run)
    except OSError as error:
        LOG.warning("the clean stop cannot be noted (%s): the next start looks at every file", error)

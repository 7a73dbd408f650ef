"""The catalog and the boot: derived, thrown away and made again, never ahead of the files, and fast."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from car_trio.store import catalog as catalog_module
from car_trio.store import orphans
from car_trio.store.catalog import CatalogWriter, catalog_files, decode_row, fold, open_catalog
from car_trio.store.catalog_reader import CatalogReader, open_reader, utc_time
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.lock import hold_lock
from car_trio.store.orphans import adopt_orphans, reconcile, write_rows
from car_trio.store.run_index import RunIndex
from car_trio.store.survey import agents, all_rows, ended_rows, find_run, measure, summarize, survey
from car_trio.wire.errors import INVALID_PARAMS, Refusal
from car_trio.wire.runs import CatalogRow, RunRef, SearchRuns
from tests.store.store_scripts import A, B, C, a_run, ended, lines_of, row, started, turn

OUTCOME = (
    b'{"record":"ended","run_id":"run-a","agent_id":"agent","termination":{"kind":"outcome","outcome":'
    b'{"status":"failure","summary":"could not","evidence":[],"metrics":{},"timestamp":"t"}},'
    b'"ended_at":"2026-11-20T11:00:00.000000Z"}'
)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def write(layout: Layout, ref: RunRef, *lines: bytes, tail: bytes = b"", segment: int = 0) -> None:
    path = layout.run_file(ref, segment)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines) + tail)


def opened(layout: Layout, disk: Disk, *, full_text: bool = True) -> CatalogWriter:
    catalog = open_catalog(layout, disk, full_text=full_text)
    assert catalog is not None
    return catalog


def boot(layout: Layout, disk: Disk) -> CatalogWriter:
    catalog = opened(layout, disk)
    adopt_orphans(disk, layout, catalog)
    return catalog


def reading(layout: Layout, disk: Disk) -> CatalogReader:
    reader = open_reader(layout, disk)
    assert reader is not None
    return reader


def filled(layout: Layout, disk: Disk, rows: list[CatalogRow], *, full_text: bool = True) -> CatalogReader:
    catalog = opened(layout, disk, full_text=full_text)
    catalog.write(rows)
    catalog.complete()
    catalog.close(clean=True)
    return reading(layout, disk)


def many(count: int, agent: str = "agent") -> list[CatalogRow]:
    return [
        row(
            RunRef(agent, f"run-{number:05}"),
            started_at=f"2026-11-20T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000000Z",
            ended_at=f"2026-11-20T23:59:59.{number:06}Z",
            status="completed",
        )
        for number in range(count)
    ]


# Listing and searching


def test_a_row_comes_back_as_it_was_written_and_a_later_one_replaces_it(layout: Layout, disk: Disk) -> None:
    first = row(A, outcome_description="x", tools=["a", "b"], bytes=7, mtime_ns=1 << 60)
    second = row(A, ended_at="2026-11-20T10:00:00.000000Z", status="completed", outcome="done", summary="é")
    reader = filled(layout, disk, [first, first, second])
    assert reader.find("run-a") == second
    assert reader.find("run-b") is None
    assert reader.open_runs() == []
    reader.close()


def test_a_run_that_has_the_id_of_a_removed_one_keeps_its_row(layout: Layout, disk: Disk) -> None:
    catalog = opened(layout, disk)
    (old,) = many(1)
    catalog.write([old])
    new = msgspec.structs.replace(old, intent="again")
    catalog.write([new], [RunRef(old.agent_id, old.run_id)])
    catalog.complete()
    catalog.close(clean=True)
    assert [each.intent for each in reading(layout, disk).list(old.agent_id).rows] == ["again"]


def test_a_list_is_paged_newest_first_without_gaps_or_repeats(layout: Layout, disk: Disk) -> None:
    rows = many(50)
    for other in rows[10:20]:
        other.started_at = rows[10].started_at
    reader = filled(layout, disk, [*rows, *many(5, "other")])
    files = [found.run_id for found in reader.list("agent").rows]
    assert files == [
        found.run_id
        for found in sorted(rows, key=lambda found: (found.started_at, found.run_id), reverse=True)
    ]
    for limit in (1, 7, 49, 50, 51):
        paged: list[str] = []
        cursor: str | None = None
        while True:
            page = reader.list("agent", cursor, limit)
            paged += [found.run_id for found in page.rows]
            assert len(page.rows) <= limit
            cursor = page.next_cursor
            if cursor is None:
                break
        assert paged == files
    assert reader.list("agent", None, 0).rows == []
    assert reader.list("nobody").rows == []
    reader.close()


@pytest.mark.parametrize("cursor", ["", "x", "é", "e30", "WyJhIl0", "////"])
def test_a_cursor_that_is_none_of_ours_is_refused(layout: Layout, disk: Disk, cursor: str) -> None:
    reader = filled(layout, disk, [])
    with pytest.raises(Refusal, match="cursor") as refused:
        reader.list("agent", cursor, 5)
    assert refused.value.code == INVALID_PARAMS
    reader.close()


SEARCHED = [
    row(
        A, intent="Fix the Größe of doors", tools=["db_query", "echo"], outcome="failure", status="completed"
    ),
    row(B, intent="paint", summary="the DOOR is red", started_at="2026-11-20T09:30:00.000000Z"),
    row(C, intent="paint", outcome_description="windows_too", started_at="2026-11-20T10:00:00.000000Z"),
]


@pytest.mark.parametrize("source", ["full text", "like", "files"])
@pytest.mark.parametrize(
    ("ask", "found"),
    [
        (SearchRuns(), [C, B, A]),
        (SearchRuns("door"), [B, A]),
        (SearchRuns("DOOR red"), [B]),
        (SearchRuns("GRÖSSE"), [A]),
        (SearchRuns("größe"), [A]),
        (SearchRuns("quer ech"), [A]),
        (SearchRuns("windows too"), [C]),
        (SearchRuns("oor"), []),
        (SearchRuns("-- '\" * %"), [C, B, A]),
        (SearchRuns("paint", limit=1), [C]),
        (SearchRuns(agent_id="agent"), [B, A]),
        (SearchRuns(status="in_progress"), [C, B]),
        (SearchRuns(outcome="failure"), [A]),
        (SearchRuns(tool="echo"), [A]),
        (SearchRuns(tool="ech"), []),
        (SearchRuns(since="2026-11-20T11:30:00+02:00"), [C, B]),
        (SearchRuns(until="2026-11-20T09:30:00"), [B, A]),
        (SearchRuns("paint", since="2026-11-20T09:45:00Z", until="2026-11-20T12:00:00Z"), [C]),
    ],
)
def test_a_search_finds_what_matches_everything_that_is_asked(
    layout: Layout,
    disk: Disk,
    source: str,
    ask: SearchRuns,
    found: list[RunRef],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if source == "files":
        monkeypatch.setattr("car_trio.store.run_index.all_rows", lambda *_: iter(SEARCHED))
    else:
        filled(layout, disk, SEARCHED, full_text=source == "full text").close()
    index = RunIndex(layout, disk)
    rows, cursor = index.search(ask)
    assert [RunRef(hit.agent_id, hit.run_id) for hit in rows] == found
    if ask.limit == 1:
        rows, cursor = index.search(SearchRuns(ask.query, cursor=cursor, limit=1))
        assert [hit.run_id for hit in rows] == ["run-b"]
        assert cursor is None
    index.close()


def test_a_time_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(Refusal, match="since must be an RFC 3339 time"):
        utc_time("since", "tomorrow")


def test_candidates_for_retention_are_all_that_could_have_to_go(layout: Layout, disk: Disk) -> None:
    rows = [*many(5), *many(2, "other"), row(RunRef("other", "open"))]
    rows[5].run_id, rows[6].run_id = "x", "y"
    rows[5].ended_at = "2026-01-01T00:00:00.000000Z"
    reader = filled(layout, disk, rows)

    def names(per_agent: int, before: str | None) -> set[str]:
        return {found.run_id for found in reader.retention_candidates(per_agent, before)}

    assert names(0, None) == set()
    assert names(2, None) == {found.run_id for found in rows[:5]}
    assert names(5, "2026-02-01T00:00:00.000000Z") == {"x"}
    assert names(1, "2026-02-01T00:00:00.000000Z") == {found.run_id for found in rows[:7]}
    reader.close()


def test_the_newest_fifty_of_ten_thousand_are_found_by_the_index_alone(layout: Layout, disk: Disk) -> None:
    filled(layout, disk, many(100)).close()
    connection = sqlite3.connect(layout.catalog)
    plan = connection.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM runs WHERE agent_id = 'a' AND started_at <= 'x' AND "
        "(started_at < 'x' OR run_id < 'y') ORDER BY started_at DESC, run_id DESC LIMIT 51"
    ).fetchall()
    open_plan = connection.execute(
        "EXPLAIN QUERY PLAN SELECT agent_id FROM runs WHERE ended_at IS NULL"
    ).fetchall()
    connection.close()
    assert "runs_listed" in str(plan) and "TEMP B-TREE" not in str(plan)
    assert "runs_open" in str(open_plan)


def test_removed_runs_leave_the_catalog_and_its_search(layout: Layout, disk: Disk) -> None:
    for full_text in (True, False):
        for path in catalog_files(layout):
            path.unlink(missing_ok=True)
        catalog = opened(layout, disk, full_text=full_text)
        catalog.write(SEARCHED)
        catalog.write([], [A, RunRef("nobody", "nothing")])
        catalog.complete()
        catalog.close(clean=True)
        reader = reading(layout, disk)
        assert reader.find("run-a") is None
        assert [found.run_id for found in reader.search("door").rows] == ["run-b"]
        reader.close()


# Trust


def test_the_catalog_is_private_whatever_the_umask_is(layout: Layout, disk: Disk) -> None:
    before = os.umask(0)
    try:
        catalog = opened(layout, disk)
        catalog.write([row(A)])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in catalog_files(layout)}
        catalog.close(clean=True)
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}


def test_only_an_orderly_stop_after_a_complete_catalog_counts_as_clean(layout: Layout, disk: Disk) -> None:
    catalog = opened(layout, disk)
    assert not catalog.clean
    catalog.close(clean=True)
    catalog = opened(layout, disk)
    assert not catalog.clean, "it was never complete"
    catalog.complete()
    catalog.close(clean=True)
    catalog = opened(layout, disk)
    assert catalog.clean
    catalog.close(clean=False)
    catalog = opened(layout, disk)
    assert not catalog.clean, "something was left unwritten"
    catalog.complete()
    del catalog
    catalog = opened(layout, disk)
    assert not catalog.clean, "nobody closed it"
    catalog.close(clean=False)


def test_an_old_catalog_put_back_beside_newer_files_is_not_trusted(layout: Layout, disk: Disk) -> None:
    write(layout, A, *a_run(A))
    boot(layout, disk).close(clean=True)
    old = layout.catalog.read_bytes()
    write(layout, B, *a_run(B))
    for path in catalog_files(layout):
        path.unlink(missing_ok=True)
    boot(layout, disk).close(clean=True)
    layout.catalog.write_bytes(old)
    assert open_reader(layout, disk) is None
    catalog = boot(layout, disk)
    assert set(catalog.sizes()) == {A, B}
    catalog.close(clean=True)


def overwrite(layout: Layout) -> None:
    layout.catalog.write_bytes(b"not a database at all" * 500)


def truncate(layout: Layout) -> None:
    layout.clean_stop.unlink()
    content = layout.catalog.read_bytes()
    layout.catalog.write_bytes(content[: len(content) // 2])


def scribble(layout: Layout) -> None:
    layout.clean_stop.unlink()
    content = bytearray(layout.catalog.read_bytes())
    content[4096 * 2 : 4096 * 6] = os.urandom(4096 * 4)
    layout.catalog.write_bytes(bytes(content))


def delete(layout: Layout) -> None:
    layout.catalog.unlink()


def another_version(layout: Layout) -> None:
    connection = sqlite3.connect(layout.catalog)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("harm", [overwrite, truncate, scribble, delete, another_version])
def test_a_catalog_that_is_harmed_comes_back_from_the_files(
    layout: Layout, disk: Disk, harm: Callable[[Layout], None]
) -> None:
    for ref in (A, B, C):
        write(layout, ref, *a_run(ref))
    boot(layout, disk).close(clean=True)
    before = reading(layout, disk).search().rows
    harm(layout)
    boot(layout, disk).close(clean=True)
    assert reading(layout, disk).search().rows == before
    assert len(before) == 3


def test_where_no_catalog_can_be_the_files_are_read_and_nothing_is_followed(
    layout: Layout, disk: Disk, tmp_path: Path
) -> None:
    write(layout, A, *a_run(A))
    layout.catalog.mkdir()
    assert open_catalog(layout, disk) is None
    assert open_reader(layout, disk) is None
    layout.catalog.rmdir()
    layout.catalog.symlink_to(tmp_path / "elsewhere")
    assert open_catalog(layout, disk) is None
    assert not (tmp_path / "elsewhere").exists()
    assert adopt_orphans(disk, layout, None).adopted == []
    assert RunIndex(layout, disk).find("run-a") == summarize(disk, layout, A)


def test_a_catalog_that_cannot_be_made_even_anew_is_none(
    layout: Layout, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("no")

    monkeypatch.setattr(catalog_module, "_create", broken)
    assert open_catalog(layout, disk) is None


def test_without_fts5_searching_falls_back_to_like(
    layout: Layout, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "_WORDS", "CREATE VIRTUAL TABLE words USING no_such_module (x)")
    reader = filled(layout, disk, SEARCHED)
    assert [found.run_id for found in reader.search("door").rows] == ["run-b", "run-a"]
    reader.close()


def test_the_journals_thread_does_not_wait_for_who_holds_the_catalog(layout: Layout, disk: Disk) -> None:
    catalog = boot(layout, disk)
    assert catalog._connection.execute("PRAGMA busy_timeout").fetchone() == (100,)
    catalog.close(clean=True)


def test_a_failed_write_changes_nothing_and_only_damage_makes_the_stop_unclean(
    layout: Layout, disk: Disk
) -> None:
    catalog = boot(layout, disk)
    other = sqlite3.connect(layout.catalog, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError):
        catalog.write([row(A)])
    assert catalog.clean
    other.execute("ROLLBACK")
    other.close()
    catalog._connection.execute("DROP TABLE words")
    catalog._connection.execute("CREATE TABLE words (x INTEGER CHECK (x > 0))")
    catalog._connection.execute("DROP INDEX runs_open")
    catalog._connection.execute("CREATE UNIQUE INDEX odd ON runs (status)")
    catalog.full_text = False
    with pytest.raises(sqlite3.IntegrityError):
        catalog.write([row(A), row(B)])
    assert not catalog.clean
    assert catalog.sizes() == {}
    catalog.close(clean=True)
    assert not layout.clean_stop.exists()


def test_a_catalog_that_cannot_be_closed_in_order_is_not_clean(layout: Layout, disk: Disk) -> None:
    catalog = boot(layout, disk)
    catalog._connection.close()
    catalog.close(clean=True)
    assert not layout.clean_stop.exists()


def test_a_mark_of_a_clean_stop_that_says_something_must_go_and_one_that_says_nothing_may_stay(
    layout: Layout, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    boot(layout, disk).close(clean=True)
    monkeypatch.setattr(disk, "unlink", refuse)
    with pytest.raises(PermissionError):
        open_catalog(layout, disk)
    monkeypatch.undo()
    layout.clean_stop.unlink()
    layout.clean_stop.mkdir()
    opened(layout, disk).close(clean=False)
    assert layout.clean_stop.is_dir()


def test_a_clean_stop_that_cannot_be_noted_is_none(layout: Layout, disk: Disk) -> None:
    catalog = boot(layout, disk)
    layout.clean_stop.mkdir()
    catalog.close(clean=True)
    layout.clean_stop.rmdir()
    catalog = opened(layout, disk)
    assert not catalog.clean
    catalog.close(clean=False)


# Readers beside and without a writer


def test_a_reader_beside_the_writer_sees_rows_as_soon_as_they_are_written(layout: Layout, disk: Disk) -> None:
    with hold_lock(layout):
        catalog = opened(layout, disk)
        reader = reading(layout, disk)
        with pytest.raises(sqlite3.DatabaseError, match="made anew"):
            reader.find("run-a")
        catalog.complete()
        assert reader.find("run-a") is None
        catalog.write([row(A)])
        assert reader.find("run-a") == row(A)
        assert reader.open_runs() == [row(A)]
        reader.close()
        catalog.close(clean=True)


def test_reading_a_store_at_rest_changes_nothing_on_disk(layout: Layout, disk: Disk) -> None:
    write(layout, A, *a_run(A))
    boot(layout, disk).close(clean=True)
    layout.lock.touch()
    before = {path: path.stat() for path in layout.root.rglob("*")}
    index = RunIndex(layout, disk)
    assert index.find("run-a") is not None
    assert len(index.list("agent")[0]) == 1
    index.close()
    index.close()
    after = {path: path.stat() for path in layout.root.rglob("*")}
    assert {path: found.st_mtime_ns for path, found in after.items()} == {
        path: found.st_mtime_ns for path, found in before.items()
    }


def test_with_the_daemon_down_and_something_left_in_the_wal_the_files_are_read(
    layout: Layout, disk: Disk
) -> None:
    write(layout, A, *a_run(A))
    catalog = boot(layout, disk)
    assert open_reader(layout, disk) is None
    index = RunIndex(layout, disk)
    assert [found.run_id for found in index.list("agent")[0]] == ["run-a"]
    assert index.find("nothing") is None
    catalog.close(clean=True)
    assert open_reader(layout, disk) is not None


def test_a_store_without_a_usable_catalog_has_no_reader(layout: Layout, disk: Disk) -> None:
    assert open_reader(layout, disk) is None
    layout.catalog.write_bytes(b"nonsense" * 1000)
    assert open_reader(layout, disk) is None
    layout.catalog.unlink()
    boot(layout, disk).close(clean=True)
    another_version(layout)
    assert open_reader(layout, disk) is None


def test_an_index_whose_catalog_breaks_reads_the_files_and_may_not_use_it_at_all(
    layout: Layout, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(layout, A, *a_run(A))
    boot(layout, disk).close(clean=True)
    index = RunIndex(layout, disk)
    assert index.find("run-a") is not None

    def broken(*_: object) -> None:
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr(CatalogReader, "find", broken)
    assert index.find("run-a") == summarize(disk, layout, A)
    assert RunIndex(layout, disk, use_catalog=False).find("run-a") == summarize(disk, layout, A)


def test_a_failed_query_gives_its_connection_up(layout: Layout, disk: Disk) -> None:
    reader = filled(layout, disk, SEARCHED)
    with pytest.raises(sqlite3.OperationalError):
        reader._rows("WHERE nonsense", [])
    assert reader.find("run-a") is not None
    reader.close()


def test_a_row_is_decoded_strictly() -> None:
    with pytest.raises(Exception, match="Expected"):
        decode_row(("r", "a", 5, None, "t", None, "in_progress", None, "", 0, "[]", 0, 0))
    assert fold("Ab_c  DÉ!") == " ab c dé"


# The files themselves


def test_a_survey_takes_names_only_and_leaves_foreign_things_alone(
    layout: Layout, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    write(layout, A, *a_run(A))
    write(layout, A, b"more", segment=1)
    write(layout, RunRef("agent", "alone"), b"x", segment=1)
    write(layout, C, *a_run(C))
    folder = layout.agent_directory("agent")
    (folder / "notes.txt").write_text("x")
    (folder / "run-a.torn").write_text("x")
    (folder / "link.jsonl").symlink_to("run-a.jsonl")
    os.mkfifo(folder / "fifo.jsonl")
    (layout.runs / "linked").symlink_to("agent")
    (layout.runs / "NotOurs").mkdir()
    (layout.runs / "file").write_text("x")
    assert agents(disk, layout) == ["Other Agent", "agent"]
    assert [found.ref for found in survey(disk, layout)] == [C, A]
    sizes = {found.ref: (found.bytes, found.mtime_ns) for found in survey(disk, layout)}
    assert sizes[A] == tuple(measure(disk, layout, A))[1:]
    assert len({record.getMessage() for record in caplog.records if "left alone" in record.getMessage()}) == 5
    assert find_run(disk, layout, "run-c") == C
    assert find_run(disk, layout, "link") is None
    assert find_run(disk, layout, "nothing") is None


def test_a_store_without_runs_has_none(tmp_path: Path, disk: Disk) -> None:
    layout = Layout(tmp_path)
    assert list(survey(disk, layout)) == []
    assert list(all_rows(disk, layout, "agent")) == []


def test_a_run_is_summed_up_from_its_file(layout: Layout, disk: Disk) -> None:
    write(layout, A, started(A), turn(0, tool="b"), turn(1, tool="a"), turn(2, tool="b"), turn(3), OUTCOME)
    found = summarize(disk, layout, A)
    stat = layout.run_file(A).stat()
    assert found == row(
        A,
        ended_at="2026-11-20T11:00:00.000000Z",
        status="completed",
        outcome="failure",
        summary="could not",
        turn_count=4,
        tools=["b", "a"],
        bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
    )


def test_a_damaged_run_is_summed_up_as_far_as_it_goes(layout: Layout, disk: Disk) -> None:
    write(
        layout,
        A,
        b"damaged",
        b'{"record":"turn","tool":5}',
        b"damaged",
        b'{"record":"odd"}',
        b'{"record":"started"}',
        b'{"record":"ended"}',
    )
    found = summarize(disk, layout, A)
    assert (found.intent, found.turn_count, found.tools, found.status) == ("", 2, [], "completed")
    assert found.started_at == found.ended_at
    assert found.started_at.endswith("Z")


def test_only_so_many_tool_names_are_kept(layout: Layout, disk: Disk) -> None:
    write(layout, A, started(A), *(turn(index, tool=f"t{index}") for index in range(300)))
    assert len(summarize(disk, layout, A).tools) == 256


# Adoption


def test_every_run_without_an_end_gets_one_and_only_once(layout: Layout, disk: Disk) -> None:
    write(layout, A, started(A), turn(0))
    write(layout, B, *a_run(B))
    write(layout, C, started(C), turn(0), tail=b'{"record":"turn","ind')
    for catalog in (None, opened(layout, disk)):
        adoption = adopt_orphans(disk, layout, catalog, clock=lambda: "2026-11-20T12:00:00.000000Z")
        assert set(adoption.adopted) == (set() if catalog else {A, C})
        assert adoption.torn == ({} if catalog else {C: 21})
        if catalog:
            assert catalog.open_runs() == []
            catalog.close(clean=True)
    end = (
        b'{"record":"ended","run_id":"run-c","agent_id":"Other Agent","termination":'
        b'{"kind":"incomplete","reason":"orphaned"},"ended_at":"2026-11-20T12:00:00.000000Z"}'
    )
    assert lines_of(disk, C, layout) == [started(C), turn(0), end]
    assert layout.torn_file(C).read_bytes() == b'{"record":"turn","ind'
    assert lines_of(disk, B, layout) == a_run(B)
    assert {found.status for found in reading(layout, disk).search().rows} == {"incomplete"}


def test_a_file_in_which_no_line_is_whole_is_moved_aside(layout: Layout, disk: Disk) -> None:
    write(layout, A, tail=b'{"record":"star')
    write(layout, B, tail=bytes(100))
    write(layout, C)
    catalog = opened(layout, disk)
    adoption = adopt_orphans(disk, layout, catalog)
    assert set(adoption.nameless) == {A, B, C}
    assert (adoption.adopted, adoption.torn) == ([], {A: 15, B: 100})
    assert layout.torn_file(A).read_bytes() == b'{"record":"star'
    assert list(survey(disk, layout)) == []
    assert catalog.sizes() == {}
    catalog.close(clean=True)


def test_a_continued_run_is_adopted_at_its_end_and_an_unbegun_continuation_is_moved_aside(
    layout: Layout, disk: Disk
) -> None:
    begin = b'{"record":"segment","previous_bytes":%d}' % (len(started(A)) + 1)
    write(layout, A, started(A), tail=b"torn")
    write(layout, A, begin, turn(0), segment=1)
    write(layout, A, tail=b'{"record":"segm', segment=2)
    write(layout, B, started(B), tail=b"torn")
    write(layout, B, tail=b"x", segment=1)
    adoption = adopt_orphans(disk, layout, None)
    assert set(adoption.adopted) == {A, B}
    assert adoption.torn == {A: 15, B: 5}
    assert lines_of(disk, A, layout)[:2] == [started(A), turn(0)]
    assert lines_of(disk, B, layout)[:1] == [started(B)]
    assert adopt_orphans(disk, layout, None).adopted == []


def test_what_cannot_be_adopted_is_named_and_the_others_are_adopted(layout: Layout, disk: Disk) -> None:
    class Failing(Disk):
        def write(self, descriptor: int, payload: bytes) -> int:
            if b"run-a" in payload:
                raise OSError(28, "No space left on device")
            return super().write(descriptor, payload)

    write(layout, A, started(A))
    write(layout, B, started(B))
    adoption = adopt_orphans(Failing(), layout, None)
    assert adoption.adopted == [B]
    assert "No space" in adoption.failed[A]
    assert lines_of(disk, A, layout) == [started(A)]
    assert adopt_orphans(disk, layout, None).adopted == [A]


class NoSync(Disk):
    """Syncs fail: of files, of directories. With `stuck` nothing can be cut back either."""

    def __init__(self, what: str, *, stuck: bool = False) -> None:
        self._what, self._stuck = what, stuck

    def _may(self, what: str) -> None:
        if what == self._what:
            raise OSError(5, "Input/output error")

    def sync(self, descriptor: int) -> None:
        self._may("file")
        super().sync(descriptor)

    def sync_directory(self, path: Path) -> None:
        self._may(path.name)
        super().sync_directory(path)

    def truncate(self, descriptor: int, size: int) -> None:
        if self._stuck:
            raise OSError(5, "Input/output error")
        super().truncate(descriptor, size)


@pytest.mark.parametrize("what", ["file", "agent", "runs"])
def test_an_end_that_does_not_become_durable_is_taken_back_for_whoever_writes_the_next_one(
    what: str, layout: Layout, disk: Disk
) -> None:
    write(layout, A, started(A), turn(0))
    assert adopt_orphans(NoSync(what), layout, None).failed.keys() == {A}
    assert lines_of(disk, A, layout) == [started(A), turn(0)]
    assert adopt_orphans(disk, layout, None).adopted == [A]
    assert len(lines_of(disk, A, layout)) == 3


def test_an_end_that_cannot_be_taken_back_is_the_only_one(layout: Layout, disk: Disk) -> None:
    write(layout, A, started(A), turn(0))
    assert adopt_orphans(NoSync("file", stuck=True), layout, None).failed.keys() == {A}
    assert adopt_orphans(disk, layout, None).adopted == []
    assert len(lines_of(disk, A, layout)) == 3


def test_after_a_clean_stop_only_open_runs_are_opened(
    layout: Layout, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(layout, A, *a_run(A))
    write(layout, B, *a_run(B))
    catalog = boot(layout, disk)
    catalog.write([row(C), row(B)])
    catalog.close(clean=True)
    monkeypatch.setattr(orphans, "survey", None)
    catalog = opened(layout, disk)
    assert catalog.clean
    adoption = adopt_orphans(disk, layout, catalog)
    assert adoption.adopted == []
    assert set(catalog.sizes()) == {A, B}, "a row without a file goes"
    assert catalog.open_runs() == [], "a run that has its end is no orphan"
    catalog.close(clean=True)


def test_after_an_unclean_stop_only_what_differs_is_read_again(
    layout: Layout, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ref in (A, B, C):
        write(layout, ref, *a_run(ref))
    boot(layout, disk).close(clean=True)
    layout.clean_stop.unlink()
    os.utime(layout.run_file(A), ns=(5, 5))
    with layout.run_file(B).open("ab") as file:
        file.write(b'{"record":"more"}\n')
    layout.run_file(C).unlink()
    new = RunRef("agent", "new")
    write(layout, new, *a_run(new))
    unreadable = RunRef("agent", "odd")
    write(layout, unreadable, *a_run(unreadable))
    read: list[RunRef] = []

    def noted(disk: Disk, layout: Layout, ref: RunRef) -> CatalogRow:
        read.append(ref)
        if ref == unreadable:
            raise OSError("unreadable")
        return summarize(disk, layout, ref)

    monkeypatch.setattr(orphans, "summarize", noted)
    monkeypatch.setattr(orphans, "_ROWS_AT_ONCE", 2)
    catalog = boot(layout, disk)
    assert sorted(read) == sorted([A, B, new, unreadable])
    assert set(catalog.sizes()) == {A, B, new}
    catalog.close(clean=True)


def test_a_catalog_that_fails_at_boot_costs_no_adoption(layout: Layout, disk: Disk) -> None:
    write(layout, A, started(A))
    write(layout, B, *a_run(B))
    broken = layout.run_file(RunRef("agent", "gone"))
    broken.symlink_to("nowhere")
    catalog = opened(layout, disk)
    catalog._connection.execute("DROP TABLE runs")
    assert adopt_orphans(disk, layout, catalog).adopted == [A]
    assert not catalog.clean
    write_rows(catalog, [row(A)], [])
    with pytest.raises(sqlite3.Error):
        reconcile(disk, layout, catalog)
    catalog.close(clean=True)
    assert boot(layout, disk).open_runs() == []


def test_the_end_of_a_run_is_looked_for_in_its_last_whole_line(layout: Layout, disk: Disk) -> None:
    write(layout, A, *a_run(A), tail=b"torn")
    os.mkfifo(layout.run_file(A, 1))
    assert adopt_orphans(disk, layout, None).failed.keys() == {A}, "what cannot be read is reported"
    layout.run_file(A, 1).unlink()
    assert adopt_orphans(disk, layout, None).adopted == []
    assert ended_rows(disk, layout)[0].status == "incomplete"
    assert layout.run_file(A).read_bytes().endswith(ended(A) + b"\ntorn"), "an ended run is left as it is"


def test_a_run_that_vanishes_while_it_is_summed_up_is_left_out(
    layout: Layout, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(layout, A, *a_run(A))

    def gone(*_: object) -> CatalogRow:
        raise FileNotFoundError

    monkeypatch.setattr("car_trio.store.survey.summarize", gone)
    assert list(all_rows(disk, layout)) == []


def test_an_index_names_candidates_for_retention_from_the_catalog_and_from_files_alike(
    layout: Layout, disk: Disk
) -> None:
    write(layout, A, *a_run(A))
    write(layout, C, *a_run(C))
    boot(layout, disk).close(clean=True)
    long_after = datetime(2027, 11, 20, tzinfo=UTC)
    for index in (RunIndex(layout, disk), RunIndex(layout, disk, use_catalog=False)):
        found = index.retention_candidates(long_after, 0, 90)
        assert {each.run_id for each in found} == {A.run_id, C.run_id}
        index.close()
    index = RunIndex(layout, disk)
    assert index.retention_candidates(long_after, 0, 0) == []
    index.close()

"""`RunStore`: the library face, without a daemon."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from car_trio.store import lock, run_store
from car_trio.store.catalog import CatalogWriter
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.lock import StoreBusy, hold_lock
from car_trio.store.run_store import RunStore, Unknown
from car_trio.wire.runs import Damaged, Ended, RunRef, Started, Turn
from tests.store.store_scripts import A, B, C, a_run, ended, started, turn


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PROBE_SECONDS", 0.0)


def write(layout: Layout, ref: RunRef, *lines: bytes) -> None:
    path = layout.run_file(ref)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def names(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in root.rglob("*")}


def test_records_come_as_structs_and_what_is_unknown_is_kept(layout: Layout) -> None:
    odd = b'{"record":"from the future","x":1.50}'
    older = b'{"record":"turn","no_index":true}'
    write(layout, A, started(A), turn(0, tool="echo"), odd, b"damaged", older, ended(A))
    trace = RunStore(layout.root).get_run_trace("run-a")
    assert trace is not None
    first, second, unknown, damaged, different, last = trace
    assert isinstance(first, Started) and first.agent_id == "agent"
    assert isinstance(second, Turn) and second.tool == "echo"
    assert unknown == Unknown("from the future", msgspec.Raw(odd))
    assert damaged == Damaged(4)
    assert different == Unknown("turn", msgspec.Raw(older))
    assert isinstance(last, Ended)


def test_runs_are_listed_newest_first_with_what_their_files_say(layout: Layout) -> None:
    write(layout, A, *a_run(A))
    write(layout, B, started(B, at="2026-11-20T09:30:00.000000Z"), turn(0))
    store = RunStore.from_journal_dir(layout.root / "journals")
    newest, oldest = store.list_runs("agent")
    assert (newest.run_id, newest.status, newest.turn_count, newest.ended_at) == (
        "run-b",
        "in_progress",
        1,
        None,
    )
    assert (oldest.run_id, oldest.status, oldest.turn_count) == ("run-a", "incomplete", 3)
    assert oldest.bytes == layout.run_file(A).stat().st_size


@pytest.mark.parametrize("name", ["nobody", "", "a\n", "x" * 300, "\ud800", "../../etc"])
def test_what_nobody_knows_or_nobody_can_have_is_not_there(layout: Layout, name: str) -> None:
    write(layout, A, *a_run(A))
    store = RunStore(layout.root)
    assert store.list_runs(name) == []
    assert store.get_run_trace(name) is None
    assert store.agent_for_run(name) is None
    assert store.agent_for_run("run-a") == "agent"


def test_reading_changes_nothing_on_disk_and_makes_no_root(layout: Layout, tmp_path: Path) -> None:
    write(layout, A, started(A))
    before = names(tmp_path)
    store = RunStore(tmp_path)
    store.list_runs("agent"), store.get_run_trace("run-a"), store.agent_for_run("run-a")
    assert names(tmp_path) == before
    elsewhere = RunStore(tmp_path / "none")
    assert (elsewhere.list_runs("a"), elsewhere.get_run_trace("r"), elsewhere.agent_for_run("r")) == (
        [],
        None,
        None,
    )
    assert not (tmp_path / "none").exists()


def test_orphans_are_adopted_once_and_then_read_through_the_catalog(layout: Layout) -> None:
    write(layout, A, started(A))
    write(layout, C, *a_run(C))
    store = RunStore(layout.root)
    assert store.adopt_orphans() == 1
    assert store.adopt_orphans() == 0
    assert [found.status for found in store.list_runs("agent")] == ["incomplete"]
    layout.run_file(A).unlink()
    assert store.get_run_trace("run-a") is None, "the catalog knows it, the disk does not"
    assert [found.run_id for found in store.list_runs("agent")] == ["run-a"]


def test_an_open_run_in_the_catalog_is_counted_from_its_file(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(layout.root)
    write(layout, A, started(A))
    row = store._index.list("agent")[0][0]
    with layout.run_file(A).open("ab") as file:
        file.write(turn(0) + b"\n")
    monkeypatch.setattr(store._index, "list", lambda _: ([row], None))
    assert store.list_runs("agent")[0].turn_count == 1
    layout.run_file(A).unlink()
    assert store.list_runs("agent")[0].turn_count == 0


def test_gc_removes_what_is_beyond_the_limits_and_leaves_a_tombstone_of_each(layout: Layout) -> None:
    refs = [RunRef("agent", f"run-{number}") for number in range(5)]
    for number, ref in enumerate(refs):
        at = f"2099-11-20T09:0{number}:00.000000Z"
        write(layout, ref, started(ref, at=at), ended(ref, at=at))
    write(layout, C, started(C))
    layout.config.write_text("[runs]\nmax_per_agent = 2\nmax_age_days = 0\n")
    store = RunStore(layout.root)
    assert store.gc() == 3
    assert store.gc() == 0
    assert [found.run_id for found in store.list_runs("agent")] == ["run-4", "run-3"]
    assert store.get_run_trace("run-c") is not None
    lines = [msgspec.json.decode(line) for line in layout.deleted_runs.read_bytes().splitlines()]
    assert [line["run_id"] for line in lines] == ["run-0", "run-1", "run-2"]
    assert lines[0]["why"] == "max_per_agent 2"


def test_gc_works_from_the_files_where_there_is_no_catalog(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(layout, A, started(A), ended(A, at="2020-01-01T00:00:00.000000Z"))
    write(layout, B, started(B), ended(B, at="2020-01-01T00:00:00.000000Z"))
    store = RunStore(layout.root)
    with hold_lock(layout):
        pass
    layout.catalog.mkdir()

    def refuse(self: Disk, path: Path) -> None:
        if path == layout.run_file(B):
            raise PermissionError(13, "Permission denied")
        path.unlink()

    monkeypatch.setattr(Disk, "unlink", refuse)
    assert store.gc() == 1
    assert store.get_run_trace("run-a") is None
    assert store.get_run_trace("run-b") is not None, "what cannot be removed stays and is tried again"


def test_named_runs_are_removed_when_they_have_ended_and_others_stay(layout: Layout) -> None:
    write(layout, A, *a_run(A))
    write(layout, B, started(B))
    store = RunStore(layout.root)
    assert store.remove(["run-a", "run-b", "nobody"], "removed by hand") == [A]
    assert store.get_run_trace("run-a") is None
    assert store.get_run_trace("run-b") is not None
    (line,) = layout.deleted_runs.read_bytes().splitlines()
    assert msgspec.json.decode(line)["why"] == "removed by hand"


def test_the_catalog_is_made_anew_from_the_files_run_by_run(layout: Layout) -> None:
    write(layout, A, *a_run(A))
    store = RunStore(layout.root)
    store.adopt_orphans()
    with sqlite3.connect(layout.catalog) as connection:
        connection.execute("UPDATE runs SET intent = 'a lie'")
    connection.close()
    seen: list[int] = []
    store.reindex(lambda: seen.append(1))
    assert [found.intent for found in store.list_runs("agent")] == ["intent"]
    assert seen == [1]


def test_without_a_catalog_there_is_nothing_to_make_anew(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(layout, A, *a_run(A))
    monkeypatch.setattr(run_store, "open_catalog", lambda *_: None)
    RunStore(layout.root).reindex(lambda: None)
    assert [found.run_id for found in RunStore(layout.root).list_runs("agent")] == ["run-a"]


def test_gc_reads_the_files_when_the_catalog_does_not_answer(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise sqlite3.DatabaseError("malformed")

    write(layout, A, started(A), ended(A, at="2020-01-01T00:00:00.000000Z"))
    monkeypatch.setattr(CatalogWriter, "sizes", broken)
    assert RunStore(layout.root).gc() == 1


def test_whatever_writes_is_refused_while_somebody_else_writes_and_reading_goes_on(layout: Layout) -> None:
    write(layout, A, started(A))
    store = RunStore(layout.root)
    before = names(layout.runs)
    with hold_lock(layout):
        for writing in (store.adopt_orphans, store.gc):
            with pytest.raises(StoreBusy) as busy:
                writing()
            assert busy.value.pid == os.getpid()
        assert store.get_run_trace("run-a") is not None
        assert names(layout.runs) == before


def test_a_failure_while_writing_leaves_the_catalog_untrusted(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    store = RunStore(layout.root)
    store.adopt_orphans()
    monkeypatch.setattr("car_trio.store.run_store.expired", bug)
    assert layout.clean_stop.exists()
    with pytest.raises(ZeroDivisionError):
        store.gc()
    assert not layout.clean_stop.exists()


def test_a_link_in_place_of_a_run_or_an_agent_leads_nowhere(layout: Layout, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "run-a.jsonl").write_bytes(started(A) + b"\n")
    (layout.runs / "agent").symlink_to(outside)
    layout.agent_directory("other").mkdir()
    (layout.agent_directory("other") / "run-b.jsonl").symlink_to(outside / "run-a.jsonl")
    store = RunStore(layout.root)
    assert store.get_run_trace("run-a") is None
    assert store.get_run_trace("run-b") is None
    assert store.list_runs("other") == []
    assert store.adopt_orphans() == 0
    assert (outside / "run-a.jsonl").read_bytes() == started(A) + b"\n"


def test_the_library_face_loads_no_trio() -> None:
    program = "import sys; from car_trio import RunStore; RunStore('.'); sys.exit('trio' in sys.modules)"
    package = Path(run_store.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=package, check=False).returncode == 0

"""The judges of the power campaign see a loss, and count each state once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from car_trio.store import writing
from car_trio.store.appending import AppendFile
from car_trio.store.catalog import CatalogWriter
from car_trio.store.journal import Journal
from car_trio.store.layout import Layout
from car_trio.store.writing import Durability, Writer
from car_trio.wire.runs import RunRef
from tests.sim_disk import SimDisk, SimFile
from torture import power
from torture.orders import Verdict
from torture.planted_store import STORE_DEFECTS
from torture.power_judge import is_damaged, reading
from torture.power_loads import LOADS, Load
from torture.power_states import SECTOR, FileStates

LOAD = {load.name: load._replace(steps=24) for load in LOADS}
Patch = Callable[[pytest.MonkeyPatch], None]


def no_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AppendFile, "sync", lambda self: None)


def no_sync_of_directories(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimDisk, "sync_directory", lambda self, path: None)


def acknowledged_when_put(patch: pytest.MonkeyPatch) -> None:
    put = Journal.put

    def hasty(self: Journal, *args: Any, durable: Callable[[], None], **more: Any) -> Any:
        durable()
        return put(self, *args, durable=lambda: None, **more)

    patch.setattr(Journal, "put", hasty)


def lines_in_another_order(patch: pytest.MonkeyPatch) -> None:
    append = AppendFile.append

    def turned(self: AppendFile, payload: bytes) -> None:
        append(self, b"".join(payload.splitlines(keepends=True)[::-1]))

    patch.setattr(AppendFile, "append", turned)


def lines_written_twice(patch: pytest.MonkeyPatch) -> None:
    append = AppendFile.append

    def twice(self: AppendFile, payload: bytes) -> None:
        append(self, payload)
        append(self, payload)

    patch.setattr(AppendFile, "append", twice)


def removed_without_a_tombstone(patch: pytest.MonkeyPatch) -> None:
    append = Writer._append_payload

    def no_tombstones(self: Writer, target: Any, payload: bytes) -> None:
        append(self, target, b"{}\n" if target == "deleted-runs.jsonl" else payload)

    patch.setattr(Writer, "_append_payload", no_tombstones)


def removed_without_a_sync(patch: pytest.MonkeyPatch) -> None:
    def unlinking(disk: SimDisk, layout: Layout, ref: RunRef) -> int:
        disk.unlink(layout.run_file(ref))
        return 0

    patch.setattr(writing, "unlink_run", unlinking)


def as_in_a_process(name: str) -> Patch:
    """A defect that is planted in daemons too."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Writer, "_append_payload", Writer._append_payload)  # is put back
        where, attribute, defect = STORE_DEFECTS[name]
        patch.setattr(where, attribute, defect())

    plant.__name__ = name.replace(" ", "_")
    return plant


def played(load: Load, mode: Durability, root: Path, seed: int = 3) -> Verdict:
    verdict = Verdict()
    power.one_round(verdict, root / f"{mode}-{seed}", load, mode, seed)
    return verdict


@pytest.mark.parametrize(
    ("defect", "load", "mode", "finding"),
    [
        (no_sync, "many runs", "always", "promised lines are lost"),
        (no_sync, "many runs", "interval", "promised lines are lost"),
        (no_sync_of_directories, "many runs", "always", "there is no file of it"),
        (no_sync_of_directories, "many runs", "interval", "there is no file of it"),
        (acknowledged_when_put, "batches", "always", "promised lines are lost"),
        (lines_in_another_order, "batches", "os", "is there after line"),
        (lines_written_twice, "many runs", "os", "is there after line"),
        (removed_without_a_tombstone, "ends and removals", "always", "there is no file of it"),
        (removed_without_a_sync, "ends and removals", "always", "was removed, and is back"),
        (removed_without_a_sync, "ends and removals", "os", "another life's line is back"),
        (as_in_a_process("kept"), "ends and removals", "always", "was removed, and is back"),
        (as_in_a_process("kept"), "ends and removals", "interval", "another life's line is back"),
        (as_in_a_process("inherited"), "ends and removals", "os", "another life's line is back"),
        (as_in_a_process("gone early"), "ends and removals", "always", "was removed, and is back"),
    ],
)
def test_a_store_with_a_planted_defect_is_found_out(
    defect: Patch, load: str, mode: Durability, finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    findings: list[str] = []
    for seed in range(4):
        findings += played(LOAD[load], mode, tmp_path, seed).findings
    assert any(finding in each for each in findings), findings


def test_a_catalog_ahead_of_the_files_is_found_by_a_real_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = CatalogWriter.sizes
    monkeypatch.setattr(CatalogWriter, "write", lambda *args, **more: None)
    monkeypatch.setattr(CatalogWriter, "sizes", lambda self: dict(list(sizes(self).items())[1:]))
    monkeypatch.setattr(power, "BOOTED_FOR_REAL", 0.1)
    assert any("differ" in each for each in played(LOAD["many runs"], "always", tmp_path).findings)


def test_a_sound_store_is_found_sound_and_the_states_of_a_seed_are_the_same_each_time(tmp_path: Path) -> None:
    counts = []
    for again in ("first", "second"):
        (tmp_path / again).mkdir()
        verdict = played(LOAD["a failing disk"], "interval", tmp_path / again)
        assert not verdict.findings
        counts.append(verdict.counts["states"])
    assert counts[0] == counts[1] > 1000


# What is enumerated


def file_with(*writes: bytes, synced: int = 0) -> SimFile:
    file = SimFile()
    for number, content in enumerate(writes):
        if number == synced:
            file.platter += file.seen
        if number >= synced:
            file.change(len(file.seen), content)
        file.seen += content
    return file


def enumerated(file: SimFile) -> list[bytes]:
    base, contents = FileStates(file, random.Random(1)).new()
    return [bytes(file.platter[:base]) + content for content in contents]


def test_every_byte_and_every_choice_of_sectors_is_enumerated_once() -> None:
    line = b"x" * (3 * SECTOR - 1) + b"\n"
    found = enumerated(file_with(line))
    assert len(found) == len(set(found))
    assert {line[:size] for size in range(len(line) + 1)} <= set(found)
    zeros = bytes(SECTOR)
    for size in (1, 2, 3):
        for came in itertools.product((True, False), repeat=size):
            sectors = [line[n * SECTOR : (n + 1) * SECTOR] if here else zeros for n, here in enumerate(came)]
            assert b"".join(sectors) in found
    assert len(found) == len(line) + 1 + (2 - 1) + (4 - 1) + (8 - 1)


def test_what_is_synced_stays_and_a_sector_that_was_written_twice_may_hold_either() -> None:
    file = file_with(b"a\n", b"b\n", b"c\n", synced=1)
    found = enumerated(file)
    assert all(content.startswith(b"a\n") for content in found)
    assert set(found) == {b"a\n", b"a\nb", b"a\nb\n", b"a\nb\nc", b"a\nb\nc\n", b"a\nb\n\0\0", b"a\n\0\0\0\0"}


def test_only_what_is_new_is_enumerated_after_another_write() -> None:
    file = file_with(b"a" * 99 + b"\n")
    states = FileStates(file, random.Random(1))
    before = set(states.new()[1])
    file.change(100, b"b" * 9 + b"\n")
    file.seen += b"b" * 9 + b"\n"
    after = list(states.new()[1])
    assert after
    assert not before & set(after)
    assert list(states.new()[1]) == []


def test_bytes_that_were_cut_off_may_be_seen_again() -> None:
    file = file_with(b"kept\n", b"cut off", synced=1)
    del file.seen[5:]
    file.change(5, None)
    file.change(5, b"new\n")
    file.seen += b"new\n"
    found = enumerated(file)
    assert {b"kept\n", b"kept\ncut off", b"kept\nnew\n", b"kept\nnew\noff"[:9]} <= set(found)
    assert len(found) == len(set(found))


def test_a_continued_file_is_read_up_to_where_the_next_one_says() -> None:
    header = b'{"record":"segment","previous_bytes":2}\n'
    assert list(reading([b"a\nb\n", header + b"b\nc\n"])) == [b"a", b"b", b"c"]
    assert list(reading([b"a\nb\n", header[:9]])) == [b"a", b"b"]
    assert list(reading([b"a\nb\n", b"\0" * 40 + b"\nb\n"])) == [b"a", b"b", b"\0" * 40, b"b"]


@pytest.mark.parametrize(
    ("line", "damaged"),
    [(b"\0{}", True), (b'{"a":', True), (b"\xff", True), (b"7", True), (b'{"record":"turn"}', False)],
)
def test_only_what_a_reader_would_take_for_a_record_is_no_damage(line: bytes, damaged: bool) -> None:
    assert is_damaged(line) is damaged

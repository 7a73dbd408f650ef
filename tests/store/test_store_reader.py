"""Reading back: byte for byte, in pages, over damage, cuts and continuations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_trio.store import reader
from car_trio.store.disk import Disk, NotRegularError
from car_trio.store.layout import Layout
from car_trio.store.reader import START, Page, Position, read_page
from tests.sim_disk import SimDisk
from tests.store.store_scripts import LAYOUT, A, a_run, lines_of, turn

RUN = a_run(A, 50)
FILE = b"".join(line + b"\n" for line in RUN)


def disk_with(*segments: bytes) -> SimDisk:
    disk = SimDisk()
    LAYOUT.prepare(disk)
    disk.make_directory(LAYOUT.agent_directory(A.agent_id))
    for number, content in enumerate(segments):
        disk.put(LAYOUT.run_file(A, number), content)
    return disk


def header(previous_bytes: int) -> bytes:
    return b'{"record":"segment","previous_bytes":%d}\n' % previous_bytes


def in_pages(disk: Disk, *, max_bytes: int, max_records: int | None = None) -> list[Page]:
    pages = [read_page(disk, LAYOUT, A, START, max_bytes=max_bytes, max_records=max_records)]
    while not pages[-1].at_end:
        pages.append(
            read_page(disk, LAYOUT, A, pages[-1].position, max_bytes=max_bytes, max_records=max_records)
        )
    return pages


@pytest.mark.parametrize("max_bytes", [1, 100, 500, 10**9])
@pytest.mark.parametrize("max_records", [None, 1, 7])
@pytest.mark.parametrize("chunk", [3, 64, 1 << 18])
def test_pages_of_any_size_hold_every_record_once_byte_for_byte(
    max_bytes: int, max_records: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_CHUNK", chunk)
    pages = in_pages(disk_with(FILE), max_bytes=max_bytes, max_records=max_records)
    assert [record.raw for page in pages for record in page.records] == RUN
    for page in pages:
        assert len(page.records) <= (max_records or 100)
        assert len(page.records) == 1 or sum(len(record.raw) for record in page.records) <= max_bytes
        assert not page.records or page.records[-1].after == page.position
    assert pages[-1].position == Position(52, 0, len(FILE), 52)


def test_a_page_does_not_show_more_records_than_the_caller_allows() -> None:
    disk = disk_with(FILE)
    page = read_page(disk, LAYOUT, A, until=10)
    assert [record.raw for record in page.records] == RUN[:10]
    assert page.at_end
    assert read_page(disk, LAYOUT, A, page.position, until=10).records == []
    assert [record.raw for record in read_page(disk, LAYOUT, A, page.position, until=12).records] == RUN[
        10:12
    ]


def test_a_position_goes_on_where_the_file_had_ended() -> None:
    disk = disk_with(FILE)
    end = read_page(disk, LAYOUT, A).position
    assert read_page(disk, LAYOUT, A, end) == Page([], end, 0, at_end=True)
    disk.put(LAYOUT.run_file(A), FILE + turn(50) + b"\n")
    assert [record.raw for record in read_page(disk, LAYOUT, A, end).records] == [turn(50)]


def test_a_file_cut_anywhere_shows_its_whole_lines_and_reports_the_rest() -> None:
    for cut in range(len(FILE) + 1):
        disk = disk_with(FILE[:cut])
        page = read_page(disk, LAYOUT, A)
        whole = FILE[:cut].rpartition(b"\n")[0].split(b"\n") if b"\n" in FILE[:cut] else []
        assert [record.raw for record in page.records] == whole
        assert page.torn_bytes == cut - sum(len(line) + 1 for line in whole)


def test_a_tail_of_zeros_is_torn_and_no_damage() -> None:
    page = read_page(disk_with(FILE + bytes(5000)), LAYOUT, A)
    assert [record.raw for record in page.records] == RUN
    assert page.torn_bytes == 5000


def test_any_flipped_bit_in_the_last_two_lines_spares_all_lines_before() -> None:
    begin = len(FILE) - len(RUN[-1]) - len(RUN[-2]) - 2
    for at in range(begin, len(FILE)):
        for bit in range(8):
            content = bytearray(FILE)
            content[at] ^= 1 << bit
            page = read_page(disk_with(bytes(content)), LAYOUT, A)
            assert [record.raw for record in page.records[:50]] == RUN[:50]
            assert len(page.records[50:]) in (1, 2, 3)
            for record in page.records:
                assert json.loads(record.raw)["record"] == record.kind


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'"turn"',
        b'{"record":5}',
        b'{"index":1}',
        b'{"record":"turn","x":"\xff"}',
        bytes(20),
    ],
)
def test_a_damaged_line_is_reported_by_number_in_its_place(damage: bytes) -> None:
    disk = disk_with(b"\n".join([*RUN[:3], damage, *RUN[4:]]) + b"\n")
    page = read_page(disk, LAYOUT, A)
    assert page.records[3].kind == "damaged"
    assert [record.raw for record in page.records] == [
        *RUN[:3],
        b'{"record":"damaged","line":4}',
        *RUN[4:],
    ]


def test_an_unknown_tag_and_unknown_fields_are_kept_as_they_are() -> None:
    line = b'{ "record" : "from the future", "x": [1, 2.50, "\\u00e9"] }'
    assert lines_of(disk_with(RUN[0] + b"\n" + line + b"\n"), A) == [RUN[0], line]


def test_a_continued_run_reads_as_one_up_to_the_cuts() -> None:
    first = b"\n".join(RUN[:3]) + b"\n"
    second = header(len(first)) + b"\n".join(RUN[3:10]) + b"\n"
    third = header(len(second)) + b"\n".join(RUN[10:]) + b"\n"
    disk = disk_with(first + b'{"half', second + RUN[5] + b"\n", third)
    for max_bytes in (1, 300, 10**9):
        pages = in_pages(disk, max_bytes=max_bytes)
        assert [record.raw for page in pages for record in page.records] == RUN
        assert pages[-1].torn_bytes == 0


def test_a_reader_past_the_cut_goes_on_at_the_same_record_of_the_continuation() -> None:
    first = b"\n".join(RUN[:8]) + b"\n"
    disk = disk_with(first)
    for seen in range(9):
        position = read_page(disk, LAYOUT, A, until=seen).position
        cut = sum(len(line) + 1 for line in RUN[:3])
        after = disk_with(first, header(cut) + b"\n".join(RUN[3:]) + b"\n")
        assert [record.raw for record in read_page(after, LAYOUT, A, position).records] == RUN[seen:]


def test_a_damaged_line_of_a_continuation_is_numbered_within_its_file() -> None:
    first = b"\n".join(RUN[:3]) + b"\n"
    disk = disk_with(first + RUN[3] + b"\n", header(len(first)) + RUN[3] + b"\nbroken\n" + RUN[5] + b"\n")
    damaged = b'{"record":"damaged","line":3,"segment":1}'
    assert lines_of(disk, A) == [*RUN[:4], damaged, RUN[5]]
    position = read_page(disk_with(first + RUN[3] + b"\n"), LAYOUT, A).position
    assert [record.raw for record in read_page(disk, LAYOUT, A, position).records] == [damaged, RUN[5]]


def test_a_continuation_that_was_never_begun_is_torn() -> None:
    page = read_page(disk_with(FILE, b'{"record":"seg'), LAYOUT, A)
    assert [record.raw for record in page.records] == RUN
    assert page.torn_bytes == 14
    assert read_page(disk_with(FILE, b""), LAYOUT, A).torn_bytes == 0


@pytest.mark.parametrize("begin", [b"damaged\n", b"", b"x" * 5000 + b"\n"])
def test_a_continuation_whose_first_line_is_damaged_shows_the_lines_of_both_files(begin: bytes) -> None:
    first, second = b"\n".join(RUN[:3]) + b"\n", begin + b"\n".join(RUN[3:]) + b"\n"
    lines = lines_of(disk_with(first, second), A)
    assert [line for line in lines if b'"damaged"' not in line] == RUN
    assert len(lines) == len(RUN) + bool(begin)


def test_a_file_that_became_shorter_than_a_reader_knew_ends_there() -> None:
    page = read_page(disk_with(FILE), LAYOUT, A, Position(60, 0, len(FILE) + 100, 60))
    assert page.records == []
    assert page.torn_bytes == 0
    cut = disk_with(RUN[0] + b"\n", header(10_000) + RUN[1] + b"\n")
    assert lines_of(cut, A) == RUN[:2]
    beyond = read_page(cut, LAYOUT, A, Position(9, 0, 20_000, 9))
    assert beyond.records == []


def test_bytes_that_vanish_while_they_are_read_end_the_reading() -> None:
    class Shrinking(SimDisk):
        def pread(self, descriptor: int, count: int, offset: int) -> bytes:
            return b""

    disk = disk_with(FILE)
    disk.__class__ = Shrinking
    assert read_page(disk, LAYOUT, A).records == []


def test_a_run_that_is_not_there_or_is_no_file_is_an_error_and_never_followed(tmp_path: Path) -> None:
    layout, disk = Layout(tmp_path), Disk()
    layout.prepare(disk)
    disk.make_directory(layout.agent_directory(A.agent_id))
    with pytest.raises(FileNotFoundError):
        read_page(disk, layout, A)
    layout.run_file(A).symlink_to("/etc/passwd")
    with pytest.raises(NotRegularError):
        read_page(disk, layout, A)


def test_no_descriptor_stays_open_after_a_page() -> None:
    disk = disk_with(FILE, header(len(FILE)))
    read_page(disk, LAYOUT, A, max_records=3)
    read_page(disk, LAYOUT, A)
    assert disk.open_files == {}


@given(st.lists(st.binary(max_size=60), max_size=12), st.integers(1, 40))
def test_no_content_makes_reading_fail_and_every_record_decodes(content: list[bytes], max_bytes: int) -> None:
    pages = in_pages(disk_with(b"\n".join(content)), max_bytes=max_bytes)
    for page in pages:
        for record in page.records:
            assert json.loads(record.raw)["record"] == record.kind

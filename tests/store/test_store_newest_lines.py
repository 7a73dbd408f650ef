"""Reading the newest lines of a journal file beside the runs."""

from __future__ import annotations

import msgspec
import pytest

from car_trio.store import log_files
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.log_files import newest


class Line(msgspec.Struct, tag_field="record", tag="line"):
    n: int


def line(n: int) -> bytes:
    return msgspec.json.encode(Line(n)) + b"\n"


def read(root, most: int = 10) -> list[int]:
    return [each.n for each in newest(Disk(), Layout(root), "log.jsonl", Line, most)]


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert read(tmp_path) == []


def test_the_newest_lines_come_oldest_first_through_all_continuations(tmp_path):
    counted = line(1) + line(2)
    (tmp_path / "log.jsonl").write_bytes(counted + line(9))
    header = b'{"record":"segment","previous_bytes":%d}\n' % len(counted)
    (tmp_path / "log~1.jsonl").write_bytes(header + line(3))
    assert read(tmp_path) == [1, 2, 3]
    assert read(tmp_path, 2) == [2, 3]


def test_what_is_damaged_torn_or_something_else_is_passed_over(tmp_path):
    content = (
        line(1)
        + b"\xff\xfe\n"
        + b'{"record":"other"}\n'
        + b'{"record":"line","n":"x"}\n\n'
        + line(2)
        + line(3)[:9]
    )
    (tmp_path / "log.jsonl").write_bytes(content)
    assert read(tmp_path) == [1, 2]


def test_only_the_end_of_a_large_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(log_files, "NEWEST_BYTES", 2 * len(line(1)) + 3)
    (tmp_path / "log.jsonl").write_bytes(b"".join(line(n) for n in range(1, 10)))
    assert read(tmp_path) == [8, 9]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OSError, match="log.jsonl"):
        read(tmp_path)

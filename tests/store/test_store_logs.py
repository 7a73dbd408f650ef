"""Journal files beside the runs, and policy files: read back as they were written."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime

import pytest

from car_trio.store import policy_reading
from car_trio.store.disk import Disk
from car_trio.store.events import drop_journals, query
from car_trio.store.layout import Layout
from car_trio.store.log_files import lines
from car_trio.store.policy_reading import Unreadable, read_texts, stamps
from car_trio.wire.events import QueryEvents
from tests.sim_disk import ROOT, Fault
from tests.store.store_scripts import B
from tests.store.test_store_journal import Place, settled


def test_a_continued_file_is_read_as_one_without_the_lines_that_say_so(tmp_path):
    layout = Layout(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b"one\ntwo\nlost\n")
    (tmp_path / "a~1.jsonl").write_bytes(b'{"record":"segment","previous_bytes":8}\nthree\ntorn')
    assert list(lines(Disk(), layout, "a.jsonl")) == [b"one", b"two", b"three"]
    (tmp_path / "a~2.jsonl").write_bytes(b"no header\n")
    assert list(lines(Disk(), layout, "a.jsonl")) == [b"one", b"two", b"three", b"no header"]
    assert list(lines(Disk(), layout, "b.jsonl")) == []


def test_a_line_longer_than_a_chunk_is_whole_and_a_first_file_that_looks_continued_is_shown(tmp_path):
    first = b'{"record":"segment","previous_bytes":8}'
    (tmp_path / "a.jsonl").write_bytes(first + b"\n" + b"x" * 600_000 + b"\n")
    assert list(lines(Disk(), Layout(tmp_path), "a.jsonl")) == [first, b"x" * 600_000]


def test_a_damaged_event_is_passed_over(tmp_path):
    (tmp_path / "journals").mkdir()
    event = b'{"id":"1","kind":"k","timestamp":"2026-01-01T00:00:00.000000Z","data":{}}'
    (tmp_path / "journals" / "c.jsonl").write_bytes(b"{half\n" + event + b"\n")
    found = query(Disk(), Layout(tmp_path), "c", QueryEvents())
    assert [bytes(each) for each in found.events] == [event]


def test_old_journals_of_the_gone_are_removed(tmp_path):
    layout = Layout(tmp_path)
    cutoff = datetime(2026, 1, 1, tzinfo=UTC)
    assert drop_journals(Disk(), layout, set(), cutoff) == 0
    (tmp_path / "journals").mkdir()
    for name in ("old.jsonl", "old~1.jsonl", "live.jsonl", "new.jsonl"):
        (tmp_path / "journals" / name).write_bytes(b"")
        if not name.startswith("new"):
            os.utime(tmp_path / "journals" / name, (0, 0))
    (tmp_path / "journals" / "directory").mkdir()
    assert drop_journals(Disk(), layout, {"live"}, cutoff) == 2
    assert {path.name for path in (tmp_path / "journals").iterdir()} == {
        "live.jsonl",
        "new.jsonl",
        "directory",
    }


def test_event_logs_that_cannot_be_listed_stay_and_the_log_says_why(tmp_path, caplog):
    (tmp_path / "journals").symlink_to("elsewhere")
    assert drop_journals(Disk(), Layout(tmp_path), set(), datetime.now(UTC)) == 0
    assert "what is old in it stays" in caplog.text


def test_only_toml_files_are_policies_and_what_vanished_meanwhile_is_not_there(tmp_path, monkeypatch):
    for name in ("b.toml", "a.toml", "c.txt"):
        (tmp_path / name).write_text("x = 1")
    assert [stamp.name for stamp in stamps(tmp_path)] == ["a.toml", "b.toml"]
    real = policy_reading.Path.stat

    def stat(path, **more):
        if path.name == "a.toml":
            raise FileNotFoundError
        if path.name == "b.toml":
            raise PermissionError(13, "Permission denied")
        return real(path, **more)

    monkeypatch.setattr(policy_reading.Path, "stat", stat)
    monkeypatch.setattr(policy_reading.Path, "is_symlink", lambda path: False)
    with pytest.raises(Unreadable, match="b.toml: Permission denied"):
        stamps(tmp_path)
    (tmp_path / "b.toml").unlink()
    assert stamps(tmp_path) == ()


def test_a_file_that_is_gone_when_it_is_read_is_unreadable_and_too_many_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.toml").write_text("x = 1")
    found = stamps(tmp_path)
    (tmp_path / "a.toml").unlink()
    with pytest.raises(Unreadable, match="a.toml, line 1: No such file"):
        read_texts(tmp_path, found)
    monkeypatch.setattr(policy_reading, "MAX_FILES", 0)
    (tmp_path / "a.toml").write_text("x = 1")
    with pytest.raises(Unreadable, match="more than 0"):
        stamps(tmp_path)


async def test_after_its_last_lines_a_journal_file_gives_its_descriptor_back(autojump_clock):
    place = Place()
    async with place.journal() as journal:
        await settled(journal.log("journals/c.jsonl", b"one"))
        assert len(place.disk.open_files) == 1
        await settled(journal.log("journals/c.jsonl", b"", last=True))
        assert place.disk.open_files == {}
        await settled(journal.log("journals/c.jsonl", b"two", last=True))
        assert place.disk.open_files == {}
    assert place.disk.text(ROOT / "journals" / "c.jsonl") == b"one\ntwo\n"


async def test_a_file_may_be_let_go_for_want_of_descriptors_in_the_batch_that_ends_it(autojump_clock):
    place = Place()
    async with place.journal() as journal:
        await settled(journal.log("journals/c.jsonl", b"one"))
        place.disk.begin()
        place.disk.faults = [Fault(1, errno.EMFILE, kind="create")]
        journal.put(B, [], durable=lambda: None)
        journal.log("journals/c.jsonl", b"", last=True)
        assert await settled(journal.log("journals/d.jsonl", b"two")) is None
        assert journal.failures == 0
        assert len(place.disk.open_files) == 1

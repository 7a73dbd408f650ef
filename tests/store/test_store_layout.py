"""Names that lead nowhere else, and files that nobody else can read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_trio.store.disk import Disk, NotRegularError
from car_trio.store.layout import (
    MAX_NAME_BYTES,
    Layout,
    RunFileName,
    decode_name,
    encode_name,
    make_directory,
    parse_run_file,
)
from car_trio.store.torn import cut_tail_off
from car_trio.wire.errors import INVALID_PARAMS, Refusal
from car_trio.wire.runs import RunRef
from tests.sim_disk import ROOT, Fault, SimDisk
from tests.store.store_scripts import LAYOUT, A

IDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=26)


@given(IDS)
def test_an_id_comes_back_from_its_file_name_which_is_one_visible_path_component(identifier: str) -> None:
    name = encode_name(identifier)
    assert decode_name(name) == identifier
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.%")
    assert not name.startswith(".")


@given(IDS, IDS)
def test_two_ids_never_share_a_file_even_where_case_does_not_count(one: str, other: str) -> None:
    assert one == other or encode_name(one).casefold() != encode_name(other).casefold()


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("a-b_c.9", "a-b_c.9"),
        (".hidden", "%2ehidden"),
        ("..", "%2e."),
        ("A/b~", "%41%2fb%7e"),
        ("é", "%c3%a9"),
    ],
)
def test_what_is_not_plain_is_percent_encoded_in_lower_case(identifier: str, name: str) -> None:
    assert encode_name(identifier) == name


@pytest.mark.parametrize(
    ("identifier", "problem"),
    [
        ("", "empty"),
        ("a\nb", "control character"),
        ("a\x7f", "control character"),
        ("a\x85", "control character"),
        ("a\ud800", "UTF-8"),
        ("x" * (MAX_NAME_BYTES + 1), "too long"),
        ("é" * 41, "too long"),
    ],
)
def test_an_id_without_a_file_name_is_refused_with_its_problem(identifier: str, problem: str) -> None:
    with pytest.raises(Refusal, match=problem) as refused:
        encode_name(identifier)
    assert refused.value.code == INVALID_PARAMS
    refused.value.message.encode()


@pytest.mark.parametrize("name", ["", "A", "%41%", "%2E", "%61", "é", "a~1", "%ff", ".x", "%0a", "\udc80"])
def test_a_foreign_file_name_is_no_id(name: str) -> None:
    assert decode_name(name) is None


def test_runs_and_their_continuations_are_told_from_everything_else() -> None:
    assert parse_run_file("a.b.jsonl") == RunFileName("a.b", 0)
    assert parse_run_file("a~12.jsonl") == RunFileName("a", 12)
    for foreign in ("a.torn", "a~0.jsonl", "a~1~2.jsonl", "~1.jsonl", "A.jsonl", ".jsonl", "a.jsonl.bak"):
        assert parse_run_file(foreign) is None


def test_a_journal_file_is_named_within_the_root_and_nowhere_else() -> None:
    assert LAYOUT.log_file("journals/a.jsonl") == ROOT / "journals" / "a.jsonl"
    assert LAYOUT.log_file("journals/a.jsonl", 2) == ROOT / "journals" / "a~2.jsonl"
    for hostile in ("", "/etc/passwd", "../x", "a/../../x", "a~1.jsonl", "a\0b"):
        with pytest.raises(ValueError, match="not a path under the state root"):
            LAYOUT.log_file(hostile)


def test_everything_is_private_whatever_the_umask_is(tmp_path: Path) -> None:
    disk, layout = Disk(), Layout(tmp_path / "deep" / "root")
    before = os.umask(0)
    try:
        layout.prepare(disk)
        layout.prepare(disk)
        disk.make_directory(layout.agent_directory("a"))
        disk.close(disk.create(layout.run_file(RunRef("a", "r"))))
    finally:
        os.umask(before)
    modes = {
        path.relative_to(layout.root).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in [layout.root, *layout.root.rglob("*")]
    }
    assert modes == {
        ".": 0o700,
        "run": 0o700,
        "runs": 0o700,
        "runs/.nobackup": 0o600,
        "runs/a": 0o700,
        "runs/a/r.jsonl": 0o600,
    }


def test_what_is_no_regular_file_is_refused_and_neither_followed_nor_waited_for(tmp_path: Path) -> None:
    disk = Disk()
    (tmp_path / "real").write_bytes(b"content")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "dangling", "folder", "fifo"):
        for opening in (disk.open_read, disk.open_append):
            with pytest.raises(NotRegularError, match="not a regular file"):
                opening(tmp_path / name)
        with pytest.raises(FileExistsError):
            disk.create(tmp_path / name)
        assert not disk.stat(tmp_path / name).regular
    assert not (tmp_path / "nowhere").exists()


def test_a_linked_directory_is_not_entered(tmp_path: Path) -> None:
    disk = Disk()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"")
    (tmp_path / "agent").symlink_to("elsewhere")
    inside = tmp_path / "agent" / "file"
    for step in (disk.open_read, disk.open_append, disk.stat, disk.unlink):
        with pytest.raises(NotADirectoryError):
            step(inside)
    with pytest.raises(NotADirectoryError):
        disk.create(tmp_path / "agent" / "new")
    with pytest.raises(NotADirectoryError):
        disk.entries(tmp_path / "agent")
    with pytest.raises(NotADirectoryError, match="never followed"):
        make_directory(disk, tmp_path / "agent")


def test_opening_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Disk().open_read(tmp_path / "nothing")


def test_the_disk_does_what_its_names_say(tmp_path: Path) -> None:
    disk = Disk()
    path = tmp_path / "file"
    descriptor = disk.create(path)
    assert disk.write(descriptor, b"one\ntwo\n") == 8
    disk.sync(descriptor)
    disk.truncate(descriptor, 4)
    disk.write(descriptor, b"three\n")
    assert disk.pread(descriptor, 100, 4) == b"three\n"
    assert disk.fstat(descriptor) == disk.stat(path)
    assert disk.stat(path).size == 10
    disk.close(descriptor)
    disk.rename(path, tmp_path / "other")
    disk.make_directory(tmp_path / "folder")
    disk.sync_directory(tmp_path)
    assert sorted((name, found.regular) for name, found in disk.entries(tmp_path)) == [
        ("folder", False),
        ("other", True),
    ]
    disk.remove_directory(tmp_path / "folder")
    disk.unlink(tmp_path / "other")
    assert disk.entries(tmp_path) == []
    assert disk.free_bytes(tmp_path) > 0


def test_a_name_that_vanishes_while_a_directory_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Vanished:
        name = "gone"

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            raise FileNotFoundError

    class Listing(list[Vanished]):
        def __enter__(self) -> Listing:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", lambda _: Listing([Vanished()]))
    assert Disk().entries(tmp_path) == []


def test_a_directory_whose_name_cannot_be_synced_is_made_again_the_next_time() -> None:
    disk = SimDisk()
    disk.faults = [Fault(1, errno.EIO, kind="sync_directory")]
    with pytest.raises(OSError, match="Input/output"):
        make_directory(disk, ROOT / "agent")
    assert make_directory(disk, ROOT / "agent") is True
    assert make_directory(disk, ROOT / "agent") is False


def test_a_torn_tail_is_moved_aside_once_however_often_that_is_begun() -> None:
    for at in range(1, 30):
        disk = SimDisk()
        LAYOUT.prepare(disk)
        disk.make_directory(LAYOUT.agent_directory("agent"))
        disk.put(LAYOUT.run_file(A), b"whole\ntorn")
        disk.begin()
        disk.faults = [Fault(at, errno.EIO)]
        try:
            assert cut_tail_off(disk, LAYOUT.run_file(A)) == 4
        except OSError:
            cut_tail_off(disk, LAYOUT.run_file(A))
        assert disk.text(LAYOUT.run_file(A)) == b"whole\n"
        assert disk.text(LAYOUT.torn_file(A)) == b"torn"
        if not disk.faults[0].struck:
            return
    raise AssertionError("it never ran without a fault")


class TwinDisk(Disk):
    """Another process makes everything a moment before."""

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        raise FileExistsError(path)

    def create(self, path: Path) -> int:
        self.close(super().create(path))
        return super().create(path)


def test_two_processes_may_make_a_root_at_once(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    layout.prepare(TwinDisk())
    assert {path.name for path in layout.root.iterdir()} == {"run", "runs"}
    assert (layout.runs / ".nobackup").exists()

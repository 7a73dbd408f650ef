"""One writer per root, and who comes second learns who is first."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from car_trio.store import lock
from car_trio.store.disk import NotRegularError
from car_trio.store.layout import Layout
from car_trio.store.lock import StoreBusy, hold_lock, lock_is_held


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PROBE_SECONDS", 0.0)


def test_the_second_holder_is_told_the_first_ones_pid_and_url(layout: Layout) -> None:
    with hold_lock(layout):
        layout.daemon_json.write_text(f'{{"pid": {os.getpid()}, "url": "ws://127.0.0.1:9100", "more": 1}}')
        with (
            pytest.raises(StoreBusy, match=f"{os.getpid()} at ws://127.0.0.1:9100") as busy,
            hold_lock(layout),
        ):
            pass
    assert (busy.value.pid, busy.value.url) == (os.getpid(), "ws://127.0.0.1:9100")


def test_the_url_of_an_earlier_daemon_is_not_passed_off_as_the_holders(layout: Layout) -> None:
    layout.daemon_json.write_text('{"pid": 1, "url": "ws://old"}')
    with hold_lock(layout), pytest.raises(StoreBusy) as busy, hold_lock(layout):
        pass
    assert (busy.value.pid, busy.value.url) == (os.getpid(), None)


@pytest.mark.parametrize("content", [None, "not json", '{"pid": "x"}'])
def test_without_a_pid_the_holder_is_unknown(layout: Layout, content: str | None) -> None:
    if content is not None:
        layout.daemon_json.write_text(content)
    with hold_lock(layout):
        layout.lock.write_bytes(b"")
        with pytest.raises(StoreBusy, match="unknown") as busy, hold_lock(layout):
            pass
    assert busy.value.pid is None


def test_the_lock_is_free_after_its_holder_and_the_file_stays(layout: Layout) -> None:
    assert not lock_is_held(layout)
    with hold_lock(layout):
        assert lock_is_held(layout)
    assert not lock_is_held(layout)
    assert layout.lock.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(layout.lock.stat().st_mode) == 0o600
    with hold_lock(layout):
        pass


def test_looking_at_the_lock_of_a_store_that_was_never_used_makes_nothing(tmp_path: Path) -> None:
    assert not lock_is_held(Layout(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_start_waits_out_a_reader_who_looks_at_the_lock(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PROBE_SECONDS", 60.0)
    reader = hold_lock(layout)
    reader.__enter__()
    monkeypatch.setattr(lock.time, "sleep", lambda _: reader.__exit__(None, None, None))
    with hold_lock(layout):
        assert lock_is_held(layout)


def test_a_link_in_place_of_the_lock_is_not_followed(layout: Layout, tmp_path: Path) -> None:
    layout.lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotRegularError, match="never followed"), hold_lock(layout):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_fifo_in_place_of_the_lock_or_of_the_daemons_file_makes_nobody_wait(layout: Layout) -> None:
    os.mkfifo(layout.lock)
    with pytest.raises(NotRegularError), hold_lock(layout):
        pass
    layout.lock.unlink()
    os.mkfifo(layout.daemon_json)
    with hold_lock(layout), pytest.raises(StoreBusy), hold_lock(layout):
        pass


def test_a_lock_that_may_not_be_opened_says_so(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(lock.os, "open", refuse)
    with pytest.raises(PermissionError, match="not yours"), hold_lock(layout):
        pass


def test_a_killed_holder_leaves_a_free_lock(layout: Layout) -> None:
    program = (
        "import os; from car_trio.store.layout import Layout; from car_trio.store.lock import hold_lock;"
        f"held = hold_lock(Layout({str(layout.root)!r})); held.__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    with hold_lock(layout):
        pass

"""A disk that fails at every place there is, in every way: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import errno

import pytest

from tests.sim_disk import Fault, SimDisk
from tests.store.store_scripts import LAYOUT, SCRIPT, Played, lines_of, play

ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE, errno.EINTR]
MODES = ["always", "interval", "os"]
OPTIONS = {"sync_interval_ms": 50}


def prepared() -> SimDisk:
    disk = SimDisk()
    LAYOUT.prepare(disk)
    disk.begin()
    return disk


def assert_whole(disk: SimDisk, played: Played) -> None:
    for ref, lines in played.put.items():
        assert lines_of(disk, ref) == lines
        assert played.true[ref] == lines
    assert played.settled == [None] * sum(len(step) for step in SCRIPT)


def count_operations(mode: str) -> int:
    disk = prepared()
    play(disk, durability=mode, **OPTIONS)
    return len(disk.log)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", ERRORS)
def test_an_error_at_any_operation_loses_nothing_doubles_nothing_and_heals(mode: str, number: int) -> None:
    for at in range(1, count_operations(mode) + 40):
        disk = prepared()
        disk.faults = [Fault(at, number)]
        played = play(disk, durability=mode, **OPTIONS)
        assert_whole(disk, played)
        assert played.health in ([], played.health[:1] + [None])
        if not disk.faults[0].struck:
            return
    raise AssertionError("the script never ran without a fault")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [0, errno.EIO, errno.ENOSPC])
def test_half_a_write_at_any_place_loses_nothing_and_doubles_nothing(mode: str, number: int) -> None:
    for at in range(1, 60):
        disk = prepared()
        disk.faults = [Fault(at, number, kind="write", halfway=True)]
        assert_whole(disk, play(disk, durability=mode, **OPTIONS))
        if not disk.faults[0].struck:
            return
    raise AssertionError("the script never ran without a fault")

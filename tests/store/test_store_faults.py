"""A disk that fails at every place there is, in every way: nothing acknowledged is lost, nothing is there
twice."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from copy import deepcopy

import pytest

from car_trio.store.orphans import adopt_orphans
from tests.sim_disk import Fault, SimDisk
from tests.store.store_scripts import LAYOUT, SCRIPT, A, Played, lines_of, play, started

ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE, errno.EINTR]
MODES = ["always", "interval", "os"]
OPTIONS = {"sync_interval_ms": 50}


def prepared() -> SimDisk:
    disk = SimDisk()
    LAYOUT.prepare(disk)
    disk.begin()
    return disk


def survives(fault: Fault, mode: str, *others: Fault) -> bool:
    """Play the script with a fault and look at what is there; true if the fault struck."""
    disk = prepared()
    disk.faults = [fault, *others]
    played = play(disk, durability=mode, **OPTIONS)
    disk.faults = []
    for ref, lines in played.put.items():
        assert lines_of(disk, ref) == lines
        assert played.true[ref] == lines
    if mode != "os":
        after = disk.crash(random.Random(fault.at))
        assert all(lines_of(after, ref) == lines for ref, lines in played.put.items()), "closing syncs all"
    assert played.settled == [None] * sum(len(step) for step in SCRIPT)
    assert played.health[1::2] == [None] * (len(played.health) // 2), "every trouble heals"
    assert None not in played.health[::2] and len(played.health) % 2 == 0
    return fault.struck


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", ERRORS)
def test_an_error_at_any_operation_loses_nothing_doubles_nothing_and_heals(mode: str, number: int) -> None:
    places = next(at for at in range(1, 500) if not survives(Fault(at, number), mode))
    assert places > 20


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [0, errno.EIO, errno.ENOSPC])
def test_half_a_write_at_any_place_loses_nothing_and_doubles_nothing(mode: str, number: int) -> None:
    places = next(
        at for at in range(1, 500) if not survives(Fault(at, number, kind="write", halfway=True), mode)
    )
    assert places > 5


@pytest.mark.parametrize("mode", MODES)
def test_half_a_write_that_cannot_be_cut_back_is_continued_in_a_new_file(mode: str) -> None:
    for at in range(1, 10):
        cut_fails = Fault(1, errno.EIO, kind="truncate")
        assert (
            survives(Fault(at, errno.EIO, kind="write", halfway=True), mode, cut_fails) and cut_fails.struck
        )


@pytest.mark.parametrize("mode", MODES)
def test_several_faults_in_a_row_lose_nothing_and_double_nothing(mode: str) -> None:
    choice = random.Random(7)
    struck = 0
    for _ in range(400):
        first = choice.randint(1, 60)
        faults = [
            Fault(first + ahead, choice.choice(ERRORS), halfway=choice.random() < 0.3)
            for ahead in sorted(choice.sample(range(12), 3))
        ]
        struck += survives(faults[0], mode, *faults[1:])
    assert struck > 100


def images(mode: str, seeds: int, *faults: Fault) -> Iterator[tuple[SimDisk, Played]]:
    """What a power cut may leave at every operation of the script, with what had been said to be true by
    then."""
    found: list[tuple[SimDisk, Played]] = []
    disk = prepared()
    choice = random.Random(f"{mode} {faults and faults[0].at}")

    def cut(played: Played) -> None:
        for _ in range(seeds):
            said = Played(put=deepcopy(played.put), true=deepcopy(played.true))
            found.append((disk.crash(choice), said))

    disk.faults = list(faults)
    play(disk, watch=cut, durability=mode, **OPTIONS)
    yield from found


def is_subsequence(some: list[bytes], whole: list[bytes]) -> bool:
    rest = iter(whole)
    return all(line in rest for line in some)


def assert_true_after_cut(disk: SimDisk, played: Played, *, all_there: bool) -> None:
    adopted = adopt_orphans(disk, LAYOUT, None).adopted
    for ref, lines in played.put.items():
        there = lines_of(disk, ref)
        read = [line for line in there if line in lines]
        assert len(read) == len(set(read))
        assert is_subsequence(read, lines)
        if all_there:
            assert read[: len(played.true[ref])] == played.true[ref]
        assert not there or sum(b'"ended"' in line for line in there) == 1
    for seed in range(3):
        again = disk.crash(random.Random(seed))
        assert not set(adopted) & set(adopt_orphans(again, LAYOUT, None).adopted)
        for ref in adopted:
            assert lines_of(again, ref) == lines_of(disk, ref), "an adoption survives a power cut"


@pytest.mark.parametrize("mode", MODES)
def test_after_a_power_cut_at_any_moment_what_was_acknowledged_as_synced_is_there(mode: str) -> None:
    for disk, played in images(mode, 4):
        assert_true_after_cut(disk, played, all_there=mode == "always")


def test_after_a_failed_sync_and_a_power_cut_at_any_moment_what_was_acknowledged_is_there() -> None:
    for at in range(1, 12):
        for kind in ("sync", "sync_directory"):
            for disk, played in images("always", 1, Fault(at, errno.EIO, kind=kind)):
                assert_true_after_cut(disk, played, all_there=True)


def test_after_a_torn_write_and_a_power_cut_at_any_moment_what_was_acknowledged_is_there() -> None:
    for at in range(1, 12):
        torn = Fault(at, errno.EIO, kind="write", halfway=True)
        for disk, played in images("always", 1, torn, Fault(1, errno.EIO, kind="truncate")):
            assert_true_after_cut(disk, played, all_there=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_process_loses_nothing_that_was_acknowledged_in_any_mode(mode: str) -> None:
    disk = prepared()

    def kill(played: Played) -> None:
        after = deepcopy(disk.restart())
        said = Played(put=deepcopy(played.put), true=deepcopy(played.true))
        assert_true_after_cut(after, said, all_there=True)

    play(disk, watch=kill, durability=mode, **OPTIONS)


def test_a_run_whose_name_an_earlier_process_had_not_synced_survives_once_something_is_acknowledged() -> None:
    disk = prepared()
    disk.make_directory(LAYOUT.agent_directory(A.agent_id))
    descriptor = disk.create(LAYOUT.run_file(A))
    disk.write(descriptor, started(A) + b"\n")
    killed = disk.restart()

    def lose_power(played: Played) -> None:
        if played.true.get(A):
            for seed in range(20):
                assert started(A) in lines_of(killed.crash(random.Random(seed)), A)

    play(killed, watch=lose_power)


def test_an_adopted_run_survives_with_its_directory_even_if_nobody_had_synced_that() -> None:
    disk = prepared()
    disk.make_directory(LAYOUT.agent_directory(A.agent_id))
    disk.write(disk.create(LAYOUT.run_file(A)), started(A) + b"\n")
    assert adopt_orphans(disk, LAYOUT, None).adopted == [A]
    for seed in range(20):
        assert len(lines_of(disk.crash(random.Random(seed)), A)) == 2

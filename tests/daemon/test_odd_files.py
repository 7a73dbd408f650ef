"""Something else in the place of every file and directory that the daemon uses: a link, a FIFO, a socket, a device.

Whoever could put it there is the same user, so this is about accidents and about nothing being followed: a link may
lead to a file that somebody would miss. Each start ends in one of two ways, and soon: the daemon serves, and what it
then records can be read, or it says in one line what it found and where. Nothing outside the state root changes, and
all that it makes is for its user alone, whatever the umask.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from car_trio import Daemon, connect
from car_trio.client import CallRefused, Car
from car_trio.config import ConfigError
from tests.process.daemon_process import PATIENCE

OUTSIDE = b"somebody would miss this\n"
FILES = [
    "ai.parslee.car/auth-token",
    "ai.parslee.car/host-token",
    "run/daemon.lock",
    "run/daemon.json",
    "run/car.sock",
    "run/clean-stop",
    "catalog.sqlite",
    "catalog.sqlite-wal",
    "catalog.sqlite-shm",
    "approvals.jsonl",
    "permissions.jsonl",
    "deleted-runs.jsonl",
    "config.toml",
    "policies/rules.toml",
    "runs/alice/the-run.jsonl",
    "runs/.nobackup",
]
DIRECTORIES = ["ai.parslee.car", "run", "runs", "runs/alice", "journals", "policies"]


def linked(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "file")


def dangling(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "not-there")


def linked_directory(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def directory(path: Path, outside: Path) -> None:
    path.mkdir(0o700)
    (path / "kept").write_bytes(OUTSIDE)


def unix_socket(path: Path, outside: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path, outside: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


def plain_file(path: Path, outside: Path) -> None:
    path.write_bytes(OUTSIDE)


Oddity = Callable[[Path, Path], None]
ODD_FILES: list[Oddity] = [linked, dangling, linked_directory, fifo, directory, unix_socket, device]
ODD_DIRECTORIES: list[Oddity] = [linked_directory, dangling, fifo, unix_socket, plain_file, device]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    place.mkdir()
    (place / "file").write_bytes(OUTSIDE)
    (place / "file").chmod(0o644)
    return place


@contextmanager
def untouched(outside: Path) -> Iterator[None]:
    yield
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_bytes() == OUTSIDE
    assert stat.S_IMODE((outside / "file").stat().st_mode) == 0o644


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def alarm() -> Iterator[None]:
    """A wait that is not the event loop's ends too: opening a FIFO may take for ever."""

    def ring(*_: object) -> None:
        raise AssertionError("something waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 2 * PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def served(home: Path) -> None:
    """A daemon on this root has served, recorded and stopped in order. Raises `ConfigError` when it does not start."""
    daemon = Daemon(home, {"server.port": 0, "runs.durability": "os"})
    stop = trio.Event()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            endpoint = await nursery.start(daemon.serve, stop.wait)
            await use(home, endpoint.url)
            stop.set()


async def use(home: Path, url: str) -> None:
    """One of everything that makes or reads a file."""
    async with connect(url, home=str(home), agent_id="bob") as bob:
        async with bob.run("tidy up") as run:
            await run.record([{"prompt": "p"}])
        assert len((await bob.call("runs.get_trace", {"run_id": run.run_id}))["records"]) == 3
    async with connect(url, home=str(home), host=True) as host:
        for method, params in OF_A_HOST:
            await tried(host, method, params)
        if (row := await tried(host, "host.request_approval", {"action": "a"})) is not None:
            await tried(host, "host.resolve_approval", {"approval_id": row["id"], "resolution": "approve"})
    async with connect(url, home=str(home), agent_id="alice") as alice:
        await tried(alice, "proposal.submit", {"proposal": PLAN})
        await tried(alice, "events.query", {})
        await tried(alice, "runs.start", {"intent": "i", "idempotency_key": "the-run"})
        await tried(alice, "runs.complete", {"run_id": "the-run", "outcome": {"status": "success"}})


async def tried(car: Car, method: str, params: dict[str, Any]) -> Any:
    """The result; `None` when it is refused as any trouble with the disk is, or waits for the disk to heal."""
    answer = None
    async with trio.open_nursery() as waiting:
        waiting.start_soon(give_up, car, waiting.cancel_scope)
        try:
            answer = await car.call(method, params)
        except CallRefused as refusal:
            assert refusal.code in TROUBLES, refusal
        waiting.cancel_scope.cancel()
    return answer


async def give_up(car: Car, waiting: trio.CancelScope) -> None:
    """Ends what has waited for a while and is not only slow: the store is degraded."""
    await trio.sleep(A_WHILE)
    while (await car.call("server.health"))["store"] != "degraded":  # noqa: ASYNC110 - nothing else tells
        await trio.sleep(A_WHILE)
    waiting.cancel()


PLAN = {"actions": [{"id": "w", "type": "state_write", "parameters": {"key": "k", "value": 1}}]}
OF_A_HOST: list[tuple[str, dict[str, Any]]] = [
    ("runs.search", {}),
    ("runs.list", {"agent_id": "alice"}),
    ("runs.get_trace", {"run_id": "the-run"}),
    ("runs.remove", {"run_ids": ["old-run"]}),
    ("permission.approve", {"fingerprint": "tool_call|t|{}"}),
    ("host.approvals", {}),
]
TROUBLES = {-32011, -32603}
A_WHILE = 1.0


def started(home: Path) -> str | None:
    """The refusal of a start; `None` when the daemon has served."""
    with umask(0), alarm():
        try:
            trio.run(served, home)
        except (ConfigError, BaseExceptionGroup) as error:
            if not isinstance(refused := leaf(error), ConfigError):
                raise
            return str(refused)
    return None


def leaf(group: BaseException) -> BaseException:
    return leaf(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state root as a daemon leaves it that was used, and stopped in order."""
    home = tmp_path_factory.mktemp("lived") / "home"
    assert started(home) is None
    return home


def put(oddity: Oddity, path: Path, outside: Path) -> None:
    """The oddity in the place of what is there."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.is_dir():
        path.rename(outside.parent / "moved-aside")
    else:
        path.unlink(missing_ok=True)
    oddity(path, outside)


def private(home: Path) -> None:
    """Everything that a daemon has made is for its user alone."""
    for path in home.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            assert stat.S_IMODE(mode) == 0o700, path
        elif stat.S_ISREG(mode) and path.read_bytes() != OUTSIDE:
            assert stat.S_IMODE(mode) == 0o600, path


CASES = [(name, oddity) for name in FILES for oddity in ODD_FILES]
CASES += [(name, oddity) for name in DIRECTORIES for oddity in ODD_DIRECTORIES]


@pytest.mark.parametrize(("name", "oddity"), CASES, ids=lambda each: getattr(each, "__name__", each))
def test_nothing_is_followed_nobody_waits_and_a_refusal_says_where(
    name: str, oddity: Oddity, lived_in: Path, tmp_path: Path, outside: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    shutil.copytree(lived_in, home, symlinks=True)
    put(oddity, home / name, outside)
    with untouched(outside):
        refusal = started(home)
    print(f"{name}, {oddity.__name__}: {refusal or 'serves'}")
    assert refusal is None or (str(home) in refusal and ";" in refusal), refusal
    assert not [record for record in caplog.records if record.exc_info], caplog.text
    private(home)


def test_all_that_is_made_under_umask_0_is_for_its_user_alone(tmp_path: Path) -> None:
    assert started(tmp_path / "home") is None
    private(tmp_path / "home")

"""service: `car-trio service` under a systemd of its own, which is asked to start, watch, restart and stop the daemon.

Needs root, `unshare` and systemd's programs, and no systemd that runs: a user manager and a journal are started in new
mount, process and control-group namespaces, below control groups that are made for it and removed afterwards, so
nothing of the machine is seen or changed. What needs a journal looks at it without `--user-unit`: a manager outside of
a login session has no name that the journal would know it by.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torture.orders import Orders, Verdict

CGROUPS = Path("/sys/fs/cgroup")
LIB = Path("/lib/systemd")
PROGRAMS = ("unshare", "mount", "systemctl", "journalctl", "systemd-analyze")
PATIENCE = 20.0
UNIT = "car-trio.service"
WATCHDOG_SECONDS = 2


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0 or missing or not (LIB / "systemd").exists():
        verdict.expect(
            False, f"this campaign needs root and systemd's programs; missing: {missing or 'root'}"
        )
        return verdict
    words = ["unshare", "--mount", "--pid", "--fork", "--cgroup", "--mount-proc", "--kill-child"]
    with control_groups() as groups:
        done = subprocess.run(  # noqa: S603 - our own program
            [*words, sys.executable, "-m", "torture.service", str(orders.directory)],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            preexec_fn=lambda: (
                [(group / "cgroup.procs").write_text(str(os.getpid())) for group in groups] and None
            ),
        )
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    for holds, finding in told:
        verdict.expect(holds, finding)
    verdict.expect(
        done.returncode == 0 and told, f"the session ended with {done.returncode}: {done.stdout[-500:]}"
    )
    return verdict


@contextmanager
def control_groups() -> Generator[list[Path]]:
    """A group of our own in each hierarchy that systemd looks at."""
    parents = [CGROUPS] if (CGROUPS / "cgroup.procs").exists() else [CGROUPS / "systemd", CGROUPS / "unified"]
    groups = [parent / f"car-trio-torture-{os.getpid()}" for parent in parents if parent.exists()]
    for group in groups:
        group.mkdir()
    try:
        yield groups
    finally:
        for group in groups:
            for each in (*sorted(group.rglob("*/"), key=lambda path: -len(path.parts)), group):
                with suppress(OSError):
                    each.rmdir()


class Session:
    """A user's systemd and a journal, inside of the namespaces."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "a home $X 100%h"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CAR_", "XDG_"))},
            "HOME": str(directory / "user"),
            "XDG_RUNTIME_DIR": str(directory / "runtime"),
            "XDG_CONFIG_HOME": str(directory / "config"),
        }
        for folder in (directory / "user", directory / "runtime", self.home):
            folder.mkdir(mode=0o700)
        self.configure("[server]\nport = 0\n[web]\nport = 0\n")
        self.unit = directory / "config" / "systemd" / "user" / UNIT
        log = (directory / "systemd.log").open("wb")
        for words in ([str(LIB / "systemd-journald")], [str(LIB / "systemd"), "--user"]):
            quiet = {**self.environ, "SYSTEMD_LOG_TARGET": "console"}
            subprocess.Popen(words, env=quiet, stdout=log, stderr=log)  # noqa: S603 - systemd itself
        until((directory / "runtime" / "systemd" / "private").exists)

    def configure(self, text: str) -> None:
        (self.home / "config.toml").write_text(text)

    def run(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(  # noqa: S603 - our own program and those of systemd
            words, env=self.environ, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def car(self, *words: str) -> tuple[int, str]:
        return self.run(sys.executable, "-m", "car_trio", *words)

    def says(self, name: str) -> str:
        return self.run("systemctl", "--user", "show", "--property", name, "--value", UNIT)[1].strip()

    @property
    def pid(self) -> int:
        return int(self.says("MainPID"))

    def journal(self) -> str:
        return self.run("journalctl", "--identifier=car-trio", "--output=cat", "--no-pager")[1]

    def restarted(self, times: int) -> bool:
        """Whether it was, and is up again."""
        return until(lambda: self.says("NRestarts") == str(times) and self.says("ActiveState") == "active")


def until(condition: Callable[[], object]) -> bool:
    """Asks until it is true; whether it ever was."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def install(session: Session) -> Iterator[tuple[object, str]]:
    home = ("--home", str(session.home))
    code, said = session.car("service", "install", *home)
    yield code == 0, f"install ended with {code}: {said}"
    yield session.says("ActiveState") == "active", "the service is not active when install has ended"
    yield session.says("UnitFileState") == "enabled", "the service is not enabled"
    before = session.pid
    code, said = session.car("service", "install", *home)
    yield code == 0 and "unchanged" in said and session.pid == before, f"a second install is no rest: {said}"
    code, said = session.car("service", "status")
    yield (
        code == 0 and "active (running)" in said and "up, version" in said,
        f"status ended with {code}: {said}",
    )
    status = Path(f"/proc/{session.pid}/status").read_text()
    yield "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status, "the hardening is not in force"
    code, said = session.car("demo")
    yield code == 0, f"the demo ended with {code}: {said}"


def trouble(session: Session) -> Iterator[tuple[object, str]]:
    os.kill(session.pid, signal.SIGKILL)
    yield session.restarted(1), "a killed daemon was not started again"
    drop_in = session.unit.with_name(f"{UNIT}.d") / "fast.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n")
    session.run("systemctl", "--user", "daemon-reload")
    session.run("systemctl", "--user", "restart", UNIT)
    time.sleep(3 * WATCHDOG_SECONDS)
    yield session.says("NRestarts") == "0", "a healthy daemon was taken for a hanging one"
    os.kill(session.pid, signal.SIGSTOP)
    yield session.restarted(1), "a hanging daemon was not started again"
    session.run("systemctl", "--user", "stop", UNIT)
    yield session.says("Result") == "success", f"it did not stop well: {session.says('Result')}"
    code, said = session.car("service", "status")
    yield code == 3 and "inactive" in said, f"status of a stopped service ended with {code}: {said}"
    session.configure("[server]\nport = 'many'\n")
    yield session.run("systemctl", "--user", "start", UNIT)[0] != 0, "a broken configuration was started"
    time.sleep(4)
    yield session.says("NRestarts") == "0", "a broken configuration was tried again"
    yield session.says("ExecMainStatus") == "2", f"it ended with {session.says('ExecMainStatus')}"
    session.configure("[server]\nport = 0\n")


def farewell(session: Session) -> Iterator[tuple[object, str]]:
    said = session.journal()
    yield (
        "car_trio ready ws://" in said and "info    car_trio: stopped" in said,
        f"the journal has no lines: {said}",
    )
    yield "port is 'many'" in said, "the journal does not say why it did not start"
    tokens = [path.read_text() for path in (session.home / "ai.parslee.car").glob("*-token")]
    shown = said + session.unit.read_text()
    yield not any(token in shown for token in tokens), "a token is in the journal or in the unit"
    code, said = session.car("service", "uninstall")
    yield code == 0 and not session.unit.exists(), f"uninstall ended with {code}: {said}"
    yield (session.home / "catalog.sqlite").exists(), "uninstall took the runs with it"
    yield session.car("service", "status")[0] == 1, "what is not installed has a status"


def mount(*words: str, check: bool = True) -> None:
    subprocess.run(words, check=check)  # noqa: S603 - in a mount namespace of our own


def inside(directory: Path) -> None:
    """Runs in the namespaces; prints each expectation and whether it held."""
    groups = [(CGROUPS, ["cgroup2"])]
    if not (CGROUPS / "cgroup.procs").exists():
        groups = [
            (CGROUPS / "unified", ["cgroup2"]),
            (CGROUPS / "systemd", ["cgroup", "-o", "none,name=systemd"]),
        ]
    for place, kind in groups:
        mount("umount", str(place), check=False)
        mount("mount", "-t", *kind, "none", str(place))
    for folder in ("/run/systemd", "/run/log", "/var/log/journal"):
        if Path(folder).exists():
            mount("mount", "-t", "tmpfs", "tmpfs", folder)
    Path("/run/systemd/system").mkdir()
    session = Session(directory)
    for part in (install, trouble, farewell):
        for holds, finding in part(session):
            print(json.dumps([bool(holds), finding]), flush=True)


if __name__ == "__main__":
    inside(Path(sys.argv[1]))

"""Every command that a page shows is run here, as it stands, or it is on a list that says why it is not.

A command is a line `$ …` of a `console` block. It is run by bash in a scratch directory, with `car-trio` on the PATH, an
empty HOME, and a state root that holds a run, whose daemon is up or down as the table says. What is not in the table
fails, and so does what is in the table and on no page.
"""

from __future__ import annotations

import codecs
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.documents.pages import ROOT, blocks
from tests.process.daemon_process import (
    PATIENCE,
    DaemonProcess,
    clean_environment,
    complete,
    record,
    start_run,
)
from tests.second_client import SecondClient

LONGEST = 6 * PATIENCE
"""The demo and an installation take seconds on a machine that does other things too."""

NEEDS_CHECKOUT = re.compile(r"^\./scripts/|^\.venv/")


class Runs(NamedTuple):
    """It is run: what it prints (a pattern), how it ends, and whether a daemon is up. `stays`: until it is interrupted,
    after it has printed that."""

    says: str = ""
    code: int = 0
    up: bool = False
    stays: bool = False


class CannotRun(NamedTuple):
    """It is not run, for this reason."""

    why: str


THE_CI = CannotRun("it is what runs this test")
CAMPAIGN = CannotRun("it takes minutes; tests/torture runs the short forms")
KEEPER = CannotRun(
    "it changes or asks the service manager of the machine; tests/cli/test_service.py has a stand-in"
)

COMMANDS: dict[str, Runs | CannotRun] = {
    # README.md
    "./scripts/run": Runs("car_trio ready ws://127.0.0.1:", stays=True),
    "./scripts/run demo": Runs("nothing acknowledged is lost"),
    ".venv/bin/python agent.py": Runs(r"^[0-9a-f-]{36}$", up=True),
    'export PATH="$PWD/.venv/bin:$PATH"': Runs(),
    "car-trio runs ls": Runs("librarian"),
    "car-trio runs show RUN": Runs("tidy the notes"),
    "car-trio runs tail --all": Runs("turn 0|tidy", up=True, stays=True),
    "./scripts/test": THE_CI,
    "car-trio ui": Runs("http://127.0.0.1:.*#code=", up=True),
    # docs/page.md
    "car-trio ui --print": Runs("http://127.0.0.1:.*#code=", up=True),
    # docs/configuration.md
    "car-trio config show": Runs("max_per_agent"),
    # docs/operations.md
    "car-trio serve": Runs("car_trio ready", stays=True),
    "car-trio serve --home restored": Runs("car_trio ready", stays=True),
    "car-trio service install --dry-run": Runs("car_trio"),
    "car-trio service install": KEEPER,
    "car-trio service status": KEEPER,
    "car-trio service logs": KEEPER,
    "car-trio status": Runs("daemon +up", up=True),
    "car-trio doctor": Runs("the catalog can be used"),
    "car-trio doctor --fix": Runs("the catalog can be used"),
    "car-trio runs verify": Runs("1 run"),
    "car-trio runs verify --home restored": Runs("1 run"),
    "car-trio runs reindex": Runs("1 run in the catalog"),
    "car-trio runs prune --older-than 30d --dry-run": Runs("."),
    "car-trio runs prune --older-than 30d --yes": Runs("."),
    (
        "tar -C \"$CAR_HOME\" --exclude=./run --exclude=./ai.parslee.car --exclude='./catalog.sqlite*' "
        "-czf backup.tar.gz ."
    ): Runs(up=True),
    "mkdir -m 700 restored": Runs(),
    "tar -C restored -xzf backup.tar.gz": Runs(),
    'ls "$CAR_HOME"/runs': Runs("librarian"),
    'tail -n 1 "$CAR_HOME"/runs/librarian/*.jsonl': Runs('"record":"ended"'),
    'grep -l \'"status":"failure"\' -r "$CAR_HOME"/runs': Runs(r"\.jsonl"),
    # CONTRIBUTING.md
    "./scripts/test tests/client -k watch": THE_CI,
    "./scripts/check": CannotRun("the CI runs it beside the tests"),
    "./.ci/run": THE_CI,
    "./scripts/bench [NAME…] [--quick]": CannotRun("it measures, which wants a machine of its own"),
    "./scripts/torture NAME --minutes 5": CAMPAIGN,
    "./scripts/compat": CannotRun("it installs 240 MB of clients from PyPI"),
    "./scripts/protocol": CannotRun("it writes the page; test_protocol_page.py runs what it runs"),
    "./scripts/screenshots": CannotRun("it writes the pictures of the page; tests/browser drives the page"),
    "./scripts/picture": CannotRun("it writes the picture; test_picture.py runs what it runs"),
}

BACKUP = next(command for command in COMMANDS if command.startswith("tar ") and "-czf" in command)
UNPACK = "tar -C restored -xzf backup.tar.gz"
STEPS = {
    UNPACK: (BACKUP, "mkdir restored"),
    "car-trio runs verify --home restored": (BACKUP, "mkdir -m 700 restored", UNPACK),
    "car-trio serve --home restored": (BACKUP, "mkdir -m 700 restored", UNPACK),
}
"""What comes before a command on its page."""


def shown() -> list[str]:
    """The commands of the pages, without the remarks behind them."""
    lines = [line for block in blocks("console") for line in block.text.splitlines()]
    return [re.sub(r"\s+# .*$", "", line[2:]).strip() for line in lines if line.startswith("$ ")]


def test_every_command_of_a_page_is_known_and_every_known_command_is_on_a_page():
    assert set(shown()) == set(COMMANDS)


def test_a_block_of_commands_holds_commands_and_nothing_else():
    for block in blocks("console"):
        assert all(line.startswith("$ ") for line in block.text.splitlines()), block.name


class Desk:
    """A state root with a run in it, and its daemon, up or down. Commands of it share it: none of them changes much."""

    def __init__(self, directory: Path, *, up: bool) -> None:
        self.home = directory / "home"
        self.daemon = DaemonProcess(self.home).start()
        self.is_up = up
        with self.daemon.client("librarian") as client:
            self.run_id = self.work(client)
        if not up:
            self.daemon.stop()

    def work(self, client: SecondClient) -> str:
        run_id = start_run(client)
        record(client, run_id, 0, 1)
        complete(client, run_id, "failure")
        return run_id

    def typed(self, command: str, place: Path) -> subprocess.Popen[bytes]:
        """Starts it as a shell would, in a process group of its own."""
        environment = {
            "HOME": str(place),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CAR_HOME": str(self.home),
            "CAR_TRIO_SERVER_PORT": "0",
        }
        if self.is_up:
            environment["CAR_DAEMON_URL"] = self.daemon.url
        without = {
            key: value for key, value in clean_environment({}).items() if key not in {"DISPLAY", "BROWSER"}
        }
        return subprocess.Popen(
            ["bash", "-c", command.replace("RUN", self.run_id[:8])],
            cwd=ROOT if command.startswith("./") else place,
            env=without | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def until_it_says(self, process: subprocess.Popen[bytes], says: str) -> str:
        """What it printed up to that. While a daemon is up, somebody works with it meanwhile."""
        assert process.stdout is not None
        printed, decoder = "", codecs.getincrementaldecoder("utf-8")()
        with ExitStack() as stack:
            client = stack.enter_context(self.daemon.client("librarian")) if self.is_up else None
            for _ in range(int(LONGEST)):
                readable, _, _ = select.select([process.stdout], [], [], 1.0)
                if readable:
                    piece = os.read(process.stdout.fileno(), 65_536)
                    printed += decoder.decode(piece)
                    if not piece or re.search(says, printed, re.MULTILINE):
                        break
                elif client is not None:
                    self.work(client)
        return printed


@pytest.fixture(scope="module")
def desks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Desk]]:
    desks = {up: Desk(tmp_path_factory.mktemp("desk"), up=up) for up in (False, True)}
    yield desks
    for desk in desks.values():
        desk.daemon.clean_up()


def prepare(desk: Desk, place: Path, *steps: str) -> None:
    """Puts into the directory what a reader of the page has there by now."""
    (program,) = [
        block.text for block in blocks("python") if block.page == "README.md" and "agent" in block.words
    ]
    (place / "agent.py").write_text(program)
    (place / ".venv").symlink_to(ROOT / ".venv")
    for step in steps:
        with desk.typed(step, place) as process:
            printed = process.communicate(timeout=LONGEST)[0]
        assert process.returncode == 0, printed


@pytest.mark.parametrize("command", [each for each, how in COMMANDS.items() if isinstance(how, Runs)])
def test_a_command_of_a_page_does_what_the_page_says(
    command: str, desks: dict[bool, Desk], tmp_path: Path
) -> None:
    how = COMMANDS[command]
    assert isinstance(how, Runs)
    if NEEDS_CHECKOUT.search(command) and not (ROOT / ".venv").exists():
        pytest.skip("this checkout has no environment of its own")
    desk = desks[how.up]
    prepare(desk, tmp_path, *STEPS.get(command, ()))
    with desk.typed(command, tmp_path) as process:
        try:
            printed = desk.until_it_says(process, how.says) if how.stays else ""
            if how.stays:
                os.killpg(process.pid, signal.SIGINT)
            printed += process.communicate(timeout=LONGEST)[0].decode()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == how.code, printed
    assert re.search(how.says, printed, re.MULTILINE), printed


@pytest.mark.parametrize("command", [each for each, how in COMMANDS.items() if isinstance(how, CannotRun)])
def test_a_command_that_is_not_run_says_why_and_its_script_is_there(command: str) -> None:
    how = COMMANDS[command]
    assert isinstance(how, CannotRun)
    assert how.why
    script = ROOT / command.split()[0]
    assert command.startswith("car-trio ") or os.access(script, os.X_OK)

"""The programs on the pages: each is run as it stands, against a daemon in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.documents.pages import Block, blocks
from tests.process.daemon_process import (
    PATIENCE,
    DaemonProcess,
    clean_environment,
    complete,
    lines_on_disk,
    start_run,
)

AGENTS = [block for language in ("python", "js") for block in blocks(language) if "agent" in block.words]
NODE = shutil.which("node")


@pytest.fixture
def daemon(tmp_path: Path):
    daemon = DaemonProcess(tmp_path / "home").start()
    yield daemon
    daemon.clean_up()


def command(block: Block, program: Path) -> list[str]:
    if block.language == "python":
        return [sys.executable, str(program)]
    if NODE is None:
        pytest.skip("there is no node on this machine")
    return [NODE, "--experimental-websocket", "--no-warnings", str(program)]


def run(block: Block, daemon: DaemonProcess, tmp_path: Path, **environment: str) -> str:
    program = tmp_path / ("program.py" if block.language == "python" else "program.mjs")
    program.write_text(block.text)
    done = subprocess.run(
        command(block, program),
        env=clean_environment({"CAR_HOME": str(daemon.home), "CAR_DAEMON_URL": daemon.url, **environment}),
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_there_is_an_agent_for_each_way_of_writing_one():
    ways = [(block.page, block.language) for block in AGENTS]
    assert sorted(ways) == [
        ("README.md", "python"),
        ("docs/agent.md", "js"),
        ("docs/agent.md", "python"),
        ("docs/agent.md", "python"),
    ]


@pytest.mark.parametrize("block", AGENTS, ids=lambda block: block.name)
def test_an_agent_of_the_page_leaves_the_run_that_the_page_says(block, daemon, tmp_path):
    run_id = run(block, daemon, tmp_path).strip()
    started, counted, told, ended = lines_on_disk(daemon.home, run_id)
    assert (started["agent_id"], started["intent"]) == ("librarian", "count the words of a note")
    assert (counted["tool"], counted["status"], counted["output"]) == ("word_count", "succeeded", 3)
    assert (told["prompt"], told["output"]) == ("what do you make of it?", "it is short")
    assert ended["termination"]["outcome"]["summary"] == "3 words"
    assert ended["termination"]["outcome"]["status"] == "success"


@pytest.mark.parametrize("resolution", ["approve", "deny"])
def test_the_agent_of_the_page_that_asks_a_person_gets_the_persons_answer(daemon, tmp_path, resolution):
    (block,) = [block for block in blocks("python") if "asking" in block.words]
    with ThreadPoolExecutor() as pool, daemon.client(host=True) as person:
        person.call("host.subscribe")
        program = pool.submit(run, block, daemon, tmp_path)
        asked = next(
            event
            for event in iter(lambda: person.event("host.event"), None)
            if event["kind"] == "approval.requested"
        )
        assert asked["payload"]["details"] == {"title": "Walden"}
        person.call(
            "host.resolve_approval", {"approval_id": asked["payload"]["id"], "resolution": resolution}
        )
        assert program.result(3 * PATIENCE).strip() == resolution


def test_the_library_lists_an_agents_runs_without_a_daemon(daemon, tmp_path):
    with daemon.client("librarian") as client:
        complete(client, start_run(client))
    daemon.stop()
    (tmp_path / ".local" / "state").mkdir(parents=True)
    (tmp_path / ".local" / "state" / "car").symlink_to(daemon.home)
    (block,) = [block for block in blocks("python") if "RunStore(" in block.text]
    assert run(block, daemon, tmp_path, HOME=str(tmp_path)).split()[1:] == ["completed", "0"]


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_python_on_a_page_compiles(block):
    compile(block.text, block.name, "exec", flags=0x2000)  # with `await` outside of a function

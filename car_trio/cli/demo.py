"""`car-trio demo`: a whole run against a daemon of its own, on a home that is thrown away.

What it prints is what happened, not what should have: the daemon is a real process, the kill is SIGKILL, and the
replay at the end is read from the files that the killed daemon left.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import trio

from car_trio.client import Car, CarError, Disconnected, WatchEvent, connect
from car_trio.config import environment, token_directory
from car_trio.store.run_store import RunStore
from car_trio.wire.text import escaped

AGENT = "demo-agent"
BOOT_SECONDS = 20.0
TOOL_SECONDS = 0.05


class DemoFailedError(Exception):
    """The demo did not see what it promises to show."""


def demo() -> int:
    """Play a whole run against a daemon of its own, on a throw-away home, and show what happened."""
    home = Path(tempfile.mkdtemp(prefix="car-trio-demo-"))
    said: list[str] = []
    try:
        trio.run(_play, home)
    except* (DemoFailedError, CarError) as group:
        said = [str(error) for error in leaves(group)]
    finally:
        shutil.rmtree(home, ignore_errors=True)
    for each in said:
        print(f"demo: {each}", file=sys.stderr)
    return 1 if said else 0


def leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    """The exceptions in a group and the groups in it."""
    return [
        leaf
        for error in group.exceptions
        for leaf in (leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


async def _play(home: Path) -> None:
    say(f"A daemon of its own, on {home}")
    async with running_daemon(home) as daemon:
        run_id = await first_run(daemon)
        await guarded_run(daemon)
        acknowledged = await second_run(daemon)
    say("The daemon again, on the same home")
    async with running_daemon(home) as daemon:
        await replay(daemon, acknowledged)
        daemon.process.send_signal(signal.SIGTERM)
        code = await trio.to_thread.run_sync(daemon.process.wait)
        tell(f"SIGTERM: exit code {code}")
    say("No daemon at all: the files themselves, through RunStore")
    from_files(home, run_id)


# The daemon


class Running(NamedTuple):
    """A daemon process and the way in, whatever the environment says about other daemons."""

    process: subprocess.Popen[bytes]
    url: str
    token: str

    def connect(self) -> AbstractAsyncContextManager[Car]:
        return connect(self.url, token=self.token, agent_id=AGENT)


@asynccontextmanager
async def running_daemon(home: Path) -> AsyncGenerator[Running]:
    """The daemon as a user starts it, until the block ends; what it logs goes to a file in its home."""
    process = start(home)
    try:
        assert process.stdout is not None
        with trio.move_on_after(BOOT_SECONDS):
            line = (
                (await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True))
                .decode()
                .strip()
            )
            if line.startswith("car_trio ready"):
                tell(line)
                token = (token_directory({}, str(home)) / "auth-token").read_text()
                yield Running(process, line.split()[2], token)
                return
        raise DemoFailedError(
            f"the daemon did not start: {log_of(home).read_text().strip() or 'it said nothing'}"
        )
    finally:
        process.kill()
        process.communicate()


def start(home: Path) -> subprocess.Popen[bytes]:
    with log_of(home).open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            [sys.executable, "-m", "car_trio", "serve", "--home", str(home), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=log,
            env={key: value for key, value in environment().items() if not key.startswith("CAR_")},
        )


def log_of(home: Path) -> Path:
    return home / "daemon.log"


# The acts


async def first_run(daemon: Running) -> str:
    """A run that goes through: a tool that works, one that fails, one that nobody offers."""
    say("An agent opens a run and works through its tools")
    async with daemon.connect() as car:
        offer_tools(car)
        async with trio.open_nursery() as watchers:

            def begin_watching(run_id: str) -> None:
                watchers.start_soon(watch, car, run_id)

            run_id = await work_through(car, begin_watching)
    return run_id


async def work_through(car: Car, begin_watching: Callable[[str], None]) -> str:
    async with car.run(intent="Fix the failing test", outcome_description="the suite is green") as run:
        tell(f"run {run.run_id} is open, and on disk")
        begin_watching(run.run_id)
        await run.submit(
            [
                {"type": "tool_call", "tool": "read_file", "parameters": {"path": "test_sum.py"}},
                {"type": "tool_call", "tool": "run_tests", "failure_behavior": "skip"},
                {"type": "tool_call", "tool": "format_disk", "failure_behavior": "skip"},
            ]
        )
        await run.record([{"prompt": "The test expects 5, sum() says 4: off by one.", "tool": "think"}])
        run.finish("success", summary="one line changed, suite green")
    return run.run_id


def offer_tools(car: Car) -> None:
    @car.tool("read_file")
    async def read_file(parameters: dict[str, Any]) -> Any:
        await trio.sleep(TOOL_SECONDS)
        return {"path": parameters["path"], "text": "assert sum(2, 2) == 5"}

    @car.tool("run_tests")
    async def run_tests(parameters: dict[str, Any]) -> Any:
        await trio.sleep(TOOL_SECONDS)
        raise RuntimeError("1 failed, 41 passed")


async def guarded_run(daemon: Running) -> None:
    """A plan with a call that a policy denies, beside two that run at the same time."""
    say("A plan under a policy: what it denies is never called, the rest runs side by side")
    async with daemon.connect() as car:
        busy: list[str] = []
        together: list[list[str]] = []

        @car.tool("deploy")
        async def deploy(parameters: dict[str, Any]) -> Any:
            busy.append(parameters["target"])
            await trio.sleep(TOOL_SECONDS)
            together.append(list(busy))
            busy.remove(parameters["target"])
            return f"deployed to {parameters['target']}"

        deny = {"rule": "deny_tool_param", "target": "deploy", "key": "target", "pattern": "prod"}
        await car.call("policy.register", {"name": "not to production", **deny})
        began = trio.current_time()
        async with car.run(intent="Deploy everywhere") as run:
            targets = ("dev", "prod", "staging")
            actions = [
                {"id": each, "type": "tool_call", "tool": "deploy", "parameters": {"target": each}}
                for each in targets
            ]
            done = await run.submit(actions)
            run.finish("partial_success")
        for each in targets:
            tell(f"{each:8} {done[each].status}: {escaped(done[each].error or str(done[each].output))}")
        tell(f"two calls of {TOOL_SECONDS} s each, {trio.current_time() - began:.2f} s for the run")
        if done["prod"].status != "rejected" or ["dev", "staging"] not in map(sorted, together):
            raise DemoFailedError("the policy was not kept, or the calls did not run side by side")


async def watch(car: Car, run_id: str) -> None:
    """Prints the run as it happens: what a watcher sees is on disk already."""
    async for event in car.watch(run_id):
        if isinstance(event, WatchEvent):
            tell(f"live   {shown(msgspec.json.decode(msgspec.json.encode(event.record)))}")


async def second_run(daemon: Running) -> dict[str, int]:
    """A run in whose middle the daemon is killed; returns how many turns of it were acknowledged."""
    say("A second run, and kill -9 in the middle of it")
    acknowledged = {"killed": 0}
    with suppress(Disconnected):
        async with daemon.connect() as car:
            started = await car.call(
                "runs.start", {"intent": "Migrate the database", "idempotency_key": "killed"}
            )
            tell(f"run {started['run_id']} is open")
            while True:
                turns = [{"prompt": f"step {acknowledged['killed']}"}]
                await car.call("runs.record_turns", {"run_id": "killed", "turns": turns})
                acknowledged["killed"] += 1
                if acknowledged["killed"] == 25:
                    os.kill(daemon.process.pid, signal.SIGKILL)
    tell(f"SIGKILL after {acknowledged['killed']} turns were acknowledged; the client: disconnected")
    return acknowledged


async def replay(daemon: Running, acknowledged: dict[str, int]) -> None:
    async with daemon.connect() as car:
        for run_id, count in acknowledged.items():
            trace = await car.call("runs.get_trace", {"run_id": run_id})
            records = trace["records"]
            found = [record["prompt"] for record in records if record["record"] == "turn"]
            for record in (records[0], records[1], None, records[-2], records[-1]):
                tell("replay …" if record is None else f"replay {shown(record)}")
            if found[:count] != [f"step {n}" for n in range(count)]:
                raise DemoFailedError(f"{count} turns were acknowledged, {len(found)} are there")
            tell(f"{count} acknowledged, {len(found)} found: nothing acknowledged is lost")
        listed = await car.call("runs.list", {"agent_id": AGENT})
        for run in listed["runs"]:
            outcome = run.get("outcome", "-")
            tell(
                f"list   {run['status']:11} {outcome:15} {run['turn_count']:3} turns  {escaped(run['intent'])}"
            )


def from_files(home: Path, run_id: str) -> None:
    trace = RunStore(home).get_run_trace(run_id) or []
    kinds = [type(record).__name__ for record in trace]
    tell(f"run {run_id}: {' '.join(kinds)}")
    if kinds[:1] != ["Started"] or kinds[-1:] != ["Ended"]:
        raise DemoFailedError("the files do not hold the whole run")


# What is shown


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def tell(text: str) -> None:
    print(f"  {text}", flush=True)


def shown(record: dict[str, Any]) -> str:
    """A record on one line."""
    match record.get("record"):
        case "started":
            return f"started   {escaped(record['intent'])}"
        case "ended":
            end = record["termination"]
            how = end["reason"] if end["kind"] == "incomplete" else end["outcome"]["status"]
            return f"ended     {end['kind']}: {how}"
        case _:
            what = record.get("tool") or "says"
            said = (
                record.get("error")
                or record.get("prompt")
                or msgspec.json.encode(record.get("output")).decode()
            )
            return f"turn {record['index']:<4} {what} {record.get('status', 'narrated')}: {escaped(said)}"

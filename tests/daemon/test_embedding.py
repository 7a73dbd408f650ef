"""A program that embeds the daemon adds methods of its own and puts hosts in front of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import pytest
import trio

from car_trio import Daemon, Method, connect
from car_trio.client import CallRefused
from car_trio.nursery import supervisor
from tests.process.daemon_process import PATIENCE

EXAMPLE = Path(__file__).parents[2] / "examples" / "embed.py"


class Numbers(msgspec.Struct):
    numbers: list[int]


def add_up(_, ask: Numbers) -> int:
    return sum(ask.numbers)


async def later(context, ask: Numbers) -> int:
    return await context.in_thread(sum, ask.numbers)


def embedded(home: Path, **settings) -> Daemon:
    return Daemon(home, {"server.port": 0, "server.socket": "off", **settings})


async def test_added_methods_answer_are_discovered_and_are_this_daemons_only(tmp_path):
    daemon = embedded(tmp_path)
    daemon.add("numbers.sum", Method(Numbers, add_up, int, "Add up."))
    daemon.add("numbers.later", Method(Numbers, later, int, "Add up, in a thread."))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(daemon.serve)
            async with connect(home=str(tmp_path)) as car:
                assert await car.call("numbers.sum", {"numbers": [1, 2]}) == 3
                assert await car.call("numbers.later", {"numbers": [3, 4]}) == 7
                found = {method["name"] for method in (await car.call("rpc.discover"))["methods"]}
                assert {"numbers.sum", "numbers.later", "runs.start"} <= found
                with pytest.raises(CallRefused, match="numbers"):
                    await car.call("numbers.sum", {})
            nursery.cancel_scope.cancel()
    with pytest.raises(ValueError, match="already"):
        daemon.add("runs.start", Method(Numbers, add_up, int, "Not that one."))
    embedded(tmp_path).add("numbers.sum", Method(Numbers, add_up, int, "Another daemon's."))


async def test_a_gated_method_of_an_embedding_program_is_listed_beside_the_usual_ones(tmp_path):
    daemon = embedded(tmp_path)
    daemon.add("numbers.sum", Method(Numbers, add_up, int, "Add up."), gated=True)
    assert daemon.config.approvals.methods[-2:] == ["vision.ocr", "numbers.sum"]


async def test_without_approvals_a_gated_method_runs_at_once(tmp_path):
    daemon = embedded(tmp_path, **{"approvals.enabled": False})
    daemon.add("numbers.sum", Method(Numbers, add_up, int, "Add up."), gated=True)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(daemon.serve)
            async with connect(home=str(tmp_path)) as car:
                assert await car.call("numbers.sum", {"numbers": [1, 2]}) == 3
            nursery.cancel_scope.cancel()


async def test_the_example_asks_a_host_and_then_sends(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("embed_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with trio.fail_after(PATIENCE):
        await example.main(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        'ws.method:messages.send {"to":"ada","text":"the engine runs"}: approved',
        "sent by secretary: the engine runs",
    ]


async def test_types_are_learnt_before_anything_is_opened(tmp_path, monkeypatch):
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(supervisor, "learn_types", fail)
    with pytest.raises(ZeroDivisionError):
        await embedded(tmp_path).serve()
    assert not list(tmp_path.iterdir())

"""A submit that is cancelled at each of its checkpoints in turn: nothing is written twice, nothing is left behind."""

from __future__ import annotations

import pytest
import trio

from tests.peer import open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


class Cutter(trio.abc.Instrument):
    """Calls `cut` before the n-th step that any task takes after it was armed."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.cut = lambda: None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left == 0:
            self.left = None
            self.cut()


PLAN = {
    "proposal": {
        "id": "p",
        "actions": [
            {"id": "w", "type": "state_write", "parameters": {"key": "k", "value": 1}},
            {"id": "a", "type": "tool_call", "tool": "t"},
            {"id": "b", "type": "tool_call", "tool": "t", "state_dependencies": ["k"]},
            {"id": "c", "type": "tool_call", "tool": "t", "timeout_ms": 60_000, "failure_behavior": "skip"},
        ],
    }
}


async def play(house, cutter: Cutter, steps: int, way_out: str) -> bool:
    """One submit, cut after `steps` task steps; whether the cut fell before its end."""
    agent = f"agent-{way_out}-{steps}"
    peer = await house.peer(agent)
    await peer.call("tools.register", [{"name": "t"}])
    run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
    connection = house.connection_of(agent)
    cutter.cut = {
        "the connection is cancelled": connection._requests.cancel,
        "the peer stalls": lambda: connection._cut("a test"),
        "the daemon stops the connection": lambda: connection.stop(trio.current_time()),
    }[way_out]
    cutter.left = steps
    calls: list[str] = []
    cancels: list[str] = []
    submitted = await peer.request("proposal.submit", PLAN)
    finished = False
    try:
        while not finished:
            frame = await peer.receive()
            if frame.get("method") == "tools.execute":
                calls.append(frame["id"])
                await peer.answer(frame["params"], "ok")
            elif frame.get("method") == "tools.cancel":
                cancels.append(frame["params"]["request_id"])
            elif frame.get("id") == submitted:
                finished = "result" in frame
                if not finished:
                    break
    except Exception:
        finished = False
    cutter.left = None
    await peer.drop()
    await trio.sleep(1)
    host = await house.peer(host=True)
    records = (await host.call("runs.get_trace", {"run_id": run_id}))["records"]
    turns = [record for record in records if record["record"] == "turn"]
    places = {"w": 0, "a": 1, "b": 2, "c": 3}
    order = [places[turn["action_id"]] for turn in turns]
    assert order == sorted(set(order)), "turns in proposal order, none twice"
    assert len(set(cancels)) == len(cancels)
    assert set(cancels) <= set(calls)
    if not finished:
        assert records[-1]["record"] == "ended"
        assert [record["record"] for record in records].count("ended") == 1
        assert connection._callbacks._pending == {}
    await host.drop()
    return not finished


@pytest.mark.parametrize(
    "way_out", ["the connection is cancelled", "the peer stalls", "the daemon stops the connection"]
)
async def test_a_submit_may_be_cut_at_any_step(tmp_path, autojump_clock, way_out):
    cutter = Cutter()
    trio.lowlevel.add_instrument(cutter)
    async with open_house(tmp_path) as house:
        steps = 1
        while await play(house, cutter, steps, way_out):
            steps += 1
    trio.lowlevel.remove_instrument(cutter)
    assert steps > 20, "the cut was made at every step of a submit"

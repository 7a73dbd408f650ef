from __future__ import annotations

import trio

from tests.peer import open_house


async def test_smoke(tmp_path, autojump_clock, inline_threads):
    with trio.fail_after(60):
        async with open_house(tmp_path) as house:
            peer = await house.peer("alice")
            run = await peer.call("runs.start", {"intent": "x"})
            print(run)
            await peer.drop()
            await trio.sleep(0.24)
            assert house.status(run["run_id"]) == "in_progress"
            await trio.sleep(0.02)
            assert house.status(run["run_id"]) == "incomplete"

"""Watchers in a process of their own: `python -m torture.watcher URL TOKEN RUN COUNT RATE`.

Each of COUNT connections subscribes to the run and reads to its end, at RATE bytes a second (0: as fast as they come)
until SIGUSR1 lifts that. It says `subscribed` when all are; at the end a line of JSON for each: how many turns it was
shown, whether their cursors had neither gap nor double, and the SHA-256 of the records as they came.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import threading
from typing import Any

from tests.process.raw import TEXT, RawPeer, request

_hurry = threading.Event()


class SlowPeer(RawPeer):
    """Takes so many bytes a second off its socket."""

    rate = 0

    def _read(self) -> bool:
        if not self.rate or _hurry.is_set():
            return super()._read()
        _hurry.wait(0.25)
        data = self.socket.recv(max(1, self.rate // 4))
        self._unread += data
        return bool(data)


def follow(peer: RawPeer, run: str) -> dict[str, Any]:
    """Reads events until the run's end."""
    digest, cursor, whole = hashlib.sha256(), 0, True
    while True:
        received = peer.next_frame()
        if received.opcode != TEXT:
            return {"turns": cursor, "whole": False, "sha256": "closed"}
        event = json.loads(received.payload)
        if event.get("method") != "runs.trace.event":
            continue
        # The record's own bytes: it is the one value of its frame that is an object with a tag.
        begin = received.payload.index(b'{"record"')
        params = event["params"]
        decoder = json.JSONDecoder()
        text = received.payload[begin:].decode()
        _, end = decoder.raw_decode(text)
        digest.update(text[:end].encode() + b"\n")
        if params["status"] != "in_progress":
            whole = whole and params["cursor"] == cursor
            return {"turns": cursor, "whole": whole, "sha256": digest.hexdigest()}
        whole, cursor = whole and params["cursor"] == cursor + 1, params["cursor"]


def hurry(*_: object) -> None:
    """SIGUSR1: from now on read as fast as it comes."""
    _hurry.set()


def main() -> None:
    url, token, run, count, rate = sys.argv[1:]
    signal.signal(signal.SIGUSR1, hurry)
    SlowPeer.rate = int(rate)
    peers: list[SlowPeer] = []
    for _ in range(int(count)):
        peer = SlowPeer(int(url.rsplit(":", 1)[1]))
        peer.socket.settimeout(None)
        assert peer.ask() == 101
        assert "result" in peer.call("session.auth", {"host_token": token})
        peer.send(request("runs.subscribe", {"run_id": run}))
        peer.reply()
        peers.append(peer)
    print("subscribed", flush=True)
    results: list[dict[str, Any]] = []

    def watch(peer: SlowPeer) -> None:
        results.append(follow(peer, run))

    threads = [threading.Thread(target=watch, args=(peer,), daemon=True) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
    for result in results:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

"""A parent of daemons: `python -m torture.zygote DESCRIPTOR`. It has loaded the program once, and forks each daemon.

What that saves is the start of an interpreter and the reading of some hundred modules, which no promise depends on. A
child is a process with a pid, descriptors, threads and a memory of its own; it runs `car_trio.__main__.main` from its
first line, with the arguments of a command line: configuration, lock, sockets, catalog, adoption and tokens are as in
any other start, and it dies like any other process. What is different: its modules are there already, it shares
the seed of `hash`, it inherits no standard input, and a kill cannot strike while modules are loaded. The source of
trio's own chance is sown anew, or each daemon would run its tasks in the same order.

The order comes over the descriptor, a Unix socket: `{"arguments", "doom", "defect"}` as JSON with the two descriptors
that become standard output and error; the answer is `{"pid"}`. `{"reap": pid}` waits for that child's end and
answers `{"status"}`; until then nobody else gets its pid. The end of the socket is the end of the zygote. It has one
thread: a fork would not take others along.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from typing import Any

from trio._core import _run

from car_trio.__main__ import main
from car_trio.cli import app, failures, flags, serve
from torture.doomed import doom
from torture.planted import plant

LOADED = (app, failures, flags, serve)
"""What the command line loads when it is called for `serve`."""
MAX_ORDER = 65_536


def order_for_a_child(door: socket.socket) -> dict[str, Any] | None:
    """Forks as often as it is told. Returns in each child, with its order, and in the zygote itself at the end."""
    while True:
        said, descriptors, _, _ = socket.recv_fds(door, MAX_ORDER, 2)
        if not said:
            return None
        order: dict[str, Any] = json.loads(said)
        if "reap" in order:
            _, status = os.waitpid(order["reap"], 0)
            answer(door, {"status": os.waitstatus_to_exitcode(status)})
            continue
        pid = os.fork()
        if pid == 0:
            door.close()
            for standard, given in zip((1, 2), descriptors, strict=True):
                os.dup2(given, standard)
        for given in descriptors:
            os.close(given)
        if pid == 0:
            return order
        answer(door, {"pid": pid})


def answer(door: socket.socket, what: dict[str, int]) -> None:
    door.send(json.dumps(what).encode())


def live(order: dict[str, Any]) -> None:
    """In the child: from here on it is a daemon."""
    _run._r.seed()
    if order["doom"]:
        doom(*order["doom"])
    if order["defect"]:
        plant(order["defect"])
    sys.argv[1:] = order["arguments"]
    main()


if __name__ == "__main__":
    gc.freeze()  # what is there stays: a collection in a child would copy the pages on which it lies
    found = order_for_a_child(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        live(found)

"""A daemon inside a program of yours, with methods of its own.

```python
daemon = Daemon(home="~/example", settings={"server.port": 0})
daemon.add("messages.send", Method(Message, send, Sent, "Send a message."), gated=True)
endpoint = await nursery.start(daemon.serve)
```
A method is a function of a context (`car_trio.methods.context.Context`) and its decoded params: a `def` runs in the
connection's reader, atomically; an `async def` in a task of its own. It returns what msgspec can encode, or raises
`car_trio.wire.errors.Refusal`. A gated one runs when a host has approved the call, with the approved bytes; without
`[approvals] enabled` nobody is asked. `rpc.discover` shows the added methods like all others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import trio

from car_trio.config import Config, environment, load
from car_trio.methods.method import Method
from car_trio.methods.table import METHODS
from car_trio.nursery.supervisor import Endpoint, serve


class Daemon:
    """A daemon that is not serving yet. Configured like `car-trio serve`, with `settings` in the place of flags."""

    def __init__(self, home: Path | str | None = None, settings: Mapping[str, Any] | None = None) -> None:
        """`settings` holds dotted keys of the configuration, `server.port`. Raises `ConfigError`."""
        named = {"home": None if home is None else str(home)}
        self._config = load({**(settings or {}), **named}, environment())
        self._methods = dict(METHODS)
        self._gated = list(self._config.approvals.methods)

    @property
    def config(self) -> Config:
        """What it serves with."""
        approvals = msgspec.structs.replace(self._config.approvals, methods=self._gated)
        return msgspec.structs.replace(self._config, approvals=approvals)

    def add(self, name: str, method: Method, *, gated: bool = False) -> None:
        """One more method; `gated` puts a host in front of it. Raises `ValueError` for a name that is taken."""
        if name in self._methods:
            raise ValueError(f"there is a method '{name}' already; choose another name")
        self._methods[name] = method
        if gated:
            self._gated.append(name)

    async def serve(
        self,
        stop_requested: Callable[[], Awaitable[object]] = trio.sleep_forever,
        *,
        task_status: trio.TaskStatus[Endpoint] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves until `stop_requested` returns; with `nursery.start`, gives the endpoint when it is ready.

        Raises `ConfigError`. If cancelled, open runs end as `shutdown` and everything acknowledged is on disk.
        """
        await serve(
            self.config,
            stop_requested,
            ready=lambda _, endpoint: task_status.started(endpoint),
            methods=self._methods,
        )

"""car_trio: the local daemon between AI agents and their tools, and the record of what they did.

Names are resolved when they are first asked for, so that `import car_trio` costs next to nothing and loads no trio:
`RunStore` is of use to programs that have no event loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from car_trio.client import connect
    from car_trio.methods.method import Method
    from car_trio.nursery.embedding import Daemon
    from car_trio.store.lock import StoreBusy
    from car_trio.store.run_store import RunStore

__version__ = "0.1.0"
__all__ = ["Daemon", "Method", "RunStore", "StoreBusy", "__version__", "connect"]

_HOMES = {
    "Daemon": "car_trio.nursery.embedding",
    "Method": "car_trio.methods.method",
    "RunStore": "car_trio.store.run_store",
    "StoreBusy": "car_trio.store.lock",
    "connect": "car_trio.client",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'car_trio' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value

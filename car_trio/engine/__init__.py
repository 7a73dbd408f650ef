"""Propose, verify, execute (protocol `engine.md`).

Everything here is a pure function but `execute`, which waits for tools. Names are resolved when they are
first asked for, so that `from car_trio.engine import verify` loads no trio.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from car_trio.engine.execute import execute
    from car_trio.engine.metrics import harness_metrics
    from car_trio.engine.model import InvalidProposal
    from car_trio.engine.optimize import optimize
    from car_trio.engine.permissions import permission_classify, permission_evaluate
    from car_trio.engine.simulate import equivalent, simulate
    from car_trio.engine.transaction import transaction_check
    from car_trio.engine.verify import verify

__all__ = [
    "InvalidProposal",
    "equivalent",
    "execute",
    "harness_metrics",
    "optimize",
    "permission_classify",
    "permission_evaluate",
    "simulate",
    "transaction_check",
    "verify",
]

_HOMES: Final = {
    "InvalidProposal": "model",
    "equivalent": "simulate",
    "execute": "execute",
    "harness_metrics": "metrics",
    "optimize": "optimize",
    "permission_classify": "permissions",
    "permission_evaluate": "permissions",
    "simulate": "simulate",
    "transaction_check": "transaction",
    "verify": "verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


class _Engine(ModuleType):
    """Loading a submodule binds its name in the package. Four of them share it with their function, which
    wins.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Engine

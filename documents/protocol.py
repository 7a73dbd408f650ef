"""docs/protocol.md, made of the method table, the types of the wire and the prose of `protocol.md` beside this module.

The prose asks in double braces for what the code knows: a method, a type, an error code, a limit. So a method that is
not told, or is told and does not exist, is an error here, and what the table says cannot be told differently.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from car_trio.methods.method import Method
from car_trio.methods.table import METHODS
from car_trio.wire import chat, errors, host, runs, tools
from documents.shapes import WIDTH, Shapes

PROSE = Path(__file__).with_suffix(".md")
MADE = Path(__file__).parent.parent / "docs" / "protocol.md"

WHO = {
    "anybody": "anybody, also before authentication",
    "client": "any client",
    "person": "a person's client: bound to no agent, or with the host role",
    "host": "the host role",
}
OURS = {
    "tools.execute": tools.ExecuteTool,
    "tools.cancel": tools.CancelTool,
    "runs.trace.event": runs.TraceEvent,
    "host.event": host.HostEvent,
    "agent.chat": chat.AgentChat,
    "agent.chat.cancel": chat.ChatSession,
    "agent.chat.approve": chat.ApproveInChat,
}
"""What the daemon sends of its own, by name, with the types that the code sends them in."""


class Unmet(Exception):  # noqa: N818 - what the prose asks for and the code has not
    """The prose and the code do not fit; the message says where."""


class Document:
    """The page being made: what was asked for so far, and the types that it has to explain."""

    def __init__(self) -> None:
        self._shapes = Shapes()
        self._told: Counter[str] = Counter()
        self._is_param: set[str] = set()
        results = Counter(
            kind.__name__ for each in METHODS.values() for kind in each.results if _is_struct(kind)
        )
        self._common = {name for name, count in results.items() if count > 1} | {"HostEvent", "HostAgent"}

    def made(self, prose: str) -> str:
        """The whole page. Raises Unmet."""
        page = re.sub(r"\{\{(\w+) ?([^}]*)\}\}", lambda asked: self._answer(asked[1], asked[2]), prose)
        wrong = {name for name in [*METHODS, *OURS] if self._told[name] != 1}
        if wrong:
            raise Unmet(f"{PROSE}: to be told once, and only once: {', '.join(sorted(wrong))}")
        return page

    def _answer(self, kind: str, name: str) -> str:
        answer = getattr(self, f"_{kind}", None)
        if answer is None:
            raise Unmet(f"{PROSE}: there is no {{{{{kind}}}}}")
        try:
            return str(answer(*filter(None, [name])))
        except (KeyError, AttributeError, ImportError) as error:
            raise Unmet(f"{PROSE}: {{{{{kind} {name}}}}} asks for what is not there: {error}") from None

    def _method(self, name: str) -> str:
        method = METHODS[name]
        self._told[name] += 1
        params = self._params(method.params)
        if method.results == (None,):
            return _block(f"{name} {params}")
        result = " | ".join(self._result(kind) for kind in method.results)
        who = "" if method.who == "client" else f" Called by {WHO[method.who]}."
        return f"{method.summary}{who}\n\n{_block(f'{name} {params}', f'→ {result}')}"

    def _params(self, kind: Any) -> str:
        before = set(self._shapes.shared)
        shape = self._shapes.shape(kind, sent=False)
        self._is_param |= set(self._shapes.shared) - before
        return shape

    def _result(self, kind: Any) -> str:
        if _is_struct(kind) and kind.__name__ in self._common:
            self._shapes.shared[kind.__name__] = kind
            return str(kind.__name__)
        return self._shapes.shape(kind, sent=True)

    def _ours(self, name: str) -> str:
        self._told[name] += 1
        kind = OURS[name]
        shape = self._result(kind) if kind.__name__ in self._common else self._shapes.shape(kind, sent=True)
        return _block(f"{name} {shape}")

    def _table(self) -> str:
        rows = [
            f"| [`{name}`](#{_anchor(name)}) | {_cell(each)} | {each.summary} |"
            for name, each in METHODS.items()
        ]
        return "\n".join(["| method | called by | what it does |", "|---|---|---|", *rows])

    def _types(self) -> str:
        return "\n\n".join(self._explained())

    def _explained(self) -> Iterator[str]:
        """Every type that was named, and those that they name, in the order in which they were."""
        done: set[str] = set()
        while waiting := [each for name, each in self._shapes.shared.items() if name not in done]:
            for kind in waiting:
                done.add(kind.__name__)
                sent = kind.__name__ not in self._is_param
                before = set(self._shapes.shared)
                shape = self._shapes.shape(kind, sent=sent)
                if not sent:
                    self._is_param |= set(self._shapes.shared) - before
                yield _block(f"{kind.__name__} = {shape}")

    def _code(self, name: str) -> int:
        return int(getattr(errors, name))

    def _number(self, path: str) -> str:
        module, _, name = path.rpartition(".")
        value = getattr(import_module(f"car_trio.{module}"), name)
        return f"{value:,g}" if value < 1e6 else f"{value:,}"

    def _size(self, path: str) -> str:
        module, _, name = path.rpartition(".")
        value = getattr(import_module(f"car_trio.{module}"), name)
        for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value % size == 0:
                return f"{value // size} {unit}"
        return f"{value:,} bytes"


def _is_struct(kind: Any) -> bool:
    return hasattr(kind, "__struct_fields__")


def _cell(method: Method) -> str:
    return {"anybody": "anybody", "client": "any client", "person": "a person", "host": "host role"}[
        method.who
    ]


def _anchor(name: str) -> str:
    """As GitHub makes one of a heading."""
    return name.replace(".", "")


def _block(*parts: str) -> str:
    """A block of code; what comes after what was asked begins a line when it is long."""
    line = " ".join(parts)
    longest = max(map(len, line.split("\n")))
    return "```ts\n" + (line if longest <= WIDTH else "\n".join(parts)) + "\n```"


def page() -> str:
    """docs/protocol.md as the code wants it. Raises Unmet."""
    return Document().made(PROSE.read_text())


def main() -> int:
    """Writes the page; with `--check` only says whether it is what it should be."""
    made = page()
    if "--check" not in sys.argv:
        MADE.write_text(made)
        return 0
    if MADE.read_text() == made:
        return 0
    print("docs/protocol.md is not what the code makes: scripts/protocol writes it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

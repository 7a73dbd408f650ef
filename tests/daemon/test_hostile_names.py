"""Names that a file system could misunderstand, in every place where a method takes text, on a real directory.

The places come from the method table: the type of a method's params is walked to each string in it, and where the type
leaves it open (plans, schemas, details) the right message of `torture` is. So a method or a field that is added is tried
as well. Each name goes into one place at a time, the rest of the message being right, and once into all of them; the
callers are a host and an agent that is bound to the name, of a daemon that refuses nobody. What may come of it: nothing
outside of the state root, and inside only the files that the daemon makes, runs under names that stand for an id which
was sent. What lies outside is planted so that a path that led there would find a run, and is never in a reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as types
import pytest
import trio

from car_trio.methods.method import Method
from car_trio.methods.table import METHODS
from car_trio.store.layout import decode_name, parse_run_file
from tests.peer import Closed, House, Peer, open_house
from torture.hostile_mutations import SEEDS

pytestmark = pytest.mark.usefixtures("inline_threads")

PLANTED = "somebody would miss this"
NAMES = [
    "..",
    ".",
    "/",
    "",
    "../outside/planted",
    "../../outside/planted",
    "../../../outside/planted",
    "{outside}/planted",
    "runs/../../outside/planted",
    "~/planted",
    "$HOME/planted",
    "%2e%2e%2foutside%2fplanted",
    "..\\outside\\planted",
    "\uff0e\uff0e\uff0foutside\uff0fplanted",
    "\u2024\u2024/outside/planted",
    "..\u0000/planted",
    "planted\n",
    "planted.jsonl",
    "planted~1",
    ".nobackup",
    "../catalog.sqlite",
    "../run/daemon.lock",
    "con",
    "-rf",
    "Planted",
    "\u00e9" * 40,
    "\u00e9" * 41,
    "a" * 240,
    "a" * 241,
    "\ud800",
]
NO_FILE = {"", "..\u0000/planted", "planted\n", "\u00e9" * 41, "a" * 241, "\ud800"}
"""Names that no agent and no run can have."""
MADE = re.compile(
    r"runs/\.nobackup|catalog\.sqlite(-wal|-shm)?|run/(daemon\.lock|clean-stop)"
    r"|(permissions|approvals|deleted-runs|clock)\.jsonl|journals/[0-9a-f]{32}\.jsonl"
)
SLUG = re.compile(r"name:[a-z0-9-]{1,64}")


# Where a name can stand


def places(kind: Any, right: Any, name: str) -> Iterator[Any]:
    """The right params, with the name in one place after the other."""
    match kind:
        case types.StrType():
            yield name
        case types.StructType() | types.TypedDictType():
            known = right if isinstance(right, dict) else {}
            for field in kind.fields:
                for value in places(field.type, known.get(field.encode_name), name):
                    yield {**known, field.encode_name: value}
        case types.ListType() | types.CollectionType():
            items = right if isinstance(right, list) and right else [None]
            for value in places(kind.item_type, items[0], name):
                yield [value, *items[1:]]
        case types.DictType():
            yield from within(right if isinstance(right, dict) else {}, name)
        case types.UnionType():
            for each in kind.types:
                yield from places(each, right, name)
        case types.RawType() | types.AnyType():
            yield from within(right, name)


def within(right: Any, name: str) -> Iterator[Any]:
    """A value of any shape, with the name for each of its texts and of its keys, one after the other."""
    match right:
        case dict():
            yield {**right, name: name}
            for key, value in right.items():
                yield {**{other: right[other] for other in right if other != key}, name: value}
                for changed in within(value, name):
                    yield {**right, key: changed}
        case list():
            for i, value in enumerate(right):
                for changed in within(value, name):
                    yield [*right[:i], changed, *right[i + 1 :]]
        case str() | None:
            yield name


def everywhere(kind: Any, name: str) -> Any:
    """Params in which every text is the name."""
    match kind:
        case types.StrType() | types.RawType() | types.AnyType():
            return name
        case types.StructType():
            fields = {field.encode_name: everywhere(field.type, name) for field in kind.fields}
            return fields | ({kind.tag_field: kind.tag} if kind.tag_field else {})
        case types.ListType():
            return [everywhere(kind.item_type, name)]
        case types.DictType():
            return {name: name}
        case types.UnionType():
            return everywhere(max(kind.types, key=lambda each: not isinstance(each, types.NoneType)), name)
        case types.LiteralType():
            return kind.values[0]
        case types.BoolType():
            return False
        case types.IntType() | types.FloatType():
            return 1
    return None


def right_messages() -> Iterator[tuple[str, Any]]:
    """One for each method that is not refused for what else is in it."""
    for method, params in SEEDS:
        if method.startswith(("runs.", "policy.")):
            params = {key: value for key, value in params.items() if key not in UNSURE}
        yield method, params


UNSURE = {"cursor", "session_id", "older_than", "dry_run"}
"""What a mutated message has in it and a right one need not have."""


def messages(name: str) -> Iterator[tuple[str, Any]]:
    for method, params in right_messages():
        kind = types.type_info(METHODS[method].params)
        yield from ((method, each) for each in places(kind, params, name))
    for method, row in METHODS.items():
        yield method, everywhere(types.type_info(row.params), name)


# What comes of it


class Caller:
    """A connection that is made again when the daemon has ended it."""

    def __init__(self, house: House, agent_id: str | None) -> None:
        self._house = house
        self._agent_id = agent_id
        self._peer: Peer | None = None

    async def told(self, method: str, params: Any) -> Any:
        """The result; the error when it is refused; `None` when it ended the connection."""
        try:
            if self._peer is None:
                self._peer = await self._house.stranger()
                await self._peer.open()
                await self._reply(
                    self._peer, await self._peer.request("session.auth", {"agent_id": self._agent_id})
                )
            return await self._reply(self._peer, await self._peer.request(method, params))
        except Closed:
            self._peer = None
            return None

    async def _reply(self, peer: Peer, asked: int) -> Any:
        """As `Peer.reply`; a message that cannot be read is answered without its id."""
        while True:
            frame = await peer.receive()
            if "error" in frame and frame["id"] in {asked, None}:
                return (frame["error"]["code"], frame["error"]["message"])
            if "method" not in frame and frame["id"] == asked:
                return frame["result"]


def tree(root: Path) -> dict[str, bytes]:
    """Each file under a directory, and what is in it; each directory."""
    paths = (path for path in root.rglob("*"))
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"" for path in paths}


def beside(home: Path) -> dict[Path, dict[str, bytes]]:
    """All that lies around the state root."""
    return {path: tree(path) for path in home.parent.iterdir() if path != home}


def runs_made(home: Path, sent: set[str]) -> set[tuple[str, str]]:
    """Agent and id of each run. Every file is one that the daemon makes, every agent one that was sent."""
    found = set()
    for path in home.rglob("*"):
        name = path.relative_to(home).as_posix()
        assert not path.is_symlink(), name
        if path.is_dir():
            agent = decode_name(path.name) if path.parent.name == "runs" else ""
            assert name in {"runs", "run", "journals"} or agent in sent or SLUG.fullmatch(agent or ""), name
        elif path.parent.parent == home / "runs":
            run = parse_run_file(path.name)
            assert run is not None, name
            assert run.segment == 0, name
            found.add((decode_name(path.parent.name) or "", run.run_id))
        else:
            assert MADE.fullmatch(name), name
    return found


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place beside the state root that paths could lead to, as the working directory and the user's home do."""
    outside = tmp_path / "outside"
    for folder in (outside, tmp_path / "cwd", tmp_path / "user"):
        folder.mkdir()
        line = f'{{"record":"started","run_id":"planted","agent_id":"outside","intent":"{PLANTED}","started_at":"2026-01-01T00:00:00Z"}}\n'
        (folder / "planted").write_text(line)
        (folder / "planted.jsonl").write_text(line)
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return outside


def test_every_method_is_tried_in_every_place_of_its_params() -> None:
    tried = dict.fromkeys(METHODS, 0)
    for method, params in messages("the-name"):
        tried[method] += "the-name" in msgspec.json.encode(params).decode()
    without = {method for method, count in tried.items() if not count}
    assert {method for method, _ in SEEDS} == set(METHODS)
    assert without == {method for method, row in METHODS.items() if not takes_text(row)}
    assert tried["proposal.submit"] > 20
    assert tried["runs.start"] >= 5


def takes_text(row: Method) -> bool:
    return bool(list(places(types.type_info(row.params), None, "x")))


@dataclass
class Tried:
    """What was said to a name in every place: the methods that did more than refuse the form, and every reply."""

    reached: set[str]
    replies: list[str]


async def tried(home: Path, name: str) -> Tried:
    found = Tried(set(), [])
    async with open_house(home, auth=False) as house:
        await Caller(house, "mallory").told("runs.start", {"intent": "i", "idempotency_key": "the-run"})
        for caller in (Caller(house, None), Caller(house, name)):
            for method, params in messages(name):
                said = await caller.told(method, params)
                found.replies.append(repr(said))
                if not isinstance(said, tuple) or not said[1].startswith(
                    (f"{method}: params:", f"{method} requires")
                ):
                    found.reached.add(method)
    return found


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:30]))
async def test_a_name_leads_nowhere_and_makes_only_what_is_named_after_it(
    name: str, tmp_path: Path, around: Path, autojump_clock: trio.abc.Clock
) -> None:
    name = name.replace("{outside}", str(around))
    home = tmp_path / "home"
    before = beside(home)
    found = await tried(home, name)
    assert beside(home) == before
    runs = runs_made(home, {name, "mallory"})
    assert any(agent == name for agent, _ in runs) == (name not in NO_FILE)
    assert not [reply for reply in found.replies if PLANTED in reply]


async def test_a_name_that_nobody_misunderstands_reaches_every_method(
    tmp_path: Path, around: Path, autojump_clock: trio.abc.Clock
) -> None:
    found = await tried(tmp_path / "home", "fine")
    assert found.reached == set(METHODS)
    assert ("fine", "fine") in runs_made(tmp_path / "home", {"fine", "mallory"})

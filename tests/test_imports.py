"""Who may import whom. The table is the architecture; a new arrow is a decision, made here and in the
open."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import car_trio

PACKAGE = Path(car_trio.__path__[0])
MODULES = sorted(PACKAGE.rglob("*.py"))

ARROWS = {
    "wire": {"wire"},
    "state": {"state", "wire"},
    "engine": {"engine", "wire"},
    "store": {"store", "wire"},
    "methods": {"methods", "state", "engine", "store.reader", "wire"},
    "nursery": {"nursery", "methods", "state", "engine", "store", "wire", "config"},
    "client": {"client", "wire", "config"},
    "cli": {"cli", "client", "nursery", "store", "wire", "config"},
    "config": set[str](),
    "__main__": {"cli"},
    "__init__": {"client", "nursery", "methods", "store"},
}
"""A room, and the rooms or single modules it may import from."""

FORBIDDEN = {"cli": {"store.journal"}}
"""Exceptions to the table."""

TRIO_ROOMS = {"nursery", "client", "cli"}
TRIO_MODULES = {"engine.execute", "store.journal"}
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def name_of(path: Path) -> str:
    """`wire.frames` for `car_trio/wire/frames.py`, `wire` for `car_trio/wire/__init__.py`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(name: str) -> str:
    return name.partition(".")[0]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in the file; `from a import b` counts as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room they reach into"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def own_imports(path: Path) -> Iterator[str]:
    for imported in imports(tree_of(path)):
        if imported.startswith("car_trio."):
            yield imported.removeprefix("car_trio.")


def reaches(imported: str, target: str) -> bool:
    return imported == target or imported.startswith(f"{target}.")


def by_name(path: Path) -> str:
    return name_of(path)


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(name_of(path))
    assert room in ARROWS, f"{room} is a new room: give it a row in ARROWS"
    strays = [
        imported
        for imported in own_imports(path)
        if not any(reaches(imported, target) for target in ARROWS[room])
        or any(reaches(imported, target) for target in FORBIDDEN.get(room, set()))
    ]
    assert strays == []


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_trio_is_imported_only_where_something_has_a_lifetime(path: Path) -> None:
    name = name_of(path)
    uses_trio = any(room_of(imported) in {"trio", "trio_websocket"} for imported in imports(tree_of(path)))
    assert not uses_trio or room_of(name) in TRIO_ROOMS or name in TRIO_MODULES


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_only_the_configuration_reads_the_environment(path: Path) -> None:
    tree = tree_of(path)
    reads = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & ENVIRONMENT
    reads |= {imported for imported in imports(tree) if imported.removeprefix("os.") in ENVIRONMENT}
    reads |= {imported for imported in imports(tree) if room_of(imported) == "platformdirs"}
    assert not reads or name_of(path) == "config"


@pytest.mark.parametrize("path", sorted((PACKAGE / "wire").glob("*.py")), ids=by_name)
def test_the_wire_is_types_on_msgspec_and_the_standard_library(path: Path) -> None:
    roots = {room_of(imported) for imported in imports(tree_of(path))}
    assert roots <= sys.stdlib_module_names | {"msgspec", "car_trio"}


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_the_websockets_library_serves_and_trio_websocket_dials(path: Path) -> None:
    room = room_of(name_of(path))
    roots = {room_of(imported) for imported in imports(tree_of(path))}
    assert "websockets" not in roots or room == "nursery"
    assert not roots & {"trio_websocket", "wsproto"} or room == "client"


def test_nothing_but_the_command_line_starts_the_nursery() -> None:
    importers = {
        room_of(name_of(path))
        for path in MODULES
        if any(reaches(imported, "nursery") for imported in own_imports(path))
    }
    assert importers <= {"nursery", "cli", "__init__"}


def test_importing_the_package_loads_no_trio() -> None:
    probe = "import sys, car_trio; print([name for name in sys.modules if name.split('.')[0] == 'trio'])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_walk_sees_imports_in_functions_and_by_name() -> None:
    source = "import trio.abc\ndef f():\n  from car_trio.nursery import peer\n  import_module('car_trio.cli')"
    assert set(imports(ast.parse(source))) == {"car_trio.nursery.peer", "car_trio.cli", "trio.abc"}

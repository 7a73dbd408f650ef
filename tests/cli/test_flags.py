"""Words become arguments in two ways, and both find the same."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import Annotated, Any, Literal, get_type_hints

import pytest
from cyclopts import App
from hypothesis import given, settings
from hypothesis import strategies as st

from car_trio.cli import helping
from car_trio.cli.app import COMMANDS, asks_for_help, run
from car_trio.cli.flags import Flag, Home, Json, bound, for_cyclopts, options, spellings

PLAIN = st.sampled_from(["a", "7", "007", "1_000", "0x10", "1e3", "true", "none", "b c", "a=b", "é", "x"])
ODD = st.sampled_from(
    [
        "",
        "-",
        "--",
        "-1",
        "--none",
        "--no-page",
        "-h",
        "--limi",
        "-ab",
        "[1]",
        "{}",
        "--limit=",
        "-y=1",
        "--kind=z",
    ]
)
FLAGS = st.sampled_from(
    ["--agent", "--limit", "--turn", "--kind", "--all", "--page", "--no-page", "--yes", "-y"]
)
JOINED = st.sampled_from(
    ["--limit=5", "--agent=a=b", "--agent=-x", "--kind=a", "--turn=x", "--yes=true", "--page=no"]
)


def example(
    run: Annotated[str, Flag("A run.")],
    other: str | None = None,
    /,
    *,
    agent: Annotated[str | None, Flag("An agent.")] = None,
    limit: Annotated[int, Flag("So many.")] = 50,
    turn: Annotated[int | None, Flag("A turn.")] = None,
    kind: Annotated[Literal["a", "b c"] | None, Flag("Which.")] = None,
    everything: Annotated[bool, Flag("All.", ("--all",))] = False,
    page: Annotated[bool, Flag("Through a pager.", negative=True)] = True,
    yes: Annotated[bool, Flag("Do not ask.", ("--yes", "-y"))] = False,
    home: Home = None,
    json: Json = False,
) -> Any:
    """An example."""
    return dict(locals())


def chosen(shell: Literal["a", "b c"], count: int = 1, /, *, page: bool = False) -> Any:
    """Another."""
    return (shell, count, page)


def several(*runs: Annotated[str, Flag("Runs.")], count: int = 1, kind: Literal["a", "b"] = "a") -> Any:
    """A third."""
    return (runs, count, kind)


def first_and_more(run: str, /, *more: str, agent: str | None = None) -> Any:
    """A fourth."""
    return (run, more, agent)


def by_cyclopts(function: Any, words: list[str]) -> Any:
    app = App(version_flags=[])
    app.default(for_cyclopts(function))
    return app(words, exit_on_error=False, print_error=False, result_action="return_value")


@settings(max_examples=300)
@given(st.lists(PLAIN | FLAGS | JOINED | ODD, max_size=6))
@pytest.mark.parametrize("function", [example, chosen, several, first_and_more])
def test_what_is_bound_at_once_is_what_cyclopts_would_have_bound(function: Any, words: list[str]) -> None:
    found = bound(function, words)
    if found is not None:
        assert function(*found.given, **found.named) == by_cyclopts(function, words)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], {}),
        (["--agent", "a", "--limit", "7"], {"agent": "a", "limit": 7}),
        (["--turn", "0", "--kind", "b c"], {"turn": 0, "kind": "b c"}),
        (["--all", "--page", "-y"], {"everything": True, "page": True, "yes": True}),
        (["--limit=7", "--agent=a=b", "--kind=b c"], {"limit": 7, "agent": "a=b", "kind": "b c"}),
    ],
)
def test_plain_words_are_bound_at_once(words: list[str], named: dict[str, Any]) -> None:
    assert bound(example, ["r", *words]) == (["r"], named)
    assert bound(example, [*words, "r", "s"]) == (["r", "s"], named)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["r", "s", "t"],
        ["r", "--agent"],
        ["r", "--agent", "--limit"],
        ["r", "--agent", "a", "--agent", "b"],
        ["r", "--limit", "many"],
        ["r", "--limit", "-1"],
        ["r", "--limit", "9" * 5000],
        ["r", "--kind", "z"],
        ["r", "--no-page"],
        ["r", "--limit="],
        ["r", "--limit=many"],
        ["r", "--agent=--limit"],
        ["r", "--yes=true"],
        ["r", "-y=1"],
        ["r", "--help"],
        ["r", ""],
    ],
)
def test_whatever_may_be_a_mistake_is_left_to_cyclopts(words: list[str]) -> None:
    assert bound(example, words) is None


def test_a_word_in_its_place_is_read_by_its_type() -> None:
    assert bound(chosen, ["b c", "--page"]) == (["b c"], {"page": True})
    assert bound(chosen, ["z"]) is None
    assert bound(chosen, ["a", "7"]) is None, "a number is left to cyclopts"


def test_any_number_of_words_is_bound_where_any_number_is_taken() -> None:
    assert bound(several, []) == ([], {})
    assert bound(several, ["r", "s", "--count", "3", "t"]) == (["r", "s", "t"], {"count": 3})
    assert bound(first_and_more, []) is None
    assert bound(first_and_more, ["r", "s", "t"]) == (["r", "s", "t"], {})


def test_functions_of_other_shapes_are_left_to_cyclopts() -> None:
    def named(**flags: str) -> None: ...
    def loose(run: str) -> None: ...
    def needs(*, older_than: str) -> None: ...

    assert bound(named, []) is None
    assert bound(loose, ["a"]) is None
    assert bound(needs, []) is None
    assert bound(needs, ["--older-than", "3d"]) == ([], {"older_than": "3d"})


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_no_command_offers_to_turn_off_a_switch(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*name.split(), "--help"]) == 0
    offered = {word.rstrip(":,") for word in capsys.readouterr().out.split() if word.startswith("--no-")}
    assert offered <= {"--no-pager", "--no-auth", "--no-approvals"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_every_flag_and_fits_into_a_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    module, _, function = COMMANDS[name].place.partition(":")
    command = getattr(import_module(f"car_trio.cli.{module}"), function)
    hints = get_type_hints(command, include_extras=True)
    for flag in options(command):
        assert all(word in out for word in spellings(flag, hints[flag]))
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_commands_help_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    helping.show("example", example)
    said = capsys.readouterr().out
    assert said.startswith("Usage: car-trio example [OPTIONS] RUN [OTHER]\n\nAn example.\n")
    assert "\n  RUN                     A run.\n" in said
    assert "\n  --limit NUMBER          So many. Default: 50.\n" in said
    assert "\n  --kind a|b c            Which.\n" in said
    assert "\n  --page, --no-page       Through a pager. Default: --page.\n" in said
    assert "\n  --yes, -y               Do not ask.\n" in said
    helping.show("several", several)
    assert "[RUNS...]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "asks"), [(["--help"], True), (["a", "-h"], True), (["--", "--help"], False), (["a"], False)]
)
def test_help_is_asked_for_anywhere_but_behind_what_ends_the_flags(words: list[str], asks: bool) -> None:
    assert asks_for_help(words) == asks


@pytest.mark.parametrize(
    "words",
    [
        ["runs", "ls"],
        ["runs", "ls", "--tool=x", "--json"],
        ["runs", "ls", "--limit=3"],
        ["runs", "export"],
        ["runs", "ls", "--help"],
    ],
)
def test_reading_runs_and_their_help_load_nothing_heavy(words: list[str]) -> None:
    probe = (
        "import sys; from car_trio.cli.app import run; run(sys.argv[1:]);"
        "print(sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *words, "--home", "/nowhere/car"],
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = set(done.stderr.replace("'", " ").replace(",", " ").split())
    assert "msgspec" in loaded
    assert not loaded & {
        "trio",
        "websockets",
        "trio_websocket",
        "rich",
        "cyclopts",
        "attrs",
        "h11",
        "platformdirs",
    }

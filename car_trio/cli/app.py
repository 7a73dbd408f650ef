"""The command line: which commands there are, on one page.

A command is a function of a module that is imported when the command is called, and its flags are its parameters
(`flags.py`). The help of the whole is printed from this table alone, so it is instant; a command's is made from its
parameters (`helping.py`).

Exit codes: 0 ok, 1 the answer is no, 2 usage or configuration, 3 the daemon is not reachable, 4 not authorised,
5 damaged data. What goes wrong becomes one line on standard error and one of them in `failures.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

import car_trio


class Command(NamedTuple):
    """Where the function is (`module:function` in `car_trio.cli`), and what it does in one line."""

    place: str
    does: str


COMMANDS = {
    "serve": Command("serve:serve", "Run the daemon until SIGTERM or SIGINT (also without any command)."),
    "ui": Command("ui:ui", "Open the page in a browser, signed in."),
    "status": Command("status:status", "How the daemon and its store are."),
    "doctor": Command("doctor:doctor", "Look for whatever could be wrong; --fix mends what is safe to mend."),
    "runs ls": Command("listing:ls", "List runs, newest first."),
    "runs show": Command("showing:show", "What happened in a run, turn by turn."),
    "runs tail": Command("tail:tail", "Follow a run, an agent's runs or all, live and without a gap."),
    "runs export": Command("export:export", "Write runs as jsonl, json, md, html or otlp-json."),
    "runs diff": Command("differing:diff", "Where two runs went different ways."),
    "runs verify": Command("verifying:verify", "Check every line of runs, and the catalog against them."),
    "runs rm": Command("removing:rm", "Remove ended runs."),
    "runs prune": Command("removing:prune", "Remove the runs that ended long ago."),
    "runs reindex": Command("removing:reindex", "Make the catalog anew from the run files."),
    "agents ls": Command("hosting:agents", "The agents that registered with the daemon."),
    "approvals ls": Command("hosting:approvals", "The approvals that wait for a decision."),
    "approvals watch": Command("hosting:watch", "Show approvals as they are requested."),
    "approvals approve": Command("hosting:approve", "Let it happen."),
    "approvals deny": Command("hosting:deny", "Do not let it happen."),
    "chat": Command("chat:chat", "Talk with an attached agent."),
    "call": Command("calling:call", "Call any method of the daemon."),
    "config show": Command("settings:show", "Each setting and where it comes from."),
    "completion": Command("completion:completion", "A completion script for bash, zsh or fish."),
    "service install": Command("service:install", "Start the daemon at each login, and again when it fails."),
    "service uninstall": Command("service:uninstall", "Do not start it any more; what it recorded stays."),
    "service status": Command("service:status", "What the service manager says, and how the daemon is."),
    "service logs": Command("service:logs", "What the daemon said."),
    "demo": Command("demo:demo", "Play a whole run on a throw-away home, and show what happened."),
}
HELP = ("--help", "-h", "help")
OK, NO, USAGE, UNREACHABLE, UNAUTHORISED, DAMAGED = range(6)
INTERRUPTED = 130
"""As a shell says it; following that is interrupted has done its work and is ok."""


def run(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit code. A user's mistake is one line on standard error, never a traceback."""
    code = OK
    try:
        code = obey(list(arguments))
        sys.stdout.flush()
    except OSError as error:  # of the output: what else went wrong has been explained
        from car_trio.cli.failures import explain

        return explain(error) or code
    return code


def obey(words: list[str]) -> int:
    """Finds the command that the words name, and runs it."""
    if words and words[0] in HELP:
        return show_help("")
    if words == ["--version"]:
        print(car_trio.__version__)
        return OK
    if not words or words[0].startswith("-"):
        words.insert(0, "serve")
    if any(name.startswith(f"{words[0]} ") for name in COMMANDS) and (len(words) == 1 or words[1] in HELP):
        return show_help(words[0])
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return call(name, words[length:])
    return unknown(words)


def call(name: str, words: Sequence[str]) -> int:
    """Runs one command with its own words."""
    from car_trio.cli.failures import explain
    from car_trio.cli.flags import bound

    module, _, function = COMMANDS[name].place.partition(":")
    try:
        command = getattr(import_module(f"car_trio.cli.{module}"), function)
        hear_remarks()
        if asks_for_help(words):
            from car_trio.cli.helping import show

            show(name, command)
            return OK
        ready = bound(command, words)
        result = command(*ready.given, **ready.named) if ready else parse(name, command, words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        code = explain(error, name)
        if code is None:
            raise
        return code
    return int(result or OK)


def hear_remarks() -> None:
    """What a command's modules log is shown as its remarks; a command that loads no logging has none."""
    if "logging" in sys.modules:
        from car_trio.cli.remarks import listen

        listen()


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether one of the words does; behind a `--` none has a meaning."""
    before = words[: words.index("--")] if "--" in words else words
    return "--help" in before or "-h" in before


def parse(name: str, command: Callable[..., int | None], words: Sequence[str]) -> int | None:
    """Calls a command with words that cyclopts has to look at, most often to say what is wrong with them."""
    from cyclopts import App

    from car_trio.cli.flags import for_cyclopts

    app = App(name=f"car-trio {name}", help_flags=[], version_flags=[])
    app.default(for_cyclopts(command))
    result: int | None = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    return result


def show_help(group: str) -> int:
    """Prints the commands, or those of a group."""
    shown = {
        name: command for name, command in COMMANDS.items() if name.startswith(f"{group} " if group else "")
    }
    width = max(map(len, shown))
    print(f"Usage: car-trio {group or 'COMMAND'} {'COMMAND ' if group else ''}[OPTIONS]\n")
    if not group:
        print("The local daemon between AI agents and their tools, and the record of what they did.\n")
    for name, command in shown.items():
        print(f"  {name:{width}}  {command.does}")
    print("\ncar-trio COMMAND --help shows a command's options; --version this program's version.")
    print("Exit codes: 0 ok, 1 the answer is no, 2 usage or configuration, 3 daemon not reachable,")
    print("4 not authorised, 5 damaged data.")
    return OK


def unknown(words: Sequence[str]) -> int:
    """Says that there is no such command, and which one is nearest."""
    from difflib import get_close_matches

    from car_trio.wire.text import one_line

    asked = " ".join(words[:2]) if any(name.startswith(f"{words[0]} ") for name in COMMANDS) else words[0]
    names = [*COMMANDS, *{name.split()[0] for name in COMMANDS}]
    near = get_close_matches(asked, names, 1)
    hint = f"did you mean '{near[0]}'?" if near else "car-trio --help lists what there is"
    print(f"car-trio: there is no command '{one_line(asked)}'; {hint}", file=sys.stderr)
    return USAGE

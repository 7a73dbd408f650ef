"""`car-trio completion`: scripts made from the commands and their parameters, so that a key press starts no program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Literal, get_type_hints

from car_trio.cli.app import COMMANDS
from car_trio.cli.flags import Command, choices, kinds, options, spellings, turned_off

BASH = """_car_trio() {{
    local words="{top}" command="${{COMP_WORDS[1]}}" last="${{COMP_WORDS[COMP_CWORD-1]}}"
    if [ "$COMP_CWORD" -gt 1 ]; then
        words=""
        case "$command" in
            {groups}) [ "$COMP_CWORD" -eq 2 ] || command="$command ${{COMP_WORDS[2]}}" ;;
        esac
        case "$command" in
{cases}
        esac
        case "$command $last" in
{values}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _car_trio car-trio"""
ZSH = "#compdef car-trio\nautoload -U +X bashcompinit && bashcompinit\n"
NO_FILES = "complete -c car-trio -f"


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """A completion script: `source <(car-trio completion bash)`, or `car-trio completion fish | source`."""
    scripts: dict[str, Callable[[], str]] = {"bash": bash, "zsh": lambda: ZSH + bash(), "fish": fish}
    print(scripts[shell]())
    return 0


class Words:
    """What may follow a command: `given` where it stands without a flag, `flags`, and what those flags are given that
    take one of a few words."""

    def __init__(self, command: Command) -> None:
        hints: dict[str, Any] = get_type_hints(command, include_extras=True)
        self.given = [
            word
            for name in command.__code__.co_varnames[: command.__code__.co_argcount]
            for word in choices(hints[name])
        ]
        self.flags = ["--help"]
        self.values: dict[str, list[str]] = {}
        for name in options(command):
            written = [*spellings(name, hints[name]), *turned_off(name, hints[name])]
            self.flags += [word for word in written if word.startswith("--")]
            if list(kinds(hints[name])) != [bool]:
                self.values |= dict.fromkeys(written, choices(hints[name]))


def commands() -> Iterator[tuple[str, Words]]:
    for name, (place, _) in COMMANDS.items():
        module, _, function = place.partition(":")
        yield name, Words(getattr(import_module(f"car_trio.cli.{module}"), function))


def groups() -> dict[str, list[str]]:
    """The first words of commands, each with the second words there are."""
    found: dict[str, list[str]] = {}
    for name in COMMANDS:
        first, _, second = name.partition(" ")
        found.setdefault(first, []).extend([second] if second else [])
    return found


def bash() -> str:
    known = groups()
    cases = [(name, more) for name, more in known.items() if more]
    values: list[tuple[str, list[str]]] = []
    for name, words in commands():
        cases.append((name, [*words.given, *words.flags]))
        values += [(f"{name} {flag}", chosen) for flag, chosen in words.values.items()]
    return BASH.format(
        top=" ".join(known),
        groups="|".join(name for name, more in known.items() if more),
        cases="\n".join(f'            "{case}") words="{" ".join(words)}" ;;' for case, words in cases),
        # A flag that is given any text: no word of ours, so the shell offers files.
        values="\n".join(f'            "{case}") words="{" ".join(words)}" ;;' for case, words in values),
    )


def fish() -> str:
    lines = [NO_FILES]
    lines += [f"complete -c car-trio -n __fish_use_subcommand -a {first}" for first in groups()]
    for name, words in commands():
        first, _, second = name.partition(" ")
        seen = f"__fish_seen_subcommand_from {first}"
        if second:
            lines.append(f"complete -c car-trio -n '{seen}' -a {second} -d \"{COMMANDS[name].does}\"")
            seen += f"; and __fish_seen_subcommand_from {second}"
        lines += [f"complete -c car-trio -n '{seen}' -a '{' '.join(words.given)}'"] if words.given else []
        for flag in words.flags:
            taken = words.values.get(flag)
            value = "" if taken is None else f" -x -a '{' '.join(taken)}'" if taken else " -r -F"
            lines.append(f"complete -c car-trio -n '{seen}' -l {flag.removeprefix('--')}{value}")
    return "\n".join(lines)

"""`car-trio completion`: scripts made from the table of commands, so that a key press starts no program."""

from __future__ import annotations

from typing import Literal

from car_trio.cli.app import COMMANDS

BASH = """_car_trio() {{
    local words="{top}"
    [ "$COMP_CWORD" -le 1 ] || words=""
    if [ "$COMP_CWORD" -eq 2 ]; then
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _car_trio car-trio"""
ZSH = "#compdef car-trio\nautoload -U +X bashcompinit && bashcompinit\n"


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """A completion script: `source <(car-trio completion bash)`, or `car-trio completion fish | source`."""
    print({"bash": bash, "zsh": lambda: ZSH + bash(), "fish": fish}[shell]())
    return 0


def groups() -> dict[str, list[str]]:
    """The first words of commands, each with the second words there are."""
    found: dict[str, list[str]] = {}
    for name in COMMANDS:
        first, _, second = name.partition(" ")
        found.setdefault(first, []).extend([second] if second else [])
    return found


def bash() -> str:
    cases = [f'            {first}) words="{" ".join(more)}" ;;' for first, more in groups().items() if more]
    return BASH.format(top=" ".join(groups()), cases="\n".join(cases))


def fish() -> str:
    lines = ["complete -c car-trio -f"]
    lines += [f"complete -c car-trio -n __fish_use_subcommand -a {first}" for first in groups()]
    lines += [
        f"complete -c car-trio -n '__fish_seen_subcommand_from {name.split()[0]}' -a {name.split()[1]} "
        f'-d "{command.does}"'
        for name, command in COMMANDS.items()
        if " " in name
    ]
    return "\n".join(lines)

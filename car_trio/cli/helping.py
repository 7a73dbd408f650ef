"""A command's help: made from the same annotations that its words are bound by, and folded to the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Any, get_type_hints

from car_trio.cli.flags import WORDS, Command, choices, flag_of, kinds, options, spellings, turned_off
from car_trio.cli.screen import width

COLUMN = 24
"""Where the explanations begin, unless what is explained is longer."""
Row = tuple[str, str]


def show(name: str, command: Command) -> None:
    """Prints what a command does and takes."""
    print("\n".join(page(name, command)))


def page(name: str, command: Command) -> Iterator[str]:
    arguments, flags = list(_arguments(command)), list(_flags(command))
    given = "".join(f" {shown}" for shown, _ in arguments)
    yield f"Usage: car-trio {name}{' [OPTIONS]' if flags else ''}{given}"
    for paragraph in (command.__doc__ or "").split("\n\n"):
        yield ""
        yield from wrap(paragraph, width())
    told = [row for row in arguments if row[1]]
    for head, rows in (("Arguments", told), ("Options", [*flags, ("-h, --help", "Show this.")])):
        if rows:
            yield f"\n{head}:"
        for row in rows:
            yield from _lines(*row)


def _arguments(command: Command) -> Iterator[Row]:
    """What stands without a flag, in brackets where it may be left out."""
    code, hints = command.__code__, get_type_hints(command, include_extras=True)
    names = code.co_varnames[: code.co_argcount]
    needed = len(names) - len(command.__defaults__ or ())
    for place, name in enumerate(names):
        shown = "|".join(choices(hints[name])) or name.upper()
        yield shown if place < needed else f"[{shown}]", _help(hints[name])
    if code.co_flags & WORDS:
        name = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
        yield f"[{name.upper()}...]", _help(hints[name])


def _flags(command: Command) -> Iterator[Row]:
    hints, defaults = get_type_hints(command, include_extras=True), command.__kwdefaults__ or {}
    for name in options(command):
        hint, default = hints[name], defaults.get(name)
        written = [*spellings(name, hint), *turned_off(name, hint)]
        said = _help(hint)
        if default is not None and default is not False:
            said += f" Default: {written[0] if default is True else default}."
        yield (
            f"{', '.join(written)} {_value(hint)}".rstrip(),
            said if name in defaults else f"{said} Required.",
        )


def _help(hint: Any) -> str:
    flag = flag_of(hint)
    return "" if flag is None else flag.help


def _value(hint: Any) -> str:
    """What a flag is given."""
    if list(kinds(hint)) == [bool]:
        return ""
    any_word = ["NUMBER"] if int in kinds(hint) else ["TEXT"] if str in kinds(hint) else []
    return "|".join([*any_word, *choices(hint)])


def _lines(shown: str, said: str) -> Iterator[str]:
    first, indent = f"  {shown}", " " * (COLUMN + 2)
    if len(first) <= COLUMN:
        first = f"{first:{COLUMN}}  "
    else:
        yield first
        first = indent
    yield from wrap(said, max(40, width()), initial_indent=first, subsequent_indent=indent) or [
        first.rstrip()
    ]

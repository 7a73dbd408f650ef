"""How a command declares its flags, and the quick way from words to arguments.

A command is a plain function; what a flag means stands in its annotation, as a `Flag`. Cyclopts reads that, writes the
help and finds the words for every mistake, and loading it takes longer than reading 500 runs. So words that leave no
room for a mistake (known flags, each once and with its own value, no abbreviations) are bound here, and everything else
is left to cyclopts. What is bound here, cyclopts would have bound to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

Command = Callable[..., int | None]
VARIADIC = 0x04 | 0x08
"""In a code object's flags: it takes `*words` or `**names`."""


class Flag(NamedTuple):
    """`help`; other names than the parameter's; whether `--no-…` turns it off."""

    help: str
    names: tuple[str, ...] = ()
    negative: bool = False


Home = Annotated[str | None, Flag("State root. Default: CAR_HOME, else the platform's state directory.")]
Json = Annotated[bool, Flag("One JSON document, for programs.")]


class Bound(NamedTuple):
    """Arguments for a call."""

    given: list[str]
    named: dict[str, Any]


def bound(function: Command, words: Sequence[str]) -> Bound | None:
    """The arguments that plain words stand for; None when cyclopts has to look at them."""
    code = function.__code__
    positions = code.co_posonlyargcount
    if code.co_flags & VARIADIC or code.co_argcount != positions:
        return None
    hints = get_type_hints(function, include_extras=True)
    names = code.co_varnames[positions : positions + code.co_kwonlyargcount]
    flags = {word: name for name in names for word in spellings(name, hints[name])}
    found = _bind(words, flags, hints)
    if found is None or not positions - len(function.__defaults__ or ()) <= len(found.given) <= positions:
        return None
    placed = zip(code.co_varnames, found.given, strict=False)
    if any(_value(hints[name], iter([word])) != word for name, word in placed):
        return None
    needed = set(names) - set(function.__kwdefaults__ or ())
    return found if needed <= set(found.named) else None


def _bind(words: Sequence[str], flags: dict[str, str], hints: dict[str, Any]) -> Bound | None:
    found = Bound([], {})
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") and word:
            found.given.append(word)
            continue
        name = flags.get(word)
        value = None if name is None else _value(hints[name], rest)
        if name is None or value is None or name in found.named:
            return None
        found.named[name] = value
    return found


def _value(hint: Any, rest: Iterator[str]) -> Any:
    """What a flag of this type is given; None when that is not plain."""
    kinds = list(_kinds(hint))
    if kinds == [bool]:
        return True
    word = next(rest, "")
    if not word or word.startswith("-"):
        return None
    if int in kinds:
        return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else None
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    return word if str in kinds or word in choices else None


def _kinds(hint: Any) -> Iterator[Any]:
    """The types that a hint allows, without `None`."""
    if get_origin(hint) is Annotated:
        yield from _kinds(get_args(hint)[0])
    elif get_origin(hint) is Literal or not get_args(hint):
        yield from () if hint is type(None) else (hint,)
    else:
        for each in get_args(hint):
            yield from _kinds(each)


def spellings(name: str, hint: Any) -> tuple[str, ...]:
    """How a flag is written."""
    said = [each.names for each in getattr(hint, "__metadata__", ()) if isinstance(each, Flag) and each.names]
    return said[-1] if said else (f"--{name.replace('_', '-')}",)


def for_cyclopts(function: Command) -> Command:
    """The same function again, with each `Flag` as the `Parameter` that cyclopts reads."""
    from functools import update_wrapper

    from cyclopts import Parameter

    def translated(hint: Any) -> Any:
        said = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Flag)]
        if not said:
            return hint
        flag, kind = said[-1], get_args(hint)[0]
        parameter = Parameter(
            name=flag.names or None,
            help=flag.help,
            negative=None if flag.negative else (),
            show_default=None if kind is not bool else False,
        )
        return Annotated[kind, parameter]

    hints = get_type_hints(function, include_extras=True)
    twin = FunctionType(
        function.__code__, function.__globals__, argdefs=function.__defaults__, closure=function.__closure__
    )
    update_wrapper(twin, function)
    del twin.__wrapped__  # type: ignore[attr-defined]
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__annotations__ = {name: translated(hint) for name, hint in hints.items()}
    return twin

"""How a command declares its flags, and the quick way from words to arguments.

A command is a plain function; what a flag means stands in its annotation, as a `Flag`. Cyclopts reads that and finds
the words for every mistake, and loading it takes longer than reading 500 runs. So words that leave no room for a
mistake (known flags, each once and with its own value, no abbreviations) are bound here, and everything else is left
to cyclopts. What is bound here, cyclopts would have bound to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

Command = Callable[..., int | None]
WORDS, NAMES = 0x04, 0x08
"""In a code object's flags: it takes `*words`, or `**names`."""


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
    if code.co_flags & NAMES or code.co_argcount != positions:
        return None
    hints = get_type_hints(function, include_extras=True)
    names = options(function)
    flags = {word: name for name in names for word in spellings(name, hints[name])}
    found = _bind(words, flags, hints)
    if found is None or len(found.given) < positions - len(function.__defaults__ or ()):
        return None
    places = [*code.co_varnames[:positions]]
    if code.co_flags & WORDS:
        places += [code.co_varnames[positions + len(names)]] * (len(found.given) - positions)
    if len(found.given) > len(places):
        return None
    if any(
        _value(hints[name], iter([word])) != word for name, word in zip(places, found.given, strict=False)
    ):
        return None
    needed = set(names) - set(function.__kwdefaults__ or ())
    return found if needed <= set(found.named) else None


def options(function: Command) -> tuple[str, ...]:
    """The names of the parameters that are flags."""
    code = function.__code__
    return code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]


def _bind(words: Sequence[str], flags: dict[str, str], hints: dict[str, Any]) -> Bound | None:
    found = Bound([], {})
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") and word:
            found.given.append(word)
            continue
        spelling, is_joined, joined = word.partition("=") if word.startswith("--") else (word, "", "")
        name = flags.get(spelling)
        if name is None or name in found.named or (is_joined and list(kinds(hints[name])) == [bool]):
            return None
        value = _value(hints[name], iter([joined]) if is_joined else rest)
        if value is None:
            return None
        found.named[name] = value
    return found


def _value(hint: Any, rest: Iterator[str]) -> Any:
    """What a flag of this type is given; None when that is not plain."""
    allowed = list(kinds(hint))
    if allowed == [bool]:
        return True
    word = next(rest, "")
    if not word or word.startswith("-"):
        return None
    if int in allowed:
        return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else None
    return word if str in allowed or word in choices(hint) else None


def kinds(hint: Any) -> Iterator[Any]:
    """The types that a hint allows, without `None`."""
    if get_origin(hint) is Annotated:
        yield from kinds(get_args(hint)[0])
    elif get_origin(hint) is Literal or not get_args(hint):
        yield from () if hint is type(None) else (hint,)
    else:
        for each in get_args(hint):
            yield from kinds(each)


def choices(hint: Any) -> list[str]:
    """The words that a hint names."""
    return [choice for kind in kinds(hint) if get_origin(kind) is Literal for choice in get_args(kind)]


def spellings(name: str, hint: Any) -> tuple[str, ...]:
    """How a flag is written."""
    flag = flag_of(hint)
    return flag.names if flag is not None and flag.names else (f"--{name.replace('_', '-')}",)


def turned_off(name: str, hint: Any) -> list[str]:
    """How a flag that can be turned off is turned off."""
    flag = flag_of(hint)
    return (
        [f"--no-{spellings(name, hint)[0].removeprefix('--')}"] if flag is not None and flag.negative else []
    )


def flag_of(hint: Any) -> Flag | None:
    """What is said of a parameter; the last of several."""
    said = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Flag)]
    return said[-1] if said else None


def for_cyclopts(function: Command) -> Command:
    """The same function again, with each `Flag` as the `Parameter` that cyclopts reads."""
    from functools import update_wrapper

    from cyclopts import Parameter

    def translated(hint: Any) -> Any:
        flag = flag_of(hint)
        if flag is None:
            return hint
        kind = get_args(hint)[0]
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

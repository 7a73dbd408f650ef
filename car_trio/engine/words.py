"""The words that permissions look for (protocol `engine.md` section 10).

Names are split into words at everything that is no letter or digit, and where camelCase goes up (`sendEmail`,
but not `GETUSER`). Values are searched as text, in any case; under a name that means a path or a command,
more is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from car_trio.engine.values import is_list, is_object
from car_trio.wire.proposals import Reversibility


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_GAP: Final = re.compile(r"[^A-Za-z0-9]")
_BOUNDARY: Final = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")

_DANGEROUS: Final = _set(
    "charge chmod chown clean credential credentials curl dd delete deploy destroy download drop egress helm "
    "kubectl passwd password payment publish push refund release reset rm rmdir secret secrets send sudo "
    "terraform truncate unlink upload wget wipe wire"
)
_DANGEROUS_ANYWHERE: Final = ("mkfs", "setuid")
_SECRETS: Final = _set(
    "apikey authorization bearer credential credentials passwd password secret secrets token"
)
_PATHS: Final = _set("path file filename file_path filepath dir directory target src dest source")
_COMMANDS: Final = _set("cmd command")
_COMMAND_WORDS: Final = _DANGEROUS | _SECRETS | {"ssh"}

_DANGEROUS_VALUE: Final = re.compile(
    r"rm -r|dd if=|git push|reset --hard|git clean|docker push|npm publish|cargo publish"
    r"|drop table|delete from|truncate table|private_key|private key|force_push|mkfs|setuid"
    r"|(?:sudo|curl|wget|helm|chmod|chown|kubectl|terraform|aws|gcloud)(?: |\Z)"
)
_SECRET_PATH: Final = re.compile(
    r"secret|password|credential|keychain|id_rsa|\.env(?![a-z0-9])|(?<![a-z0-9])ssh(?![a-z0-9])|\.pem(?![a-z0-9])"
)

_COMPENSABLE: Final = _set(
    "allocate attach clone commit create deploy deployment deployments disable enable grant insert install "
    "mount patch provision push put register restart start stop subscribe tag update upgrade upload upsert"
)
_REVERSIBLE: Final = _set(
    "analyze cat check classify count describe diff exists fetch find get grep head inspect list load lookup "
    "parse peek query read resolve scan search select show stat status summarize tail validate view"
)
_IRREVERSIBLE: Final = _set("chmod chown dd delete destroy drop rm rmdir truncate unlink wipe")
_COMPENSABLE_VALUE: Final = re.compile(r"git push|git commit|docker push")
_IRREVERSIBLE_VALUE: Final = re.compile(
    r"rm -r|dd if=|drop table|delete from|truncate table|mkfs|--force|(?:chmod|chown)(?: |\Z)"
)


BLOCK: Final = 8 * 1024
"""One search holds the interpreter from its first character to its last, and who sends to fifty watchers meanwhile
waits fifty times. So a long text is searched so many characters at a time."""
_LONGEST: Final = 32
"""More characters than anything that is looked for has."""


def words(name: str) -> list[str]:
    return [word.lower() for word in _BOUNDARY.split(name) if word]


def holds(pattern: re.Pattern[str], text: str) -> bool:
    """Whether it is found anywhere, in any case. What seems to end with a block may go on behind it: the next block
    begins before that, and tells. What stands before a block is seen by patterns that look back one character."""
    if len(text) <= BLOCK:
        return pattern.search(text.lower()) is not None
    for at in range(0, len(text), BLOCK):
        end = at + BLOCK + _LONGEST
        back = text[max(0, at - 1) : at].lower()
        part = back + text[at:end].lower()
        found = pattern.search(part, len(back))
        if found is not None and (found.end() < len(part) or end >= len(text)):
            return True
    return False


def names_any(named: frozenset[str], text: str) -> bool:
    """Whether one of these is a word of the text, of which each block ends where a word does."""
    at = 0
    while at < len(text):
        gap = _GAP.search(text, at + BLOCK)
        end = len(text) if gap is None else gap.start()
        if not named.isdisjoint(words(text[at:end])):
            return True
        at = end + 1
    return False


def strings(parameters: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every (parameter name, string value) in here; what lies in a list goes by the list's name. A value that
    is no string counts as an empty one, for the sake of its name."""
    if is_object(parameters):
        for key, value in parameters.items():
            yield from strings(value, key)
    elif is_list(parameters):
        for value in parameters:
            yield from strings(value, name)
    else:
        yield name, parameters if isinstance(parameters, str) else ""


def is_dangerous(tool: str, parameters: dict[str, Any]) -> bool:
    """Whether a tool call needs full access."""
    if _names_danger(tool):
        return True
    return any(_names_secret(name) or _value_is_dangerous(name, value) for name, value in strings(parameters))


def tool_reversibility(tool: str, parameters: dict[str, Any]) -> Reversibility:
    """What a tool call seems to do. One sign of something that cannot be undone outweighs every other."""
    named = set(words(tool))
    values = [value for _, value in strings(parameters)]
    if named & _IRREVERSIBLE or any(holds(_IRREVERSIBLE_VALUE, value) for value in values):
        return "irreversible"
    if named & _COMPENSABLE or any(holds(_COMPENSABLE_VALUE, value) for value in values):
        return "compensable"
    return "reversible" if named & _REVERSIBLE else "irreversible"


@lru_cache(maxsize=1024)
def _names_danger(tool: str) -> bool:
    lowered = tool.lower()
    return not _DANGEROUS.isdisjoint(words(tool)) or any(word in lowered for word in _DANGEROUS_ANYWHERE)


@lru_cache(maxsize=1024)
def _names_secret(name: str) -> bool:
    parts = words(name)
    return not _SECRETS.isdisjoint(parts) or ("api", "key") in pairwise(parts)


def _value_is_dangerous(name: str, value: str) -> bool:
    if holds(_DANGEROUS_VALUE, value):
        return True
    role = "_".join(words(name))
    if role in _PATHS:
        return holds(_SECRET_PATH, value)
    return role in _COMMANDS and names_any(_COMMAND_WORDS, value)

"""Text that strangers wrote, made safe for a terminal and for a log.

Whatever an agent or a client sends may be shown to a person. Control characters could move the cursor or rename the
window, bidirectional overrides could show another order than the one that is stored, tags and characters without
width say what nobody sees. All of them are shown by their number instead, so that what is on the screen is what is
in the file; only a joiner behind a picture stays, which makes one picture of two.
"""

from __future__ import annotations

import re

_UNSEEN = (
    "\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_PICTURE = "[\u2190-\u2bff\U0001f000-\U0001faff]"
_JOINER = f"(?<!{_PICTURE})(?<!{_PICTURE}\ufe0f)\u200d"
_HOSTILE = re.compile(f"[\x00-\x09\x0b-\x1f{_UNSEEN}]|{_JOINER}")
_HOSTILE_OR_BREAK = re.compile(f"[\x00-\x1f{_UNSEEN}]|{_JOINER}")
_HOSTILE_IN_JSON = re.compile(f"[\x00-\x08\x0b-\x1f{_UNSEEN}]|{_JOINER}")


def escaped(text: str) -> str:
    """The text with everything escaped that a terminal would obey; line breaks stay."""
    return _HOSTILE.sub(_number, text)


def one_line(text: str) -> str:
    """As `escaped`, with line breaks escaped as well."""
    return _HOSTILE_OR_BREAK.sub(_number, text)


def escaped_json(text: str) -> str:
    """A JSON document that means the same and that no terminal obeys.

    What is hostile and no white space can only be inside of strings, where `\\uXXXX` means the same.
    """
    return _HOSTILE_IN_JSON.sub(_json_number, text.replace("\r", " "))


def _number(match: re.Match[str]) -> str:
    """Each form has a length of its own, so that no digit of the text behind it is taken for one of the number."""
    code = ord(match[0])
    if match[0] == "\n":
        return "\\n"
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"


def _json_number(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))

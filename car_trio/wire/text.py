"""Text that strangers wrote, made safe for a terminal and for a log.

Whatever an agent or a client sends may be shown to a person. Control characters could move the cursor or rename the
window, bidirectional overrides could show another order than the one that is stored, tag characters say what nobody
sees. All of them are shown by their number instead, so that what is on the screen is what is in the file.
"""

from __future__ import annotations

import re

_UNSEEN = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f"
_HOSTILE = re.compile(f"[\x00-\x09\x0b-\x1f{_UNSEEN}]")
_HOSTILE_OR_BREAK = re.compile(f"[\x00-\x1f{_UNSEEN}]")
_HOSTILE_IN_JSON = re.compile(f"[\x00-\x08\x0b-\x1f{_UNSEEN}]")


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
    return "\\n" if match[0] == "\n" else f"\\x{ord(match[0]):02x}"


def _json_number(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))

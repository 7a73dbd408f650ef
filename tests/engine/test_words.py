"""The words that permissions look for are found in a long text as in a short one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_trio.engine import words
from car_trio.engine.words import holds, is_dangerous, names_any

BITS = [
    "sudo",
    "sudo ",
    "sudox",
    "rm -r",
    "rm",
    " ",
    "-r",
    "ssh",
    "xssh",
    ".pem",
    ".pemx",
    "a",
    "Send",
    "send",
    "_",
    "é",
    "SSH",
    ".PEM",
    "RM -R",
    "\u0130",  # becomes two characters
    "\u03a3",  # becomes another one at the end of a word
    "\u212a",  # becomes a letter of ASCII
    "SUDO \u0130",
]
PATTERNS = [words._DANGEROUS_VALUE, words._SECRET_PATH, words._IRREVERSIBLE_VALUE, words._COMPENSABLE_VALUE]
TEXTS = st.lists(st.sampled_from(BITS), max_size=60).map("".join)


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "BLOCK", 7)
        yield


@given(TEXTS, st.sampled_from(PATTERNS))
def test_a_text_in_blocks_holds_what_it_holds_as_a_whole(text: str, pattern: re.Pattern[str]):
    assert holds(pattern, text) is (pattern.search(text.lower()) is not None)


@given(TEXTS)
def test_the_words_of_a_text_in_blocks_are_those_of_the_whole(text: str):
    named = frozenset({"sudo", "send", "pem"})
    assert names_any(named, text) is (not named.isdisjoint(words.words(text)))


@pytest.mark.parametrize(
    ("parameters", "danger"),
    [
        ({"q": "x" * 100 + " drop table users"}, True),
        ({"q": "x" * 100 + "sudo"}, True),
        ({"q": "x" * 100 + "sudoku " + "y" * 100}, False),
        ({"path": "y" * 50 + "/.ssh/" + "z" * 50}, True),
        ({"path": "y" * 50 + "assh" + "z" * 50}, False),
        ({"command": "y" * 50 + " delete " + "z" * 50}, True),
        ({"command": "y" * 50 + " deleted " + "z" * 50}, False),
    ],
)
def test_danger_is_seen_wherever_it_stands(parameters: dict[str, str], danger: bool):
    assert is_dangerous("help", parameters) is danger

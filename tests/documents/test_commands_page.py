"""docs/commands.md: every command of the program, and no other."""

from __future__ import annotations

import re

from car_trio.cli.app import COMMANDS
from car_trio.cli.doctor import CHECKS
from tests.documents.pages import ROOT

PAGE = (ROOT / "docs" / "commands.md").read_text()


def rows() -> list[str]:
    """What the first table tells about: the text before each row's explanation."""
    table = PAGE.partition("| command | what it does |")[2].partition("\n\n")[0]
    return re.findall(r"^\| (.*?) \| ", table, re.MULTILINE)


def test_every_command_has_a_row_and_every_row_a_command():
    told = {word for row in rows() for word in re.findall(r"`([a-z][^`]*)`", row)}
    beginnings = {name for name in COMMANDS for word in told if re.match(rf"{name}\b", word)}
    assert set(COMMANDS) == beginnings
    assert all(any(re.match(rf"{name}\b", row.strip("`")) for name in COMMANDS) for row in rows())


def test_doctor_makes_as_many_checks_as_the_page_says():
    """One more than those of files: whether the daemon answers."""
    assert re.findall(r"(\d+) checks", PAGE) == [str(len(CHECKS) + 1)]

"""docs/configuration.md: every key of the configuration with its default and its flag, and no other."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import msgspec
import pytest

from car_trio.cli import serve
from car_trio.cli.flags import options
from car_trio.config import SECTIONS, load
from car_trio.state.policy_files import FilePolicies, read
from tests.documents.pages import ROOT, blocks

PAGE = ROOT / "docs" / "configuration.md"


def told() -> dict[tuple[str, str], list[str]]:
    """The rows of the tables that are about a section, by section and key."""
    found: dict[tuple[str, str], list[str]] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE):
        section = re.match(r"`\[(\w+)\]`", part)
        if section:
            for key, *cells in re.findall(
                r"^\| `(\w+)` \| `(.*?)` \|(?: (`.*?`))? \| (.*) \|$", part, re.MULTILINE
            ):
                found[section[1], key] = cells
    return found


def kept() -> dict[tuple[str, str], Any]:
    return {
        (section, key): value
        for section, kind in SECTIONS.items()
        for key, value in msgspec.structs.asdict(kind()).items()
    }


def test_every_key_is_told_with_its_default():
    defaults = {place: msgspec.json.decode(cells[0]) for place, cells in told().items()}
    assert defaults == kept()


def test_every_flag_of_serve_that_sets_a_key_is_told_with_it(monkeypatch):
    passed: list[dict[str, Any]] = []
    monkeypatch.setattr(serve, "run_daemon", lambda flags: passed.append(flags) or 0)
    flags: dict[tuple[str, ...], str] = {}
    for name in options(serve.serve):
        serve.serve(**{name: 1})
        given = [key for key, value in passed.pop().items() if value is not None and "." in key]
        flags |= {tuple(key.split(".")): f"--{name.replace('_', '-')}" for key in given}
    shown = {
        place: match[1] for place, cells in told().items() if (match := re.match(r"`(--[\w-]+)", cells[1]))
    }
    assert shown == flags


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.name)
def test_what_a_page_shows_in_toml_is_taken_without_a_warning(block, tmp_path):
    if set(tomllib.loads(block.text)) <= set(SECTIONS):
        (tmp_path / "config.toml").write_text(block.text)
        assert load({"home": str(tmp_path)}, {}).warnings == []
    else:
        assert read([("shown.toml", block.text)], FilePolicies(), lambda: 0.0).policies

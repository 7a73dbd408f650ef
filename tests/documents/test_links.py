"""The links of the pages lead somewhere, and every page is led to."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from tests.documents.pages import PAGES, ROOT, anchors, prose


def links(page: Path) -> list[str]:
    text = prose(page)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_that_is_not_of_the_web_leads_somewhere(page):
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def led_to(page: Path) -> set[Path]:
    return {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}


def test_the_readme_leads_to_every_page():
    assert set((ROOT / "docs").glob("*.md")) <= led_to(ROOT / "README.md")


def test_every_picture_is_shown_on_a_page():
    assert set((ROOT / "docs" / "pictures").iterdir()) <= set().union(*map(led_to, PAGES))


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    tables = (ROOT / "CONTRIBUTING.md").read_text().partition("## Dependencies")[2]
    cells = re.findall(r"^\| ([a-z0-9, -]+) \| [^|]{10,} \|$", tables, re.MULTILINE)
    told = {name.strip() for cell in cells for name in cell.split(",")}
    assert told - {"runtime", "development"} == {re.split(r"[\[>=]", each)[0] for each in wanted}

"""The files of the page, read and not run: small, without a way for text to become anything else."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

PAGE = {file.name: file.read_bytes() for file in (files("car_trio") / "page").iterdir()}
TEXTS = {name: body.decode() for name, body in PAGE.items()}
SCRIPTS = sorted(name for name in PAGE if name.endswith(".js"))
SINKS = (
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "document.write",
    "DOMParser",
    "createContextualFragment",
    "setHTMLUnsafe",
    "eval(",
    "Function(",
    "srcdoc",
    "javascript:",
)


def test_the_page_is_small() -> None:
    assert sum(map(len, PAGE.values())) <= 300_000


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_module_makes_no_markup_of_text_and_fits_on_a_few_screens(name: str) -> None:
    assert not [sink for sink in SINKS if sink in TEXTS[name]]
    assert len(TEXTS[name].splitlines()) <= 400
    assert TEXTS[name].startswith("// "), "a module begins with its theory of operation"


@pytest.mark.parametrize("name", sorted(PAGE))
def test_nothing_is_fetched_from_elsewhere(name: str) -> None:
    addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}[^\s\"']*", TEXTS[name]))
    assert addresses <= {"http://www.w3.org/2000/svg"}


def test_every_module_that_is_imported_is_there() -> None:
    wanted = {found for name in SCRIPTS for found in re.findall(r'from "\./([\w-]+\.js)"', TEXTS[name])}
    assert wanted | {"page.js"} == set(SCRIPTS)


def test_the_document_holds_no_script_and_no_style_of_its_own() -> None:
    html = TEXTS["index.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)

"""docs/protocol.md: made of what the code knows, and every example of it true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from car_trio.methods.table import METHODS
from car_trio.wire import errors
from documents import protocol
from tests.documents.exchanges import Replay, examples
from tests.peer import open_house

pytestmark = pytest.mark.usefixtures("inline_threads")

PAGE = Path("docs/protocol.md")
EXAMPLES = examples(PAGE.read_text())


def test_the_page_is_what_the_code_makes():
    assert PAGE.read_text() == protocol.page(), "scripts/protocol writes it"


@pytest.mark.parametrize(
    "asked", ["{{method no.such}}", "{{code NOTHING}}", "{{number state.session.NO}}", "{{nonsense}}"]
)
def test_prose_that_asks_for_what_is_not_there_is_refused(asked):
    with pytest.raises(protocol.Unmet, match=r"protocol\.md: .*\{\{"):
        protocol.Document().made(asked)


def test_a_method_that_is_not_told_is_an_error_and_so_is_one_that_is_told_twice():
    prose = protocol.PROSE.read_text()
    with pytest.raises(protocol.Unmet, match="only once: runs.list$"):
        protocol.Document().made(prose.replace("{{method runs.list}}", ""))
    with pytest.raises(protocol.Unmet, match="only once: runs.list$"):
        protocol.Document().made(prose + "{{method runs.list}}")


def test_every_method_has_a_heading_to_which_the_table_leads():
    page = PAGE.read_text()
    headings = {name.replace(".", "") for name in re.findall(r"^#### (\S+)$", page, re.MULTILINE)}
    assert headings >= {name.replace(".", "") for name in METHODS}


def test_every_error_code_is_told():
    told = set(re.findall(r"^\| (-\d+) \|", PAGE.read_text(), re.MULTILINE))
    assert told == {str(value) for value in vars(errors).values() if isinstance(value, int)}


def test_there_are_examples_of_every_kind_of_message():
    sent = {message.body.get("method", "a reply") for example in EXAMPLES for message in example}
    assert sent >= {
        "session.auth",
        "runs.start",
        "proposal.submit",
        "tools.execute",
        "agents.chat",
        "a reply",
    }


async def test_every_example_is_what_the_daemon_says(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        replay = Replay(house)
        for example in EXAMPLES:
            await replay.play(example)

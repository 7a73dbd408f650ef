"""Every recorded answer of the reference library: `shared/cases/engine.jsonl` beside the repository.

A clone that stands alone has none, and skips them; where every change is checked they have to be there.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from car_trio import engine
from car_trio.engine import InvalidProposal
from car_trio.engine.execute import execute

CASES = Path(__file__).parents[2].parent / "shared" / "cases" / "engine.jsonl"
ARE_THERE = CASES.exists() or "CI" in os.environ
ROWS = [json.loads(line) for line in CASES.read_text().splitlines()] if ARE_THERE else []
needs_cases = pytest.mark.skipif(not ARE_THERE, reason=f"the recorded answers are not there: {CASES}")
pytestmark = needs_cases
POSITION = re.compile(r" at (?:line \d+ column \d+|/\S*)$")


def the(fn: str) -> list[Any]:
    rows = [row for row in ROWS if row["fn"] == fn]
    assert rows or not ARE_THERE
    return [pytest.param(row, id=row["name"]) for row in rows]


def answers(row: dict[str, Any]) -> list[Any]:
    return [each["result"] for each in row.get("nondeterministic", [])] or [row["result"]]


def exact(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def with_placeholders(value: Any, like: Any) -> Any:
    """The answer with `<ts>`, `<ms>`, `<id>`, `<sha256>` where the recording has them, if it fits."""
    if isinstance(like, dict) and isinstance(value, dict):
        return {key: with_placeholders(each, like.get(key)) for key, each in value.items()}
    if isinstance(like, list) and isinstance(value, list) and len(like) == len(value):
        return [with_placeholders(each, other) for each, other in zip(value, like, strict=True)]
    if like == "<ts>":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value)
        return like
    if like == "<ms>":
        assert value >= 0
        return like
    if like == "<sha256>":
        assert re.fullmatch("[0-9a-f]{64}", value)
        return like
    if isinstance(like, str) and "<id>" in like:
        return re.sub("[0-9a-f]{12}", "<id>", value)
    return value


def check(row: dict[str, Any], value: Any) -> None:
    candidates = answers(row)
    assert exact(with_placeholders(value, candidates[0])) in [exact(each) for each in candidates]


def refuses(row: dict[str, Any], error: pytest.ExceptionInfo[ValueError]) -> None:
    assert POSITION.search(str(error.value))
    assert POSITION.sub("", str(error.value)) == POSITION.sub("", row["error"]["message"])


def ask(row: dict[str, Any]) -> Any:
    function = getattr(engine, row["fn"])
    if "error" not in row:
        return function(*row["args"])
    with pytest.raises(InvalidProposal) as error:
        function(*row["args"])
    refuses(row, error)
    return None


@pytest.mark.parametrize("row", the("verify"))
def test_verify_answers_as_recorded(row: dict[str, Any]) -> None:
    answer = ask(row)
    if answer is not None:
        for each in answer["evidence"]["checks"]:
            assert each.pop("verifies") and each.pop("cannot_verify")
        check(row, answer)


@pytest.mark.parametrize("row", the("transaction_check"))
def test_transaction_check_answers_as_recorded(row: dict[str, Any]) -> None:
    answer = ask(row)
    if answer is None:
        return
    pairs = [sorted(each["actions"]) for each in answer["conflicts"]]
    assert pairs == [sorted(each["actions"]) for each in row["result"]["conflicts"]]
    assert sorted(map(exact, answer["conflicts"])) == sorted(map(exact, row["result"]["conflicts"]))
    assert answer["consistent"] == row["result"]["consistent"]


@pytest.mark.parametrize(
    "row",
    [
        *the("simulate"),
        *the("optimize"),
        *the("equivalent"),
        *the("permission_classify"),
        *the("permission_evaluate"),
        *the("harness_metrics"),
    ],
)
def test_the_other_pure_functions_answer_as_recorded(row: dict[str, Any]) -> None:
    answer = ask(row)
    if "error" not in row:
        check(row, answer)


class Tools:
    """The tools of the recordings: they answer at once, with JSON text."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.flaky = 0

    async def __call__(self, name: str | None, parameters: dict[str, Any]) -> str:
        self.calls.append([name, parameters])
        match name:
            case "fail":
                raise RuntimeError("tool boom")
            case "flaky" if self.flaky < 2:
                self.flaky += 1
                raise ValueError(f"flaky {self.flaky}")
            case "notjson":
                return "not json"
            case "raw":
                return json.dumps(parameters.get("v"))
            case _:
                return json.dumps({"tool": name, "params": parameters})


@pytest.mark.parametrize("row", the("execute"))
async def test_execute_answers_as_recorded(row: dict[str, Any], autojump_clock: Any) -> None:
    proposal, tool_names = row["args"]
    tools = Tools()
    if "error" in row:
        with pytest.raises(InvalidProposal) as error:
            await execute(proposal, tools, tool_names=tool_names)
        refuses(row, error)
        return
    answer = await execute(proposal, tools, tool_names=tool_names)
    assert answer.pop("final_proposal")["actions"]
    accepted = answer["replan_lineage"][0]["status"] == "accepted"
    assert ("accepted_proposal_preimages" in answer) == accepted
    answer.pop("accepted_proposal_preimages", None)
    check(row, answer)
    assert tools.calls == row["calls"]

"""Large values of the state stay JSON until somebody looks into them, and that happens aside."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from msgspec import Raw

from car_trio.engine import effects, looking, preconditions
from car_trio.engine.execute import Execution
from car_trio.engine.model import parse
from tests.engine.plans import asserts, call, plan, plans, write
from tests.engine.test_execution import Bench, brief, in_virtual_time, statuses

READ = {"id": "r", "type": "state_read", "parameters": {"key": "k"}}
LARGE = {"x": [1, 2.5]}


class KeptAsJson(dict[str, Any]):
    """A state in which every list and object counts as large."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__()
        for key, value in values.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        is_plain = isinstance(value, (list, dict))
        super().__setitem__(key, Raw(msgspec.json.encode(value)) if is_plain else value)


class Aside:
    """Runs the work at once; `meanwhile` is done before the loop hears of it."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.count = 0
        self.is_on = False
        self._meanwhile = meanwhile

    async def __call__(self, work: Callable[[], None]) -> None:
        self.count += 1
        self.is_on = True
        work()
        self.is_on = False
        if self.count == 1:
            self._meanwhile()


def needs(operator: str, value: Any = None, **more: Any) -> dict[str, Any]:
    condition = {"key": "k", "operator": operator, "value": value}
    return call("a", "ok", **{"preconditions": [condition], **more})


def json(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


@settings(max_examples=300)
@given(plans())
def test_a_plan_ends_alike_whether_large_values_are_kept_as_json_or_not(proposal) -> None:
    state = {"k0": {"x": 1}, "k1": [1]}

    def run(bench: Bench) -> Any:
        result = in_virtual_time(bench.run)
        rows = [{**row, "duration_ms": 0, "timestamp": ""} for row in json(result["results"])]
        return rows, json({**bench.state})

    assert run(Bench(proposal, KeptAsJson(state), aside=Aside())) == run(Bench(proposal, dict(state)))


async def test_reading_a_large_value_gives_it_as_it_is_kept(monkeypatch):
    monkeypatch.delattr(preconditions, "opened")
    bench = Bench(plan(needs("exists"), READ), KeptAsJson({"k": LARGE}), aside=Aside())
    result = await bench.run()
    assert statuses(result) == ["succeeded", "succeeded"]
    assert result["results"][1]["output"] is bench.state["k"]


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (needs("eq", LARGE), None),
        (needs("eq", 5), """'k' is Object {"x": Array [Number(1), Number(2.5)]}, need Number(5)"""),
        (needs("neq", LARGE), """'k' is Object {"x": Array [Number(1), Number(2.5)]}, must not be"""),
        (needs("contains", "2.5"), None),
        (needs("contains", "9"), """key 'k' does not contain String("9")"""),
        (asserts("s", "k", LARGE), None),
        (asserts("s", "k", 5), "assertion failed: state['k'] = Object {\"x\": Array [Number(1), Number(2.5)]}, expected Number(5)"),
    ],
)  # fmt: skip
async def test_what_is_asked_about_a_large_value_is_found_out_aside(monkeypatch, action, said):
    aside = Aside()

    def opened(value: Any) -> Any:
        assert aside.is_on, "in the stretch that decides"
        return msgspec.json.decode(value)

    monkeypatch.setattr(preconditions, "opened", opened)
    [(status, error)] = brief(await Bench(plan(action), KeptAsJson({"k": LARGE}), aside=aside).run())
    assert (status == "succeeded", error) == (said is None, said)
    assert aside.count == 1


async def test_nothing_goes_aside_for_small_values():
    aside = Aside()
    state = KeptAsJson({"k": 5})
    actions = [
        needs("eq", 5),
        asserts("s", "k", 5),
        {**needs("exists"), "id": "b"},
        {**asserts("c", "k", 5), "parameters": {}},
    ]
    await Bench(plan(*actions), state, aside=aside).run()
    assert aside.count == 0


async def test_an_answer_says_nothing_about_a_value_that_came_meanwhile():
    state = KeptAsJson({"k": LARGE})
    aside = Aside(lambda: state.update(k=5))
    assert statuses(await Bench(plan(needs("eq", LARGE)), state, aside=aside).run()) == ["rejected"]
    state = KeptAsJson({"k": LARGE})
    aside = Aside(lambda: state.__setitem__("k", [7]))
    assert statuses(await Bench(plan(needs("eq", [7])), state, aside=aside).run()) == ["succeeded"]
    assert aside.count == 2


async def test_an_assertion_is_looked_at_again_before_each_attempt(autojump_clock):
    state = KeptAsJson({"k": LARGE})
    again = {**asserts("s", "k", [7]), "failure_behavior": "retry", "max_retries": 1}
    aside = Aside()

    def event(kind: str, action: Any, data: dict[str, Any]) -> None:
        if kind == "action_retrying":
            state["k"] = [7]

    async def never(action: Any, attempt: int) -> Any:
        raise AssertionError

    result = await Execution(parse(plan(again)), call=never, state=state, event=event, aside=aside).run()
    assert statuses(result) == ["succeeded"]
    assert aside.count == 2


async def test_without_an_aside_large_values_are_looked_into_where_it_is_decided():
    result = await Bench(plan(needs("eq", LARGE), asserts("s", "k", LARGE)), KeptAsJson({"k": LARGE})).run()
    assert statuses(result) == ["succeeded", "succeeded"]


async def test_a_write_over_a_large_value_is_undone_without_looking_into_it(monkeypatch):
    monkeypatch.delattr(effects, "opened")
    state = KeptAsJson({"k": LARGE})
    before = state["k"]
    failing = call("f", "fail", state_dependencies=["k"])
    result = await Bench(
        plan(write("w1", "k", [1]), write("w2", "k", [2]), failing), state, aside=Aside()
    ).run()
    assert "failed" in statuses(result)
    assert bytes(state["k"]) == bytes(before)


def test_a_question_that_was_answered_is_not_asked_again():
    state = KeptAsJson({"k": LARGE})
    looks = looking.Looks(state)
    [action] = parse(plan(needs("eq", LARGE))).actions
    looks.answer(looks.open_questions(action))
    assert looks.open_questions(action) == []
    state["k"] = LARGE
    assert len(looks.open_questions(action)) == 1, "equal, but another"

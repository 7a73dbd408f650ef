"""Random plans, and what tests say about actions in short."""

from typing import Any

from hypothesis import strategies as st

KEYS = ["k0", "k1", "k2"]
keys = st.sampled_from(KEYS)
values = st.sampled_from([None, True, 0, 1, 1.0, "a", [1], {"x": 1}])
values_or_nested = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def _parameters(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    match kind:
        case "state_write":
            return st.fixed_dictionaries({"key": keys, "value": values})
        case "state_read":
            return st.fixed_dictionaries({"key": keys})
        case "assertion":
            return st.fixed_dictionaries({"key": keys, "expected": values})
        case _:
            return st.fixed_dictionaries({"n": st.integers(0, 2)})


@st.composite
def actions(draw: st.DrawFn, place: int, tools: tuple[str, ...]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["tool_call", "tool_call", "state_write", "state_read", "assertion"]))
    action: dict[str, Any] = {"id": f"a{place}", "type": kind, "parameters": draw(_parameters(kind))}
    if kind == "tool_call":
        action["tool"] = draw(st.sampled_from(tools))
    optional = {
        "state_dependencies": st.lists(keys, max_size=2),
        "expected_effects": st.dictionaries(keys, values, max_size=2),
        "write_set": st.lists(keys, max_size=2),
        "read_set": st.lists(keys, max_size=2),
        "idempotent": st.booleans(),
        "failure_behavior": st.sampled_from(["abort", "skip", "retry"]),
        "max_retries": st.integers(0, 2),
        "preconditions": st.lists(
            st.fixed_dictionaries(
                {"key": keys, "operator": st.sampled_from(["eq", "exists", "not_exists"]), "value": values}
            ),
            max_size=1,
        ),
    }
    for name, strategy in optional.items():
        if draw(st.integers(0, 3)) == 0:
            action[name] = draw(strategy)
    return action


@st.composite
def plans(
    draw: st.DrawFn, tools: tuple[str, ...] = ("ok", "fail", "unknown"), most: int = 7
) -> dict[str, Any]:
    size = draw(st.integers(0, most))
    return {"id": "p", "actions": [draw(actions(place, tools)) for place in range(size)]}


def plan(*actions: dict[str, Any]) -> dict[str, Any]:
    return {"id": "p", "actions": list(actions)}


def call(id: str, tool: str | None = "ok", **fields: Any) -> dict[str, Any]:  # noqa: A002 - the field's name
    return {"id": id, "type": "tool_call", "tool": tool, **fields}


def write(id: str, key: str, value: Any, **fields: Any) -> dict[str, Any]:  # noqa: A002 - the field's name
    return {"id": id, "type": "state_write", "parameters": {"key": key, "value": value}, **fields}


def asserts(id: str, key: str, expected: Any, **fields: Any) -> dict[str, Any]:  # noqa: A002 - the field's name
    return {"id": id, "type": "assertion", "parameters": {"key": key, "expected": expected}, **fields}

"""`rpc.discover`: the method table as an OpenRPC 1.x document, generated from the types that decode the params."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from car_trio.methods.context import Context
from car_trio.methods.method import Method
from car_trio.wire.frames import encode
from car_trio.wire.session import NoParams

REF = "#/components/schemas/{name}"


def discover(context: Context, _: NoParams) -> Raw:
    """The document, made once: its table does not change while the daemon serves."""
    daemon = context.daemon
    if daemon.document is None:
        daemon.document = Raw(encode(document(daemon.methods, daemon.version)))
    return daemon.document


def document(methods: dict[str, Method], version: str) -> dict[str, Any]:
    """The OpenRPC document of a table. Every property of the params type is one named parameter."""
    kinds = [kind for method in methods.values() for kind in (method.params, *method.results)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REF)
    each = iter(schemas)
    described = {
        name: _method(name, method, next(each), [next(each) for _ in method.results], components)
        for name, method in methods.items()
    }
    return {
        "openrpc": "1.3.2",
        "info": {"title": "car_trio", "version": version, "license": {"name": "Apache-2.0"}},
        "methods": [described[name] for name in sorted(described)],
        "components": {"schemas": components},
    }


def _method(
    name: str,
    method: Method,
    params: dict[str, Any],
    results: list[dict[str, Any]],
    components: dict[str, Any],
) -> dict[str, Any]:
    return {
        "name": name,
        "summary": method.summary,
        "x-who": method.who,
        "paramStructure": "by-position" if params.get("type") == "array" else "by-name",
        "params": _params(params, components),
        "result": {"name": "result", "schema": results[0] if len(results) == 1 else {"oneOf": results}},
    }


def _params(schema: dict[str, Any], components: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" not in schema:
        return [{"name": "items", "required": True, "schema": schema}]
    definition = components[schema["$ref"].rsplit("/", 1)[1]]
    required = definition.get("required", [])
    return [
        {"name": key, "required": key in required, "schema": value}
        for key, value in definition.get("properties", {}).items()
    ]

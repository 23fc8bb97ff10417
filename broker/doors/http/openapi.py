"""Makes the OpenAPI document out of the table of routes and the types in it."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from broker.doors.http.routes import ROUTES, Route

_REFS = "#/components/schemas/{name}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_OBJECT = {"type": "object"}


def document(version: str, routes: Sequence[Route] = ROUTES) -> dict[str, Any]:
    """Return the document as plain values."""
    types = [one for route in routes for one in (route.takes, route.answers) if one is not None]
    found, components = msgspec.json.schema_components(types, ref_template=_REFS)
    shapes = dict(zip(types, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(plain_path(route), {})[route.method.lower()] = _operation(route, shapes)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "infermq",
            "version": version,
            "description": "Inference over many models: OpenAI's API, jobs, files and batches.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"header": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def plain_path(route: Route) -> str:
    """Return the path without what only the router needs."""
    return route.path.replace(":path}", "}")


def _operation(route: Route, shapes: dict[type, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.says,
        "tags": [route.group],
        "responses": {
            str(route.status): _answer(route, shapes),
            "default": {
                "description": "An error; `code` says which.",
                "content": {"application/json": {"schema": {"$ref": _REFS.format(name="Error")}}},
            },
        },
    }
    names = re.findall(r"{(\w+)}", plain_path(route))
    places = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]
    asked = [
        {"name": one.name, "in": "query", "description": one.says, "schema": {"type": one.kind}}
        for one in route.query
    ]
    if places or asked:
        operation["parameters"] = places + asked
    if route.sends is not None:
        operation["requestBody"] = {"required": True, "content": {route.sends: _body(route, shapes)}}
    if route.open:
        operation["security"] = []
    return operation


def _body(route: Route, shapes: dict[type, dict[str, Any]]) -> dict[str, Any]:
    if route.sends == "multipart/form-data":
        fields = {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string", "enum": ["batch"]}}
        return {"schema": {"type": "object", "required": ["file", "purpose"], "properties": fields}}
    if route.sends == "application/octet-stream":
        return {"schema": {"type": "string", "format": "binary"}}
    body = {"schema": _OBJECT if route.takes is None else shapes[route.takes]}
    return body if route.example is None else {**body, "example": msgspec.json.decode(route.example)}


def _answer(route: Route, shapes: dict[type, dict[str, Any]]) -> dict[str, Any]:
    if route.media != "application/json":
        return {"description": route.says, "content": {route.media: {"schema": {"type": "string"}}}}
    content = {"application/json": {"schema": _OBJECT if route.answers is None else shapes[route.answers]}}
    if route.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": route.says, "content": content}

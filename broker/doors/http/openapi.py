"""Makes the OpenAPI document out of the table of routes and the types in it."""

import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, get_type_hints

import msgspec
from msgspec.structs import replace

from broker.doors.http import messages
from broker.doors.http.files import HOUR_S, MONTH_S
from broker.doors.http.reading import EXTRA, Options
from broker.doors.http.routes import ANSWERS, ROUTES, Parameter, Route
from broker.doors.operations import operations
from broker.service import Services
from schemas.api import CatalogShow, Nothing, Status
from schemas.control import Pauses
from schemas.subjects import Verb

_REFS = "#/components/schemas/{name}"
_OBJECT = {"type": "object"}
_HEADERS = tuple("x-infermq-" + name.replace("_", "-") for name in Options.__struct_fields__)
_VERB = "{verb}"
_NOT_ANNOTATED: Mapping[Verb, type[msgspec.Struct]] = {
    Verb.CATALOG_SHOW: CatalogShow,
    Verb.PAUSES: Pauses,
    Verb.STATUS: Status,
}
"""The answers of verbs that ask for nothing, which the table of operations answers by functions without a name."""


class ErrorFields(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    message: str
    type: str
    param: str | None
    """What of the request is wrong."""
    code: str
    """infermq's own word for it."""
    field: str | None = None
    """The field, if `param` names it otherwise."""
    limit: int | None = None
    """The limit that was passed."""
    retry_after_ms: int | None = None
    """When to try again."""


class Error(msgspec.Struct, frozen=True):
    """An error, as OpenAI's API writes it."""

    error: ErrorFields


class MessagesErrorFields(msgspec.Struct, frozen=True):
    type: str
    message: str


class MessagesError(msgspec.Struct, frozen=True):
    """An error, as Anthropic's API writes it."""

    type: str
    error: MessagesErrorFields
    request_id: str


def document(version: str, routes: Sequence[Route] = ROUTES) -> dict[str, Any]:
    """Return the document as plain values."""
    routes = [one for route in routes for one in each(route)]
    types = [one for route in routes for one in (route.takes, route.answers) if one is not None]
    types = list(dict.fromkeys([Error, MessagesError, Options, *types]))
    found, components = msgspec.json.schema_components(types, ref_template=_REFS, schema_hook=_raw)
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
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def each(route: Route) -> Sequence[Route]:
    """Return a route, or if its path stands for all verbs, one route for each of them."""
    if _VERB not in route.path:
        return [route]
    classes: Any = SimpleNamespace(**get_type_hints(Services))
    return [
        replace(
            route,
            name=f"verb_{verb.replace('-', '_')}",
            path=route.path.replace(_VERB, verb),
            says=_says(verb, one.request),
            takes=one.request,
            answers=_NOT_ANNOTATED.get(verb) or get_type_hints(one.use_case)["return"],
            example=route.example if one.request is Nothing else None,
            query=route.query if verb is Verb.BATCH_RESULTS else (),
        )
        for verb, one in operations(classes).items()
    ]


def _says(verb: Verb, request: type[msgspec.Struct]) -> str:
    said = (request.__doc__ or "").partition("\n")[0].partition(". ")[0].rstrip(".")
    is_generic = request is Nothing or not said or said.startswith(f"{request.__name__}(")
    return f"Call {verb}." if is_generic else f"{said}."


def _raw(kind: type) -> dict[str, Any]:
    if kind is msgspec.Raw:
        return {"description": "any JSON value"}
    raise NotImplementedError(kind)


def plain_path(route: Route) -> str:
    """Return the path without what only the router needs."""
    return route.path.replace(":path}", "}")


def _operation(route: Route, shapes: dict[type, dict[str, Any]]) -> dict[str, Any]:
    is_messages = route.path == messages.PATH
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.says,
        "tags": [route.group],
        "responses": {
            str(route.status): _answer(route, shapes),
            **({"206": _answer(route, shapes)} if route.ranges else {}),
            "default": {
                "description": "An error; `code` says which.",
                "content": {"application/json": {"schema": _ref(MessagesError if is_messages else Error)}},
            },
        },
    }
    names = re.findall(r"{(\w+)}", plain_path(route))
    places = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]
    asked = [
        {"name": one.name, "in": "query", "description": one.says, "schema": _schema_of(one)} for one in route.query
    ]
    if route.ranges:
        says = "Which bytes, such as bytes=0-99."
        asked.append({"name": "Range", "in": "header", "description": says, "schema": {"type": "string"}})
    told = [
        {"name": name, "in": "header", "schema": {"type": "string"}} for name in _HEADERS if route.group == ANSWERS
    ]
    if parameters := places + asked + told:
        operation["parameters"] = parameters
    if route.sends is not None:
        operation["requestBody"] = {"required": True, "content": {route.sends: _body(route, shapes)}}
    if route.open:
        operation["security"] = []
    return operation


def _schema_of(asked: Parameter) -> dict[str, Any]:
    bounds = {"minimum": asked.least, "maximum": asked.most, "enum": list(asked.values) or None}
    return {"type": asked.kind} | {name: value for name, value in bounds.items() if value is not None}


def _ref(kind: type) -> dict[str, Any]:
    return {"$ref": _REFS.format(name=kind.__name__)}


def _body(route: Route, shapes: dict[type, dict[str, Any]]) -> dict[str, Any]:
    if route.sends == "multipart/form-data":
        seconds = {"type": "integer", "minimum": HOUR_S, "maximum": MONTH_S}
        fields = {
            "file": {"type": "string", "format": "binary"},
            "purpose": {"type": "string", "enum": ["batch"]},
            "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
            "expires_after[seconds]": seconds,
        }
        return {"schema": {"type": "object", "required": ["file", "purpose"], "properties": fields}}
    if route.sends == "application/octet-stream":
        return {"schema": {"type": "string", "format": "binary"}}
    body = {"schema": _OBJECT if route.takes is None else shapes[route.takes]}
    if route.group == ANSWERS:
        ours = {"model": {"type": "string"}, EXTRA: _ref(Options)}
        body = {"schema": {"allOf": [body["schema"], {**_OBJECT, "required": ["model"], "properties": ours}]}}
    return body if route.example is None else {**body, "example": msgspec.json.decode(route.example)}


def _answer(route: Route, shapes: dict[type, dict[str, Any]]) -> dict[str, Any]:
    if route.media != "application/json":
        return {"description": route.says, "content": {route.media: {"schema": {"type": "string"}}}}
    content = {"application/json": {"schema": _OBJECT if route.answers is None else shapes[route.answers]}}
    if route.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": route.says, "content": content}

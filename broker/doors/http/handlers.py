"""What the routes do that ask no model, by their names in the table."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from broker.core.principal import Principal
from broker.doors.http import bundles, models, verbs
from broker.doors.http.batches import BatchRoutes
from broker.doors.http.files import FileRoutes
from broker.doors.http.jobs import JobRoutes
from broker.doors.http.openapi import document
from broker.doors.http.page import HEADERS, page
from broker.doors.http.problems import NOT_READY
from broker.doors.http.reading import headers_of
from broker.doors.http.results import Kept, ResultRoutes
from broker.doors.http.writing import json_answer
from broker.doors.operations import operations
from broker.service import Services
from broker.service.refusal import Refusal
from schemas.catalog import Catalog
from schemas.subjects import Verb

Handler = Callable[[Principal, Request], Awaitable[Response]]
Open = Callable[[Request], Awaitable[Response]]
"""Answers whoever asks, with or without a key."""


@cache
def openapi_of(version: str) -> bytes:
    """Return the document of the API. It takes as long to write as hundreds of requests take to answer."""
    return msgspec.json.encode(document(version))


def open_handlers(version: str, *, is_ready: Callable[[], bool]) -> Mapping[str, Open]:
    """Return what needs no key."""
    openapi = openapi_of(version)

    async def show_document(_: Request) -> Response:
        return Response(openapi, media_type="application/json")

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page(version, str(request.base_url).rstrip("/")), headers=HEADERS)

    async def index(_: Request) -> Response:
        says = {"name": "infermq", "version": version, "docs": "/docs", "openapi": "/openapi.json", "api": "/v1"}
        return Response(msgspec.json.encode(says), media_type="application/json")

    async def health(_: Request) -> Response:
        if not is_ready():
            raise Refusal(NOT_READY)
        return Response(b'{"status":"ok"}', media_type="application/json")

    return {"openapi": show_document, "docs": show_page, "index": index, "health": health}


def handlers(services: Services, catalog: Callable[[], Catalog], kept: Kept) -> Mapping[str, Handler]:
    """Return what needs a key."""
    jobs, files = JobRoutes(services), FileRoutes(services.files)
    batches = BatchRoutes(services.file_batches, services.files, services.cancels)
    results = ResultRoutes(services.batches, kept)
    by_verb = operations(services)

    async def list_models(principal: Principal, _: Request) -> Response:
        return json_answer(models.listed(catalog(), principal))

    async def show_model(principal: Principal, request: Request) -> Response:
        return json_answer(models.shown(request.path_params["model"], catalog(), principal))

    async def take_bundle(principal: Principal, request: Request) -> Response:
        headers, query = headers_of(request.scope), request.query_params
        return json_answer(await bundles.take(services.submissions, principal, query, request.receive, headers), 202)

    async def call(principal: Principal, request: Request) -> Response:
        verb = verbs.verb_of(request.path_params["verb"])
        wait_s = verbs.seconds(request.query_params.get("wait_s"))
        operation = by_verb[verb]
        if wait_s and verb is Verb.BATCH_RESULTS:
            operation = verbs.waiting(services, wait_s)
        answer = await verbs.answer(operation, principal, request.receive, headers_of(request.scope))
        return Response(answer, media_type="application/json")

    return {
        "models": list_models,
        "model": show_model,
        "job_submit": jobs.create,
        "job_list": jobs.list,
        "job_show": jobs.show,
        "job_change": jobs.change,
        "job_cancel": jobs.cancel,
        "file_create": files.create,
        "upload_show": files.upload,
        "upload_go_on": files.go_on,
        "file_list": files.list,
        "file_show": files.show,
        "file_delete": files.delete,
        "file_content": files.content,
        "batch_create": batches.create,
        "batch_list": batches.list,
        "batch_show": batches.show,
        "batch_bad_lines": batches.bad_lines,
        "batch_cancel": batches.cancel,
        "batch_results": results.read,
        "batch_retry": batches.retry,
        "bundle": take_bundle,
        "verb": call,
    }

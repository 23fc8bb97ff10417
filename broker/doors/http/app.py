"""The front: the ASGI application that answers over HTTP.

Requests for answers, which are most, go past the router of Starlette: their routes are a dict. All others are Starlette's.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from uuid import UUID

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute

from broker.core.keys import KeyName
from broker.core.principal import Principal
from broker.core.relay import Answered, Erred
from broker.doors.http import messages, responses
from broker.doors.http.caller import HttpCaller, Send
from broker.doors.http.dialect import Dialect
from broker.doors.http.handlers import Handler, Open, handlers, open_handlers
from broker.doors.http.openai import OpenAI
from broker.doors.http.problems import NOT_READY, retry_headers
from broker.doors.http.reading import Headers, Receive, body_of, headers_of, key_text, traceparent_of
from broker.doors.http.routes import ROUTES
from broker.doors.http.turns import answer_in_turn, until_gone
from broker.doors.http.waiting import Waiting
from broker.doors.requests import Requests
from broker.ports import Clock, Entropy
from broker.service import Services
from broker.service.refusal import EXPECTED, Refusal, problem_of
from schemas.api import Problem
from schemas.catalog import Catalog
from schemas.endpoints import CHAT, ENDPOINTS
from schemas.ids import uuid7
from schemas.job import Lane
from schemas.subjects import Source

log = logging.getLogger(__name__)
IdentifyText = Callable[[str | None], Awaitable[Principal | Problem]]
"""Makes a principal out of the text of a key, None if none is shown; or says why not. Raises: Unavailable."""
HOT: Final[Mapping[str, Dialect]] = {
    **{path: OpenAI(endpoint) for path, endpoint in ENDPOINTS.items()},
    responses.PATH: responses.Responses(),
    messages.PATH: messages.Messages(),
}
"""The dialect of each path that asks a model."""
STOPPING: Final = Problem("broker_stopped", "the broker stops: go on at another one")
REQUEST: Final = "infermq_request"
"""What a scope says of its request: what it is called."""
_LEFT = 499
"""The status of an answer that nobody reads, as nginx counts it."""


class Front:
    """Knows who calls, and answers. Until a relay is attached it says that it is not ready."""

    def __init__(
        self,
        *,
        identify: IdentifyText,
        catalog: Callable[[], Catalog],
        clock: Clock,
        entropy: Entropy,
        version: str = "",
        ended: Callable[[Answered | Erred], object] = lambda _: None,
        answered: Callable[[str, int], object] = lambda *_: None,
    ) -> None:
        """`ended` is called with the end of each request for an answer; `answered` with path and status of every request."""
        self._identify = identify
        self._catalog = catalog
        self._clock = clock
        self._entropy = entropy
        self._ended = ended
        self._answered = answered
        self._requests: Requests | None = None
        self._services: Services | None = None
        """None: this broker is starting or stopping."""
        self._handlers: Mapping[str, Handler] = {}
        self._running: dict[KeyName, dict[UUID, HttpCaller]] = {}
        """The requests that are being answered, by the key that asked."""
        self._waiting = Waiting()
        self._streams = Waiting()
        """Those that end when this broker stops: their clients go on at another."""
        self._others = self._router(version)

    def __repr__(self) -> str:
        return f"Front(requests={sum(map(len, self._running.values()))})"

    @contextmanager
    def attached(self, requests: Requests) -> Iterator[None]:
        """Take requests while the block runs."""
        self._requests = requests
        try:
            yield
        finally:
            self._requests = None

    @asynccontextmanager
    async def serving(self, services: Services) -> AsyncIterator[None]:
        """Answer calls of the API's verbs, and take jobs and files, while the block runs."""
        self._services, self._handlers = services, handlers(services, self._catalog, self._kept)
        try:
            yield
        finally:
            self._services, self._handlers = None, {}
            self._streams.end_all(STOPPING)

    async def shut_out(self, why: Mapping[KeyName, Problem]) -> None:
        """End the requests of keys that are let in no more, and say why."""
        for name, problem in why.items():
            self._waiting.end(name, problem)
            self._streams.end(name, problem)
            for job, caller in list(self._running.get(name, {}).items()):
                if self._requests is not None:
                    await self._requests.relay.caller_left(job)
                await caller.end(Erred(problem))

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request: an ASGI application."""
        if scope["type"] != "http":
            return
        path, request = scope["path"], uuid7(self._clock(), self._entropy())
        if (dialect := HOT.get(path)) is None:
            await self._others({**scope, REQUEST: request}, receive, self._counted(send, request))
            return
        headers = headers_of(scope)
        try:
            self._answered(path, await self._infer(dialect, scope["method"], headers, receive, send))
        except ConnectionError:
            log.debug("client left before its request was whole path=%s", path)
        except Exception as error:  # noqa: BLE001 - `problem_of` logs what nobody raises on purpose
            problem = problem_of(error)
            status, content = dialect.error(problem, request)
            await _respond(send, status, content, [(name, str(request).encode()) for name in dialect.names], problem)
            self._answered(path, status)

    async def _infer(self, dialect: Dialect, method: str, headers: Headers, receive: Receive, send: Send) -> int:
        """Answer a request for an answer of a model. Return the status. Raises: Refusal, Unavailable, ConnectionError."""
        if method != "POST":
            raise Refusal(Problem("wrong_method", f"ask a model by POST, not by {method[:20]}"))
        requests = self._requests
        if requests is None:
            raise Refusal(NOT_READY)
        principal = await self.caller_of(headers)
        ask = dialect.read(await body_of(receive, headers), headers)
        name = principal.tenant, principal.key
        traceparent = traceparent_of(headers)

        def caller_for(job: UUID) -> HttpCaller:
            return HttpCaller(
                send,
                dialect=dialect,
                answer=ask.answer(job),
                request=job,
                streamed=ask.streamed,
                clock=self._clock,
                ended=self._ended,
            )

        if ask.lane is not Lane.INTERACTIVE:
            if (services := self._services) is None:
                raise Refusal(NOT_READY)
            async with self._waiting.held(name):
                return await answer_in_turn(services, principal, ask, receive, caller_for, traceparent=traceparent)
        entry = requests.admitted(ask.job, principal, Source(ask.lane, ask.model, *name), traceparent=traceparent)
        caller = caller_for(entry.id)
        running = self._running.setdefault(name, {})
        running[entry.id] = caller
        try:
            await requests.ask(entry, caller)
            if not caller.is_over:
                await self._until_over(requests, entry.id, caller, receive)
        finally:
            del running[entry.id]
            if not running and self._running.get(name) is running:
                del self._running[name]
        return caller.status

    async def _until_over(self, requests: Requests, job: UUID, caller: HttpCaller, receive: Receive) -> None:
        """Wait until it is answered, or until the client leaves, of which the relay is told.

        A server says of both that nobody is there any more, so that no second task need wait.
        """
        await until_gone(receive)
        if not caller.is_over:
            await requests.relay.caller_left(job)

    async def caller_of(self, headers: Headers) -> Principal:
        """Say who calls. Raises: Refusal, Unavailable."""
        caller = await self._identify(key_text(headers))
        if isinstance(caller, Problem):
            raise Refusal(caller)
        return caller

    @asynccontextmanager
    async def _kept(self, principal: Principal, request: Request) -> AsyncIterator[None]:
        """Run the block while the key is let in and this broker serves. Raises: Refusal, as soon as that ends."""
        async with self._streams.held((principal.tenant, principal.key)):
            await self.caller_of(headers_of(request.scope))  # it may have ended since the request came
            if self._services is None:
                raise Refusal(STOPPING)
            yield

    def _router(self, version: str) -> Starlette:
        """Return what serves the routes of the table that ask no model."""
        for_all = open_handlers(version, is_ready=lambda: self._requests is not None)
        routes = [
            StarletteRoute(
                route.path,
                for_all[route.name] if route.open else self._with_key(route.name),
                methods=[route.method],
            )
            for route in ROUTES
            if route.path not in HOT
        ]
        return Starlette(
            routes=routes,
            exception_handlers=dict.fromkeys((HTTPException, *EXPECTED, Exception), self._failed),
        )

    def _with_key(self, name: str) -> Open:
        """Return what answers at a route to whoever shows a key."""

        async def handle(request: Request) -> Response:
            principal = await self.caller_of(headers_of(request.scope))
            if (handler := self._handlers.get(name)) is None:
                raise Refusal(NOT_READY)
            try:
                if "wait_s" not in request.query_params:
                    return await handler(principal, request)
                async with self._waiting.held((principal.tenant, principal.key)):
                    return await handler(principal, request)
            except ConnectionError:
                log.debug("client left before its request was whole path=%s", request.url.path)
                return Response(status_code=_LEFT)

        return handle

    async def _failed(self, request: Request, error: Exception) -> Response:
        problem = _of_router(request, error) if isinstance(error, HTTPException) else problem_of(error)
        request_id = request.scope[REQUEST]
        status, content = _dialect_of(request.url.path).error(problem, request_id)
        headers = {name.decode(): value.decode() for name, value in retry_headers(problem)}
        headers |= {"www-authenticate": "Bearer"} if status == 401 else {}
        headers |= {"allow": self._allowed(request)} if status == 405 else {}
        return Response(content, status, headers, media_type="application/json")

    def _allowed(self, request: Request) -> str:
        """Return the methods that are taken at the path of a request."""
        routes = [route for route in self._others.routes if route.matches(request.scope)[0] is not Match.NONE]
        return ", ".join(sorted({method for route in routes for method in getattr(route, "methods", ())}))

    def _counted(self, send: Send, request: UUID) -> Send:
        """Name each answer, and count it."""
        name = (b"x-request-id", str(request).encode())

        async def named(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), name]
                self._answered("other", message["status"])
            await send(message)

        return named


def _dialect_of(path: str) -> Dialect:
    """Return the dialect in which an error is written at a path that asks no model."""
    return HOT[messages.PATH if path.startswith(f"{messages.PATH}/") else CHAT.path]


def _of_router(request: Request, error: HTTPException) -> Problem:
    path = request.url.path[:200]
    if error.status_code == 405:
        return Problem("wrong_method", f"{path} does not take {request.method}")
    return Problem("unknown_route", f"nothing is served at {path}")


async def _respond(
    send: Send, status: int, content: bytes, names: list[tuple[bytes, bytes]], problem: Problem
) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        *names,
        *retry_headers(problem),
        *([(b"www-authenticate", b"Bearer")] if status == 401 else []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})

"""The way to a broker over HTTP: a `Door` on the same API that everybody has there."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
import msgspec
from msgspec import Meta

from broker.client.door import NotYet, Piece, Question, Reply
from broker.client.errors import RequestRefused, RequestTimedOut, error_of
from broker.client.events import ANSWER, DONE, ERROR, Events
from broker.client.http_files import HttpFiles
from broker.client.reading import StreamText
from broker.errors import Unavailable
from schemas import subjects
from schemas.api import Problem
from schemas.codec import JSON, MSGPACK, UNREADABLE, jsoned
from schemas.endpoints import ENDPOINTS
from schemas.jetstream import Outgoing
from schemas.jetstream.trust import BadTrust, Trust, why
from schemas.subjects import Verb
from schemas.urls import is_loopback, proxy_for, public

_CONNECT_S = 5.0
_STORE_S = 10.0
"""How long a broker may take to store a message. It gives NATS five seconds."""
_GRACE_S = 10.0
"""How long after its time a request may still be answered: the broker says by itself that its time is up."""
_SILENCE_S = 30.0
"""How long a stream may be silent. Its first sign of life may come after 15 s, the others each second."""
_HELD_S = 25.0
"""How long a broker may keep a request for results. Proxies cut connections that are silent for 30 to 60 s."""


class _Fault(msgspec.Struct, frozen=True):
    """An error as OpenAI's API writes it, with what a `Problem` has beyond that."""

    code: str
    message: str
    param: str | None = None
    field: str | None = None
    limit: int | None = None
    retry_after_ms: Annotated[int, Meta(ge=0)] | None = None

    def problem(self) -> Problem:
        return Problem(self.code, self.message, self.field or self.param, self.limit, self.retry_after_ms)


class _Faulty(msgspec.Struct, frozen=True):
    error: _Fault


_JSON = {"content-type": JSON}
_AGAIN_S = 0.1
_faulty = msgspec.json.Decoder(_Faulty)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class HttpDoor:
    """Connections to a broker's API, which are opened as they are needed."""

    def __init__(self, http: aiohttp.ClientSession, url: str, *, tenant: str, key: str) -> None:
        self._http = http
        self._url = url
        self.tenant = tenant
        self.key = key
        self.files = HttpFiles(self._good_answer)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, *, api_key: str | None, trust: Trust | None, tenant: str, key: str
    ) -> "AsyncIterator[HttpDoor]":
        """Raises: Unavailable, RequestRefused."""
        url = url.rstrip("/").removesuffix("/v1")
        if api_key is None and (tenant, key) != (subjects.DEFAULT, subjects.DEFAULT):
            field, name = ("tenant", tenant) if tenant != subjects.DEFAULT else ("key", key)
            raise RequestRefused(
                Problem("bad_name", f"over HTTP only an API key says who calls, not {name!r}", field)
            )
        is_here, context = _checked(url, trust)
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key.strip()}"}
        async with aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, ssl=True if context is None else context),
            skip_auto_headers=["accept-encoding"],
            proxy=None if is_here else proxy_for(url),
        ) as http:
            door = cls(http, url, tenant=tenant, key=key)
            await door.look()
            yield door

    async def look(self) -> None:
        """Say at once if nobody listens there, or if the key is refused. A broker that is starting is good enough."""
        try:
            async with self._answer("GET", "/v1/models", limits=aiohttp.ClientTimeout(total=_CONNECT_S)) as response:
                content = await response.read()
        except TimeoutError as error:
            raise Unavailable("infermq", f"{public(self._url)}: no answer within {_CONNECT_S:.0f} s") from error
        if response.status == 401 and "authorization" not in self._http.headers:
            what = f"{public(self._url)} asks for an API key: set INFERMQ_API_KEY, or INFERMQ_API_KEY_FILE"
            raise RequestRefused(Problem("no_key", what))
        if response.status != 200 and response.status < 500:
            raise self._error(response, content)

    async def call(self, verb: Verb, ask: bytes, *, within_s: float, held_s: float = 0.0) -> bytes:
        query = {"wait_s": f"{held_s:g}"} if held_s else None
        try:
            return await self._post(f"/v1/verbs/{verb}", ask, _JSON, within_s=within_s, query=query)
        except TimeoutError as error:
            raise Unavailable("infermq", f"no answer to {verb} within {within_s:.0f} s") from error

    async def store(self, message: Outgoing, name: str) -> None:
        source = subjects.parse_submit(message.subject)
        query = {"lane": str(source.lane), "model": source.model}
        headers = {"content-type": MSGPACK, "idempotency-key": name}
        try:
            await self._post("/v1/bundles", message.payload, headers, within_s=_STORE_S, query=query)
        except Unavailable as error:
            raise NotYet(error.what, error.why) from error
        except TimeoutError as error:
            raise NotYet("infermq", f"jobs were not stored within {_STORE_S:.0f} s") from error

    async def converse(self, question: Question) -> AsyncGenerator[Piece | Reply, None]:
        if question.job.endpoint not in ENDPOINTS:
            message = f"{question.job.endpoint[:200]!r} is not served: there are {', '.join(ENDPOINTS)}"
            raise RequestRefused(Problem("endpoint_not_served", message, "endpoint"))
        headers = {"x-infermq-timeout-s": f"{question.timeout_s:.3f}", "x-infermq-answer": "true"}
        limits = aiohttp.ClientTimeout(total=question.timeout_s + _GRACE_S, sock_connect=_CONNECT_S)
        path, body = question.job.endpoint, _asking(question.model, question.job.body)
        try:
            async with self._answer("POST", path, body, {**_JSON, **headers}, limits=limits) as response:
                if response.status != 200:
                    raise self._error(response, await response.read())
                job = _job_of(response)
                if response.content_type != "text/event-stream":
                    yield Reply(job, await response.read())
                    return
                async for step in self._steps(response, job):
                    yield step
        except TimeoutError as error:
            raise RequestTimedOut("the broker went silent: ask again") from error

    @asynccontextmanager
    async def news(self, batch: UUID) -> "AsyncIterator[_Held]":  # noqa: ARG002 - what is kept waiting names it
        yield _Held()

    async def _steps(self, response: aiohttp.ClientResponse, job: UUID | None) -> AsyncGenerator[Piece | Reply, None]:
        """Read a stream up to its whole answer. Raises: TimeoutError, too."""
        text, events = StreamText(), Events()
        while True:
            async with asyncio.timeout(_SILENCE_S):
                chunk = await response.content.readany()
            if not chunk:
                raise Unavailable("infermq", "a stream ended before its answer was whole: ask again")
            for name, data in events.of(chunk):
                if name == ANSWER:
                    yield Reply(job, data)
                    return
                if name == ERROR:
                    raise self._error(response, data)
                if data != DONE:
                    yield Piece(data, text.of(data))

    async def _post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, within_s: float, query: Mapping[str, str] | None
    ) -> bytes:
        """Return what is answered. Raises: TimeoutError, and as `Door`."""
        limits = aiohttp.ClientTimeout(total=within_s, sock_connect=_CONNECT_S)
        async with self._good_answer("POST", path, body, headers, limits=limits, query=query) as content:
            return content

    @asynccontextmanager
    async def _good_answer(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        limits: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[bytes]:
        """Ask once, and run the block with what is answered. Raises: TimeoutError, and as `Door`."""
        async with self._answer(method, path, body, headers, limits=limits, query=query) as response:
            content = await response.read()
            if response.status >= 300:
                raise self._error(response, content)
            yield content

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        limits: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask once, and run the block with the answer. Raises: TimeoutError, Unavailable."""
        url = self._url + path
        try:
            async with self._http.request(
                method, url, data=body, headers=headers, params=query, timeout=limits, allow_redirects=False
            ) as response:
                yield response
        except aiohttp.ServerTimeoutError as error:
            raise TimeoutError from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise Unavailable("infermq", f"{public(self._url)}: {_why(error)}") from error

    def _error(self, response: aiohttp.ClientResponse, content: bytes) -> Exception:
        """Make the exception for an answer that says what is wrong."""
        try:
            return error_of(_faulty.decode(content).error.problem())
        except UNREADABLE:
            what = f"{public(self._url)} answers {response.status}, and not as infermq does"
            return Unavailable("infermq", f"{what}: is it the URL of a broker's API over HTTP?")


def _checked(url: str, trust: Trust | None) -> tuple[bool, ssl.SSLContext | None]:
    """Say whether a URL is of this machine, which no proxy reaches, and how TLS is checked there. Raises: Unavailable."""
    try:
        parts = urlsplit(url)
        is_here = is_loopback(parts.hostname or "")
        context = None if trust is None else trust.context()
    except (ValueError, BadTrust) as error:
        raise Unavailable("infermq", f"{public(url)}: {error}") from error
    if trust is not None and not is_here and parts.scheme.lower() != "https":
        raise Unavailable("infermq", f"{public(url)} is without TLS, which the certificates ask for: use https://")
    return is_here, context


class _Held:
    """Results are waited for by requests that the broker keeps until there are some: `News`."""

    held_s = _HELD_S

    def clear(self) -> None:
        """Nothing was told."""

    async def wait(self, timeout_s: float) -> None:
        """Ask again soon: the broker has kept the request as long as it may."""
        await asyncio.sleep(min(timeout_s, _AGAIN_S))


def _asking(model: str, body: bytes) -> bytes:
    """Name the model in a body. One that is no object is left as it is, since the broker says what is wrong with it."""
    try:
        return jsoned({**_fields.decode(body), "model": model})
    except UNREADABLE:
        return body


def _job_of(response: aiohttp.ClientResponse) -> UUID | None:
    try:
        return UUID(response.headers.get("x-request-id", ""))
    except ValueError:
        return None


def _why(error: aiohttp.ClientError | OSError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return why(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return why(error.os_error)
    return why(error)

"""Sends one request to an OpenAI-compatible API, and makes an outcome of its answer. A part of the engine `openai`."""

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import aiohttp
from msgspec.structs import replace

from schemas import lenient
from schemas.outcome import (
    Charge,
    Denied,
    EngineFault,
    EngineLost,
    Failed,
    Failure,
    ResponseTooLarge,
    Succeeded,
    Unanswered,
    Usage,
)
from schemas.units import Ms
from workers.core.answers import OUTAGE
from workers.core.api_error import ApiError, error_in, find_error
from workers.core.assembly import ResponseAssembler
from workers.core.body import BadBody, RequestedOutput, fields_of, has_parts, sound, with_fields
from workers.core.sse import DONE, Events, holds_events
from workers.core.usage import ReportedUsage, reported_in, reported_usage
from workers.ports import LARGEST_BODY, Chunk, EngineRequest, Progress, SoFar, Step

log = logging.getLogger("workers.engines.openai")
PROVIDER = "provider"
"""The source of a charge that the provider itself reported."""
_PROGRESS_S = 5.0
"""How often a request that waits for its answer yields its progress."""
_STREAM_PROGRESS_S = 1.0
"""How often a stream yields what it may have cost so far: computing a price takes a tenth of a millisecond."""
_ERROR_BYTES = 64 * 1024
_LARGEST_STREAM = 128 * 1024 * 1024
"""The most bytes of all events together: there are about 300 around each token."""
_AT_ONCE_S = 1.0
"""A kept connection that ends so soon after a request was sent on it, without a byte, was closed before that came."""
_MOST_SENDS = 8
"""How many kept connections may turn out to be closed before a request counts as unanswered."""
_DOUBTFUL = frozenset({400, 403, 404, 405, 422})
"""Statuses by which both deployments and requests are refused."""
_ANSWERED = frozenset({200, 201, 202, 203})
"""Statuses with which an answer comes. 200 is the usual one."""
PROBE = "probe"
"""The id of the simplest request."""
_DETAIL = 160
"""How many characters of a refusal a beat carries."""


class Api(Protocol):
    """What a call needs of the engine."""

    @property
    def repeats(self) -> bool:
        """Whether a request is sent again when no complete answer came, although it may have been billed."""

    @property
    def cost_at(self) -> tuple[str, ...]:
        """Where an answer says what was charged."""

    async def post(self, request: EngineRequest, body: bytes, *, sending: "Sending") -> aiohttp.ClientResponse:
        """Send a request, and return the response once its headers have come. Raises: aiohttp.ClientError, OSError."""

    def failure(
        self, status: int, error: ApiError | None, headers: dict[str, str], *, added: Collection[str]
    ) -> Failure:
        """Classify an answer that is an error."""

    def charge(
        self, usage: Usage, reported: ReportedUsage | None = None, headers: dict[str, str] | None = None
    ) -> Charge | None:
        """Return what a usage costs, if the API or its list says so."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as it is sent."""

    body: bytes
    requested: RequestedOutput
    limit: str | None
    """The field that limits its output, if another one can. None: the deployment limits it, or it needs no limit."""
    added: frozenset[str]
    """The other fields that it got from the deployment and the profile."""


class TooLarge(Exception):
    """An answer is larger than the worker accepts."""

    def __init__(self, size_bytes: int, *, limit_bytes: int) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.failure = ResponseTooLarge(size_bytes, limit_bytes)


class Sending:
    """How far a request has been sent."""

    def __init__(self) -> None:
        self.headers_sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_reused = False
        """Whether it goes over a connection that an earlier request has opened."""
        self._sent_at = math.inf

    @property
    def is_sent(self) -> bool:
        return self.headers_sent.done()

    def note_sent(self) -> None:
        if not self.is_sent:
            self._sent_at = asyncio.get_running_loop().time()
            self.headers_sent.set_result(None)

    def was_too_late(self, error: Exception) -> bool:
        """Say whether the other side had closed the kept connection when the request came, so that it cannot have run."""
        is_closed = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError)
        return self.is_reused and is_closed and asyncio.get_running_loop().time() - self._sent_at < _AT_ONCE_S


class ApiCall:
    """One request to the API, and its answer."""

    def __init__(self, api: Api, request: EngineRequest, prepared: Prepared) -> None:
        self._api = api
        self.request = request
        self.prepared = prepared
        self.error: ApiError | None = None
        """The error that the API answered, if it did."""
        self._began = asyncio.get_running_loop().time()
        self._last_progress = self._began
        self._sending = Sending()
        self._assembler = ResponseAssembler(request.endpoint)
        """What a stream has said so far."""
        self._chunks = 0
        self._headers: dict[str, str] = {}
        self.is_outage = False
        """Whether it failed in a way that other requests would, too."""
        self.is_doubtful = False
        """Whether only the simplest request tells if its refusal is the deployment's fault: a firewall, say, bars a word."""
        self.failure_detail = "no answer"
        """The HTTP status of its failure, or in a few words why there is none."""

    @property
    def is_probe(self) -> bool:
        return self.request.id == PROBE

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Yield the steps as they come, and while none comes, what the request may have cost so far.

        Progress is also yielded as soon as the request has been sent: from then on, aborting it has a price.
        """
        steps = self._steps()
        waiting: asyncio.Future[Step] | None = None
        try:
            while True:
                waiting = asyncio.ensure_future(anext(steps))
                while not waiting.done():
                    sent = self._sending
                    first: set[asyncio.Future[Any]] = {waiting} if sent.is_sent else {waiting, sent.headers_sent}
                    await asyncio.wait(first, timeout=_PROGRESS_S, return_when=asyncio.FIRST_COMPLETED)
                    if not waiting.done():
                        yield self._progress()
                step = waiting.result()
                yield step
                if isinstance(step, Succeeded | Failed):
                    return
        finally:
            if waiting is not None and not waiting.done():
                waiting.cancel()
                await asyncio.wait({waiting})
            await steps.aclose()

    async def _steps(self) -> AsyncGenerator[Step, None]:
        try:
            async with await self._respond() as response:
                self._headers = {name.lower(): value for name, value in response.headers.items()}
                is_stream = response.content_type == "text/event-stream"
                if response.status in _ANSWERED and is_stream and self.request.streamed:
                    async for step in self._streamed(response):
                        yield step
                else:
                    yield await self._unstreamed(response)
        except (ValueError, RecursionError) as error:  # a BadBody, or what is nested too deep
            yield self._failed(EngineFault(str(error)))
        except TooLarge as error:
            yield self._failed(error.failure)
        except (aiohttp.ClientError, OSError) as error:
            yield self._lost(error)

    async def _respond(self) -> aiohttp.ClientResponse:
        """Send the request; again on another connection, if a kept one turns out to be closed. Raises: as `OpenAI.post`."""
        for left in reversed(range(_MOST_SENDS)):
            try:
                return await self._api.post(self.request, self.prepared.body, sending=self._sending)
            except (aiohttp.ClientError, OSError) as error:
                if left == 0 or not self._sending.was_too_late(error):
                    raise
            self._sending = Sending()
        raise AssertionError("the last send returns or raises")

    def _lost(self, error: aiohttp.ClientError | OSError) -> Failed:
        """Report a connection that failed. A request that was never sent cost nothing."""
        if not self._sending.is_sent:
            log.warning("cannot connect: %s", _line(error))
            self.is_outage, self.failure_detail = True, "no connection"
            return Failed(EngineLost(_line(error), sent=False))
        if isinstance(error, aiohttp.ClientResponseError):  # another protocol at this port, or a broken server
            return self._failed(EngineFault(f"it does not answer in HTTP: {_line(error)}"))
        self.is_outage = not isinstance(error, TimeoutError)
        return self._unanswered(_why_lost(error))

    def _unanswered(self, why: str) -> Failed:
        waited = Ms(int((asyncio.get_running_loop().time() - self._began) * 1000))
        return self._failed(Unanswered(waited, why, self._api.repeats))

    async def _unstreamed(self, response: aiohttp.ClientResponse) -> Step:
        """Read an answer that is not a stream. Raises: BadBody, TooLarge."""
        if response.status not in _ANSWERED:
            return Failed(self._refusal(response.status, error_in(await _read(response.content, _ERROR_BYTES))))
        body = await _read(response.content, LARGEST_BODY)
        if len(body) > LARGEST_BODY:
            raise TooLarge(len(body), limit_bytes=LARGEST_BODY)
        if holds_events(body):
            return self._assembled(body)
        if response.content_type == "text/html" and not body.lstrip().startswith((b"{", b"[")):
            self.failure_detail, self.is_doubtful = "a web page", True
            return Failed(Denied("it answered a web page where JSON was expected: look at base_url"))
        if (error := error_in(body)) is None:
            return self._succeeded(body)
        return self._failed_within(error, lenient.parsed(body), len(body))

    def _assembled(self, stream: bytes) -> Step:
        """Make the answer of a stream that came where none was expected, or under another name. Raises: BadBody."""
        assembler, choices = self._assembler, self.prepared.requested.choices
        for data in Events().all(stream):
            if data == DONE:
                assembler.end()
                choices = 1
                break
            step = self._event(data)
            if isinstance(step, Failed):
                return step
        is_whole = assembler.is_finished(choices)
        return self._succeeded(assembler.body()) if is_whole else self._unanswered("the stream was cut")

    async def _streamed(self, response: aiohttp.ClientResponse) -> AsyncGenerator[Step, None]:
        """Read a stream. It is complete once every choice has ended, whatever follows. Raises: BadBody, TooLarge."""
        assembler, choices = self._assembler, self.prepared.requested.choices
        try:
            async with aclosing(_payloads(response.content)) as payloads:
                async for data in payloads:
                    if data == DONE:
                        choices = 1  # some APIs generate one choice, whatever the request says
                        assembler.end()
                        break
                    step = self._event(data)
                    yield step
                    if isinstance(step, Failed):
                        return
                    if asyncio.get_running_loop().time() - self._last_progress >= _STREAM_PROGRESS_S:
                        yield self._progress()
        except (BadBody, aiohttp.ClientError, OSError):
            if not assembler.is_finished(choices):
                raise
        yield (
            self._succeeded(assembler.body())
            if assembler.is_finished(choices)
            else self._unanswered("the stream was cut")
        )

    def _event(self, data: bytes) -> Chunk | Failed:
        """Turn one payload of the stream into a step. Raises: BadBody."""
        try:
            event = lenient.parsed(data)
            if (error := find_error(event)) is not None:
                return self._failed_within(error, event, len(data))
            self._assembler.add(event)
        except (ValueError, TypeError, AttributeError) as error:
            raise BadBody("it streamed something that is not a JSON object") from error
        self._chunks += bool(event.get("choices"))
        event["model"] = self.request.model
        return Chunk(_streaming_object(event))

    def _failed_within(self, error: ApiError, said: Any, size_bytes: int) -> Failed:
        """Report an error that came inside an answer whose status was 200."""
        failure = self._refusal(error.status, error)
        reported = reported_in(said if isinstance(said, dict) else {}, cost_at=self._api.cost_at)
        if reported.usage is not None:
            return Failed(failure, *self._usage_and_charge(reported, size_bytes))
        return self._failed(failure) if self._chunks else Failed(failure)

    def _succeeded(self, body: bytes) -> Step:
        """Turn a complete response into an outcome. Raises: BadBody."""
        body, is_mended = sound(body)
        reported, fields = reported_usage(body, cost_at=self._api.cost_at), fields_of(body)
        parts = self.request.endpoint.parts
        if not has_parts(fields.get(parts)):
            raise BadBody(f"it answered JSON without {parts}")
        usage, charge = self._usage_and_charge(reported, len(body))
        if len(body) > LARGEST_BODY:
            return Failed(ResponseTooLarge(len(body), LARGEST_BODY), usage, charge)
        if is_mended:
            log.warning("the answer held what is no JSON, and was mended request=%s", self.request.id)
        return Succeeded(with_fields(fields, model=self.request.model), usage, charge, is_mended)

    def _usage_and_charge(self, reported: ReportedUsage, size_bytes: int) -> tuple[Usage, Charge | None]:
        """Return what an answer used and cost: what it says itself, else an estimate by its size."""
        if (usage := reported.usage) is not None:
            if not usage.input_tokens:  # no prompt has none
                usage = replace(usage, input_tokens=self._prompt_tokens, estimated=True)
            return usage, self._api.charge(usage, reported, self._headers)
        output = min(self.prepared.requested.output_tokens, self._chunks or math.ceil(size_bytes / 4))
        usage = Usage(self._prompt_tokens, output, estimated=True)
        return usage, self._api.charge(usage, reported, self._headers)

    @property
    def _prompt_tokens(self) -> int:
        """An estimate: four bytes a token."""
        return math.ceil(len(self.request.body) / 4)

    def _so_far(self) -> tuple[Usage, Charge | None]:
        """Estimate what was used so far by what a stream has counted; all requested output until it shows how much came."""
        reported = reported_in({"usage": self._assembler.usage}, cost_at=self._api.cost_at)
        counted = reported.usage or Usage()
        usage = Usage(
            counted.input_tokens or self._prompt_tokens,
            max(counted.output_tokens, self._chunks) or self.prepared.requested.output_tokens,
            counted.cached_tokens,
            estimated=True,
        )
        return usage, self._api.charge(usage, reported)

    def _progress(self) -> Progress:
        self._last_progress = asyncio.get_running_loop().time()
        if not self._sending.is_sent:
            return Progress()
        return Progress(*self._so_far(), so_far=self._come_to)

    def _come_to(self) -> SoFar:
        """Say what the request has come to: of an answer that is not streamed, nothing is known before its end."""
        usage, charge = self._so_far()
        return SoFar(self._assembler.cancelled_body(model=self.request.model), usage, charge)

    def _refusal(self, status: int, error: ApiError | None) -> Failure:
        """Classify an error of the API, and remember its status and whether other requests would meet it."""
        self.is_outage, self.is_doubtful = status in OUTAGE, status in _DOUBTFUL
        self.failure_detail, self.error = str(status), error
        failure = self._api.failure(status, error, self._headers, added=self.prepared.added)
        if isinstance(failure, Denied) and (status < 400 or (error is not None and error.message)):
            self.failure_detail = failure.message[:_DETAIL]
        return failure

    def _failed(self, failure: Failure) -> Failed:
        """Report a failure together with the most that the request may have cost."""
        return Failed(failure, *self._so_far())


def _streaming_object(event: dict[str, Any]) -> bytes:
    """Encode an object of a stream. Half a character may stay, since its other half is in the next object."""
    try:
        return json.dumps(event, allow_nan=False).encode()
    except ValueError:
        return lenient.mended(json.dumps(event).encode())


async def note_reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.is_reused = True


async def note_sent_headers(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.note_sent()


async def _read(content: aiohttp.StreamReader, most_bytes: int) -> bytes:
    """Read a body to its end, or to a little beyond `most_bytes`."""
    body = bytearray()
    async for piece in content.iter_any():
        body += piece
        if len(body) > most_bytes:
            break
    return bytes(body)


async def _payloads(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Yield the payload of each event of a stream. Raises: TooLarge."""
    events, size_bytes = Events(), 0
    async for piece in content.iter_any():
        size_bytes += len(piece)
        for data in events.feed(piece):
            yield data
        if size_bytes > _LARGEST_STREAM:
            raise TooLarge(size_bytes, limit_bytes=_LARGEST_STREAM)
        if events.pending_bytes > LARGEST_BODY:
            raise TooLarge(events.pending_bytes, limit_bytes=LARGEST_BODY)
    for data in events.end():
        yield data


def _why_lost(error: aiohttp.ClientError | OSError) -> str:
    match error:
        case aiohttp.ServerTimeoutError():
            return "no data came for too long"
        case TimeoutError():
            return "the attempt took too long"
        case _:
            return _line(error)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

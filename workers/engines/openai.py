"""Calls any OpenAI-compatible HTTP API, a provider's or a self-hosted server's. How they differ is data: providers.toml.

A body is sent unchanged except for the model's name and the token limit. If no complete answer arrives, the most that the
request can have cost is recorded as an estimate.
"""

import asyncio
import contextlib
import json
import logging
import math
import os
import tomllib
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from types import SimpleNamespace
from typing import Annotated, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
from msgspec import Meta
from msgspec.structs import replace

from schemas import lenient
from schemas.catalog import Deployment, base_url_problem
from schemas.clock import steady_clock
from schemas.endpoints import Endpoint, Shape
from schemas.outcome import (
    BadRequest,
    Charge,
    ContextTooLong,
    Denied,
    EngineFault,
    EngineLost,
    Failed,
    Failure,
    Filtered,
    ResponseTooLarge,
    Succeeded,
    Throttled,
    Unanswered,
    Usage,
    failure_kind,
    public_message,
)
from schemas.units import Ms
from schemas.worker import DENIED, THROTTLED, UPSTREAM_DOWN
from workers.core.address import ApiAddress, said_target
from workers.core.alike import PROBE_TOKENS, Alike, simplest_request
from workers.core.answers import OUTAGE, failure_of, is_about_field
from workers.core.api_error import ApiError, error_in, find_error
from workers.core.assembly import ResponseAssembler
from workers.core.body import (
    BadBody,
    RequestedOutput,
    asks_for_length,
    fields_of,
    has_parts,
    requested_output,
    sound,
    with_fields,
)
from workers.core.pause import Pause
from workers.core.sse import DONE, Events, holds_events
from workers.core.usage import ReportedUsage, reported_usage, usd_of
from workers.engines.prices import is_listed, list_price, nano_usd
from workers.ports import (
    LARGEST_BODY,
    Capacity,
    Chunk,
    Clock,
    EngineConfigError,
    EngineRequest,
    Overrides,
    Progress,
    Step,
)

log = logging.getLogger(__name__)
STEADY = steady_clock()
PROVIDER = "provider"
"""The source of a charge that the provider itself reported."""
_DEFAULT_SLOTS = 32
_DENIED_MS = Ms(30_000)
"""How long to send nothing after the provider refused the account. A guess."""
_PROGRESS_S = 5.0
"""How often a request that waits for its answer yields its progress."""
_STREAM_PROGRESS_S = 1.0
"""How often a stream yields what it may have cost so far: computing a price takes a tenth of a millisecond."""
_ERROR_BYTES = 64 * 1024
_LARGEST_STREAM = 128 * 1024 * 1024
"""The most bytes of all events together: there are about 300 around each token."""
_KEEPALIVE_S = 4.0
"""How long an idle connection is kept. Many servers close theirs after 5 s (uvicorn, Node's http)."""
_MOVED = frozenset({301, 302, 307, 308})
_AT_ONCE_S = 1.0
"""A kept connection that ends so soon after a request was sent on it, without a byte, was closed before that came."""
_MOST_SENDS = 8
"""How many kept connections may turn out to be closed before a request counts as unanswered."""
PROBE = "probe"
"""The id of the simplest request."""
_PROBE_S = 10.0
"""How long the simplest request may take. If the API is that slow, jobs will show what is wrong."""
_DETAIL = 160
"""How many characters of a refusal a beat carries."""
_MARGIN_S = 1.0
"""How much earlier than the worker the engine times out, so that it can still say what was sent."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of providers.toml, which describes the fields."""

    hosts: tuple[str, ...] = ()
    base_url: str = ""
    key_env: str = ""
    prices: str = ""
    cost_at: tuple[str, ...] = ()
    cost_header: str = ""
    headers: dict[str, str] = {}
    body: dict[str, Any] = {}
    limit: str = "max_tokens"
    denied: tuple[str, ...] = ()


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    profile: str | None = None
    """An entry of providers.toml. None: the one that lists the host of `base_url`."""
    body: dict[str, Any] = {}
    """Fields to add to every request that does not have them: routing, fallback models, service tier …"""
    headers: dict[str, str] = {}
    connect_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0
    silence_timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 600.0
    """The longest time without a byte once the request has been sent."""
    repeat_unanswered: bool = True
    """Whether to send a request again when no complete answer came, although it may have been billed."""
    list_prices: bool = True
    """Whether genai-prices comes before the deployment's own price for a response without a cost."""


@cache
def profiles() -> dict[str, Profile]:
    text = files("workers.engines").joinpath("providers.toml").read_text()
    return msgspec.convert(tomllib.loads(text), dict[str, Profile])


def profile_of(name: str | None, base_url: str) -> Profile:
    """Return the profile of this name; without a name, the one that lists the host. Raises: EngineConfigError."""
    known = profiles()
    if name is not None:
        if name not in known:
            raise EngineConfigError(f"options of the engine 'openai': no profile {name!r}; known: {', '.join(known)}")
        return known[name]
    host = f".{urlsplit(base_url).hostname or ''}"
    found = (p for p in known.values() if any(host.endswith(f".{end.removeprefix('.')}") for end in p.hosts))
    return next(found, known["generic"])


def make(deployment: Deployment, overrides: Overrides, *, clock: Clock = STEADY) -> "OpenAI":
    try:
        options = msgspec.convert(deployment.options, Options)
    except msgspec.ValidationError as error:
        known = ", ".join(Options.__struct_fields__)
        raise EngineConfigError(f"options of the engine 'openai': {error}; known: {known}") from error
    profile = profile_of(options.profile, deployment.base_url or "")
    base_url = deployment.base_url or profile.base_url
    if (problem := base_url_problem(base_url)) is not None:
        raise EngineConfigError(f"the engine 'openai' needs `base_url`: {problem}")
    if not deployment.source:
        raise EngineConfigError("the engine 'openai' needs `source`: the provider's name of the model")
    _check_cap(deployment, options, profile)
    slots = overrides.slots or deployment.max_concurrency or _DEFAULT_SLOTS
    key = _key(profile.key_env if deployment.key_env is None else deployment.key_env)
    capacity = Capacity(slots, deployment.reserve)
    return OpenAI(
        deployment,
        options,
        profile,
        base_url=base_url,
        key=key,
        capacity=capacity,
        clock=clock,
        probe=overrides.probe,
    )


def _check_cap(deployment: Deployment, options: Options, profile: Profile) -> None:
    """Refuse a daily cap that could never be reached because nothing would have a cost. Raises: EngineConfigError."""
    is_reported = bool(profile.cost_at or profile.cost_header)
    is_priced = options.list_prices and bool(profile.prices) and is_listed(deployment.source, profile.prices)
    if deployment.daily_cap_usd is not None and deployment.price is None and not is_reported and not is_priced:
        raise EngineConfigError(
            f"`daily_cap_usd` needs a price: neither the API nor genai-prices says what {deployment.source!r} costs; "
            "set `price` of the deployment"
        )


def _proxy_for(base_url: str) -> str | None:
    """Return the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).

    aiohttp's own `trust_env` would also send the passwords in ~/.netrc.
    """
    url = urlsplit(base_url)
    if proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    proxy = getproxies().get(url.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _key(variable: str) -> str:
    """Read the key from the worker's environment; "" without a variable. Raises: EngineConfigError."""
    if variable and not os.environ.get(variable):
        raise EngineConfigError(f"the key is missing: set the environment variable {variable} of the worker")
    return os.environ[variable].strip() if variable else ""


class OpenAI:
    """An engine that sends each request to one model of one API, and pauses while the API serves nobody."""

    def __init__(
        self,
        deployment: Deployment,
        options: Options,
        profile: Profile,
        *,
        base_url: str,
        key: str,
        capacity: Capacity,
        clock: Clock,
        probe: tuple[Endpoint, ...] = (),
    ) -> None:
        """`probe`: the endpoints of which one is tried at the start."""
        self._deployment = deployment
        self._options = options
        self._profile = profile
        self._address = ApiAddress.of(base_url)
        self._has_moved = False
        """Whether a move of the API was followed, and it has not served since: it may send everybody round in circles."""
        self._key = key
        self._most = capacity
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._pause = Pause()
        self._probe = probe
        self._alike = Alike()
        self._trying = asyncio.Lock()
        self._refusal: Denied | None = None
        """How the simplest request was refused when it was last tried."""
        self._limits: list[str | None] = [
            profile.limit,
            *({"max_tokens", "max_completion_tokens"} - {profile.limit}),
            None,
        ]
        """The fields that may limit a chat's output, from the one to use on. Those before it were refused."""

    async def start(self) -> Capacity:
        """Connect, and try the simplest request, so that a wrong key, path or model costs no job."""
        options, limit = self._options, self._most.slots + self._most.reserve
        headers = {"Content-Type": "application/json", **self._profile.headers, **options.headers}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reused)
        trace.on_request_headers_sent.append(_note_sent)
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=limit, keepalive_timeout=_KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(
                total=max(_MARGIN_S, self._deployment.attempt_timeout_s - _MARGIN_S),
                sock_connect=options.connect_timeout_s,
                sock_read=options.silence_timeout_s,
            ),
            proxy=_proxy_for(self._address.url("")),
            trace_configs=[trace],
        )
        if self._probe:
            await self._try_simplest(self._probe)
        return self._most

    def capacity(self) -> Capacity:
        """Offer no slot during a pause, then a single one until the API has answered, then all."""
        now = self._clock()
        if self._pause.left_ms(now):
            return Capacity(0, 0, self._pause.state(now))
        if self._pause.is_in_doubt:
            return Capacity(1, min(1, self._most.reserve), self._pause.state(now))
        return self._most

    async def gone(self) -> str:
        await asyncio.Event().wait()
        return "never"

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        while True:
            try:
                prepared = self._prepared(request)
            except BadBody as error:
                yield Failed(BadRequest(str(error)))
                return
            call = ApiCall(self, request, prepared)
            async with aclosing(call.steps()) as steps:
                async for step in steps:
                    if isinstance(step, Failed) and self._learns(call):
                        break
                    yield await self._judged(step, call) if isinstance(step, Succeeded | Failed) else step
                else:
                    return

    def _learns(self, call: "ApiCall") -> bool:
        """If the API refuses the field by which the engine limits the output, take another one; say whether it is learnt."""
        field, error = call.prepared.limit, call.error
        is_chats = call.request.endpoint.shape is Shape.CHAT
        if field is None or error is None or not is_chats or not is_about_field(error, field):
            return False
        if field == self._limits[0]:
            del self._limits[0]
            log.info("the API refuses %s, so %s is sent from now on", field, self._limits[0] or "no limit")
        return True

    async def _judged(self, outcome: Succeeded | Failed, call: "ApiCall") -> Succeeded | Failed:
        """Return an outcome as what it is: a refusal of the deployment, if the simplest request is answered alike."""
        match outcome:
            case Succeeded():
                self._alike.answered()
                self._has_moved = False
            case Failed(BadRequest() | EngineFault() as failure) if call.is_probe:
                outcome = Failed(Denied(f"it answers the simplest request: {public_message(failure)}"))
                call.failure_detail = f"{call.failure_detail} to the simplest request"
            case Failed(BadRequest() | EngineFault() as failure) if not call.is_outage:
                self._alike.failed(public_message(failure))
                if self._alike.is_suspicious and (refusal := await self._refusal_of_all(call.request.endpoint)):
                    return Failed(refusal)
        self._pause_or_resume(outcome, call)
        return outcome

    async def _refusal_of_all(self, endpoint: Endpoint) -> Denied | None:
        """Try the simplest request, as all others fail alike. Return how it is refused; None if it is served."""
        async with self._trying:
            if self._alike.is_suspicious and not self._pause.left_ms(self._clock()):
                self._refusal = await self._try_simplest((endpoint,))
                if self._refusal is None:
                    self._alike.answered()
        return self._refusal

    async def _try_simplest(self, endpoints: Sequence[Endpoint]) -> Denied | None:
        """Send the simplest request to the endpoints until one serves it. Return how the last refused it, which has begun a
        pause; None if one served it, or did not answer in time.
        """
        refusal: Denied | None = None
        for endpoint in endpoints:
            body = simplest_request(endpoint)
            request = EngineRequest(
                PROBE, self._deployment.source, endpoint, body, PROBE_TOKENS, streamed=False, priority=0
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_S), aclosing(self.run(request)) as steps:
                    async for step in steps:
                        if isinstance(step, Succeeded):
                            return None
                        if isinstance(step, Failed) and isinstance(step.failure, Denied):
                            refusal = step.failure
        if refusal is not None:
            log.error("the API does not serve this deployment: %s", public_message(refusal))
        return refusal

    def _pause_or_resume(self, outcome: Succeeded | Failed, call: "ApiCall") -> None:
        """Begin a pause if the outcome shows that other requests would fail too; end the doubt if the API answered."""
        now, begin = self._clock(), partial(self._pause.begin, detail=call.failure_detail)
        was_paused = bool(self._pause.left_ms(now))
        match outcome:
            case Failed(Throttled(retry_after)):
                begin(now, cause=THROTTLED, for_ms=retry_after)
            case Failed(Denied()):
                begin(now, cause=DENIED, for_ms=_DENIED_MS)
            case Failed(EngineFault() | EngineLost() | Unanswered()) if call.is_outage:
                begin(now, cause=UPSTREAM_DOWN)
            case Succeeded() | Failed(BadRequest() | ContextTooLong() | Filtered() | ResponseTooLarge()):
                self._pause.answered()
            case _:
                pass
        if isinstance(outcome, Failed) and not was_paused and (left_ms := self._pause.left_ms(now)):
            log.warning("nothing is sent for %d ms failure=%s", left_ms, failure_kind(outcome.failure))

    def _prepared(self, request: EngineRequest) -> "Prepared":
        """Build the body to send, for the provider's model and within the token limit. Raises: BadBody."""
        fields = fields_of(request.body)
        extra = {**self._profile.body, **self._options.body}
        added: dict[str, Any] = {name: value for name, value in extra.items() if name not in fields}
        changes: dict[str, Any] = {**added, "model": self._deployment.source}
        endpoint, limit = request.endpoint, None
        if endpoint.can_stream:
            changes["stream"] = request.streamed
            changes["stream_options"] = {"include_usage": True} if request.streamed else None
        is_limited = asks_for_length(fields, endpoint) or bool(changes.keys() & set(endpoint.limits))
        if endpoint.limits and not is_limited:
            limit = self._limits[0] if endpoint.shape is Shape.CHAT else endpoint.limits[0]
            changes |= {} if limit is None else {limit: request.max_output_tokens}
        body = with_fields(fields, **changes)
        requested = requested_output(body, endpoint, max_output_tokens=request.max_output_tokens)
        return Prepared(body, requested, limit, frozenset(added))

    async def post(self, request: EngineRequest, body: bytes, *, sending: "Sending") -> aiohttp.ClientResponse:
        """Send a request, and return the response once its headers have come. Raises: aiohttp.ClientError, OSError.

        If the API has moved within its host, the request follows it, as do all later ones.
        """
        assert self._session is not None  # noqa: S101 - it was started
        path = request.endpoint.path.removeprefix("/v1")
        post = partial(self._session.post, data=body, allow_redirects=False, trace_request_ctx=sending)
        response = await post(self._address.url(path))
        moved = None
        if response.status in _MOVED and not self._has_moved:
            moved = self._address.moved(response.headers.get("Location", ""), path=path)
        if moved is None:
            return response
        response.release()
        log.warning("the API has moved to %s: set base_url", said_target(moved.url("")))
        self._address, self._has_moved = moved, True
        return await post(moved.url(path))

    @property
    def cost_at(self) -> tuple[str, ...]:
        return self._profile.cost_at

    @property
    def repeats(self) -> bool:
        return self._options.repeat_unanswered

    def failure(
        self, status: int, error: ApiError | None, headers: dict[str, str], *, added: Collection[str]
    ) -> Failure:
        """Classify an answer that is an error. The key is removed from its text.

        An error about a field that the deployment has `added` is not the request's.
        """
        if error is not None and self._key:
            error = replace(error, message=error.message.replace(self._key, "…"))
        field = next((name for name in added if error is not None and is_about_field(error, name)), None)
        if error is not None and field is not None:
            return Denied(f"{status}: {error.message} (the deployment adds {field!r}: see its option `body`)")
        return failure_of(
            status,
            error,
            headers,
            denied=self._profile.denied or profiles()["generic"].denied,
            context_tokens=self._deployment.context_tokens,
            now=self._clock(),
        )

    def charge(
        self, usage: Usage, reported: ReportedUsage | None = None, headers: dict[str, str] | None = None
    ) -> Charge | None:
        """Return what the provider says it charged, else its list price, else None: settle then uses the deployment's."""
        usd = reported.cost_usd if reported is not None else None
        usd = usd_of((headers or {}).get(self._profile.cost_header)) if usd is None else usd
        if usd is not None:
            return Charge(nano_usd(usd), PROVIDER)
        if not self._options.list_prices or not self._profile.prices:
            return None
        model = (reported.model if reported else None) or self._deployment.source
        return list_price(usage, model=model, provider=self._profile.prices) or list_price(
            usage, model=self._deployment.source, provider=self._profile.prices
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as it is sent."""

    body: bytes
    requested: RequestedOutput
    limit: str | None
    """The field by which the engine limits its output. None: it limits itself, or needs no limit."""
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

    def __init__(self, api: OpenAI, request: EngineRequest, prepared: Prepared) -> None:
        self._api = api
        self.request = request
        self.prepared = prepared
        self.error: ApiError | None = None
        """The error that the API answered, if it did."""
        self._began = asyncio.get_running_loop().time()
        self._last_progress = self._began
        self._sending = Sending()
        self._chunks = 0
        self._headers: dict[str, str] = {}
        self.is_outage = False
        """Whether it failed in a way that other requests would, too."""
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
                if response.status == 200 and is_stream and self.request.streamed:
                    async for step in self._streamed(response):
                        yield step
                else:
                    yield await self._unstreamed(response)
        except BadBody as error:
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
        self.is_outage = not isinstance(error, TimeoutError)
        return self._unanswered(_why_lost(error))

    def _unanswered(self, why: str) -> Failed:
        waited = Ms(int((asyncio.get_running_loop().time() - self._began) * 1000))
        return self._failed(Unanswered(waited, why, self._api.repeats))

    async def _unstreamed(self, response: aiohttp.ClientResponse) -> Step:
        """Read an answer that is not a stream. Raises: BadBody, TooLarge."""
        if response.status != 200:
            return Failed(self._refusal(response.status, error_in(await _read(response.content, _ERROR_BYTES))))
        body = await _read(response.content, LARGEST_BODY)
        if len(body) > LARGEST_BODY:
            raise TooLarge(len(body), limit_bytes=LARGEST_BODY)
        if holds_events(body):
            return self._assembled(body)
        if response.content_type == "text/html":
            self.failure_detail = "a web page"
            return Failed(Denied("it answered a web page where JSON was expected: look at base_url"))
        if response.content_type not in {"application/json", "text/json", "application/octet-stream", "text/plain"}:
            raise BadBody(f"it answered {response.content_type} where JSON was expected")
        return self._succeeded(body) if (error := error_in(body)) is None else self._failed_within(error, body)

    def _assembled(self, stream: bytes) -> Step:
        """Make the answer of a stream that came where none was expected, or under another name. Raises: BadBody."""
        assembler, choices = ResponseAssembler(self.request.endpoint), self.prepared.requested.choices
        for data in Events().all(stream):
            if data == DONE:
                assembler.end()
                choices = 1
                break
            step = self._event(data, assembler)
            if isinstance(step, Failed):
                return step
        is_whole = assembler.is_finished(choices)
        return self._succeeded(assembler.body()) if is_whole else self._unanswered("the stream was cut")

    async def _streamed(self, response: aiohttp.ClientResponse) -> AsyncGenerator[Step, None]:
        """Read a stream. It is complete once every choice has ended, whatever follows. Raises: BadBody, TooLarge."""
        assembler, choices = ResponseAssembler(self.request.endpoint), self.prepared.requested.choices
        try:
            async with aclosing(_payloads(response.content)) as payloads:
                async for data in payloads:
                    if data == DONE:
                        choices = 1  # some APIs generate one choice, whatever the request says
                        assembler.end()
                        break
                    step = self._event(data, assembler)
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

    def _event(self, data: bytes, assembler: ResponseAssembler) -> Chunk | Failed:
        """Turn one payload of the stream into a step. Raises: BadBody."""
        try:
            event = lenient.parsed(data)
            if (error := find_error(event)) is not None:
                return self._failed_within(error, data)
            assembler.add(event)
        except (ValueError, TypeError, AttributeError) as error:
            raise BadBody("it streamed something that is not a JSON object") from error
        self._chunks += bool(event.get("choices"))
        event["model"] = self.request.model
        return Chunk(_streaming_object(event))

    def _failed_within(self, error: ApiError, data: bytes) -> Failed:
        """Report an error that came inside an answer whose status was 200."""
        failure, reported = self._refusal(error.status, error), reported_usage(data, cost_at=self._api.cost_at)
        is_free = reported.usage is None and not self._chunks
        return Failed(failure) if is_free else Failed(failure, *self._usage_and_charge(reported, len(data)))

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
        if reported.usage is not None:
            return reported.usage, self._api.charge(reported.usage, reported, self._headers)
        output = min(self.prepared.requested.output_tokens, self._chunks or math.ceil(size_bytes / 4))
        usage = Usage(self._usage().input_tokens, output, estimated=True)
        return usage, self._api.charge(usage, reported, self._headers)

    def _usage(self) -> Usage:
        """Estimate the usage so far: four bytes a prompt token; all requested output until a stream shows how much came."""
        return Usage(
            math.ceil(len(self.request.body) / 4),
            self._chunks or self.prepared.requested.output_tokens,
            estimated=True,
        )

    def _progress(self) -> Progress:
        self._last_progress = asyncio.get_running_loop().time()
        if not self._sending.is_sent:
            return Progress()
        usage = self._usage()
        return Progress(usage, self._api.charge(usage))

    def _refusal(self, status: int, error: ApiError | None) -> Failure:
        """Classify an error of the API, and remember its status and whether other requests would meet it."""
        self.is_outage, self.failure_detail, self.error = status in OUTAGE, str(status), error
        failure = self._api.failure(status, error, self._headers, added=self.prepared.added)
        if isinstance(failure, Denied) and (status < 400 or (error is not None and error.message)):
            self.failure_detail = failure.message[:_DETAIL]
        return failure

    def _failed(self, failure: Failure) -> Failed:
        """Report a failure together with the most that the request may have cost."""
        usage = self._usage()
        return Failed(failure, usage, self._api.charge(usage))


def _streaming_object(event: dict[str, Any]) -> bytes:
    """Encode an object of a stream. Half a character may stay, since its other half is in the next object."""
    try:
        return json.dumps(event, allow_nan=False).encode()
    except ValueError:
        return lenient.mended(json.dumps(event).encode())


async def _note_reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.is_reused = True


async def _note_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
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
    if (left := events.end()) is not None:
        yield left


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

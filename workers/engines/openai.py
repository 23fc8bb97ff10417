"""Any OpenAI-compatible HTTP API: a provider's, or a server of one's own. What each adds is data: providers.toml.

Bodies go out as they are, but for the model's name and the limit. An answer that never came whole is not forgotten: the
most that it can have cost is recorded as an estimate.
"""

import asyncio
import json
import math
import os
import time
import tomllib
from collections.abc import AsyncGenerator
from contextlib import suppress
from decimal import Decimal
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec import Meta
from msgspec.structs import replace

from schemas.catalog import EMBEDDINGS, Deployment
from schemas.outcome import (
    BadRequest,
    Charge,
    Denied,
    EngineFault,
    EngineLost,
    Failed,
    Failure,
    Succeeded,
    Throttled,
    Unanswered,
    Usage,
)
from schemas.units import Ms
from workers.core.answers import ApiError, error_in, failure_of, status_of
from workers.core.body import BadBody, Spent, asks_for_length, fields_of, spent_of, with_fields
from workers.core.sse import DONE, Events
from workers.core.whole import Whole
from workers.engines.prices import list_price, nano_usd
from workers.ports import Alive, Capacity, Chunk, EngineConfigError, Limits, Request, Step

PROVIDER = "provider"
"""Source of a charge: the provider's own word."""
_DEFAULT_SLOTS = 32
_PAUSE_MS = 30_000
"""How long nothing is sent after the account was refused."""
_LONGEST_PAUSE_MS = 600_000
_LOOK_S = 5.0
_ERROR_BYTES = 64 * 1024
_MARGIN_S = 1.0
"""The engine's own time-out comes before the worker's, so that it can say what was sent."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of providers.toml."""

    hosts: tuple[str, ...] = ()
    base_url: str = ""
    key_env: str = ""
    prices: str = ""
    reports_cost: bool = False
    cost_header: str = ""
    headers: dict[str, str] = {}
    body: dict[str, Any] = {}
    denied: tuple[str, ...] = ()


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    profile: str | None = None
    """An entry of providers.toml. None: found by the host."""
    body: dict[str, Any] = {}
    """Fields of every request, unless it has them itself: routing, fallback models, service tier …"""
    headers: dict[str, str] = {}
    connect_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0
    silence_timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 600.0
    """Longest time without a byte, once the request was sent."""
    repeat_unanswered: bool = True
    """Whether to send it again when no whole answer came, although it may have been billed."""
    list_prices: bool = True
    """Whether a response without a cost is priced by genai-prices before the deployment's own price."""


def profiles() -> dict[str, Profile]:
    text = files("workers.engines").joinpath("providers.toml").read_text()
    return msgspec.convert(tomllib.loads(text), dict[str, Profile])


def profile_of(name: str | None, base_url: str) -> Profile:
    """Raises: EngineConfigError."""
    known = profiles()
    if name is not None:
        if name not in known:
            raise EngineConfigError(f"options of the engine 'openai': no profile {name!r}; known: {', '.join(known)}")
        return known[name]
    host = f".{urlsplit(base_url).hostname or ''}"
    found = (p for p in known.values() if any(host.endswith(f".{end.removeprefix('.')}") for end in p.hosts))
    return next(found, known["generic"])


def make(deployment: Deployment, limits: Limits) -> "OpenAI":
    try:
        options = msgspec.convert(deployment.options, Options)
    except msgspec.ValidationError as error:
        known = ", ".join(Options.__struct_fields__)
        raise EngineConfigError(f"options of the engine 'openai': {error}; known: {known}") from error
    profile = profile_of(options.profile, deployment.base_url or "")
    base_url = (deployment.base_url or profile.base_url).rstrip("/")
    if urlsplit(base_url).scheme not in {"http", "https"} or not urlsplit(base_url).hostname:
        raise EngineConfigError(f"the engine 'openai' needs `base_url`, such as https://host/v1; it is {base_url!r}")
    if not deployment.source:
        raise EngineConfigError("the engine 'openai' needs `source`: the provider's name of the model")
    slots = limits.slots or deployment.max_concurrency or _DEFAULT_SLOTS
    key = _key(profile.key_env if deployment.key_env is None else deployment.key_env)
    capacity = Capacity(slots, deployment.reserve)
    return OpenAI(deployment, options, profile, base_url=base_url, key=key, capacity=capacity)


def _key(variable: str) -> str:
    if variable and not os.environ.get(variable):
        raise EngineConfigError(f"the key is missing: set the environment variable {variable} of the worker")
    return os.environ[variable].strip() if variable else ""


class OpenAI:
    def __init__(
        self,
        deployment: Deployment,
        options: Options,
        profile: Profile,
        *,
        base_url: str,
        key: str,
        capacity: Capacity,
    ) -> None:
        self._deployment = deployment
        self._options = options
        self._profile = profile
        self._base_url = base_url
        self._key = key
        self._most = capacity
        self._session: aiohttp.ClientSession | None = None
        self._paused_until_ms = 0

    async def start(self) -> Capacity:
        options, limit = self._options, self._most.slots + self._most.reserve
        headers = {"Content-Type": "application/json", **self._profile.headers, **options.headers}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=limit, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(
                total=max(_MARGIN_S, self._deployment.attempt_timeout_s - _MARGIN_S),
                sock_connect=options.connect_timeout_s,
                sock_read=options.silence_timeout_s,
            ),
            trust_env=True,
        )
        return self._most

    def capacity(self) -> Capacity:
        """None while the provider asked for patience: what is not sent cannot be refused."""
        return Capacity(0, 0) if _now() < self._paused_until_ms else self._most

    async def gone(self) -> str:
        await asyncio.Event().wait()
        return "never"

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def run(self, request: Request) -> AsyncGenerator[Step, None]:
        try:
            sent = self._prepared(request)
        except BadBody as error:
            yield Failed(BadRequest(str(error)))
            return
        call = Call(self, request, sent)
        async for step in call.steps():
            if isinstance(step, Failed):
                self._heed(step.failure)
            yield step

    def _heed(self, failure: Failure) -> None:
        match failure:
            case Throttled(int() as wait):
                self._paused_until_ms = max(self._paused_until_ms, _now() + min(wait, _LONGEST_PAUSE_MS))
            case Denied():
                self._paused_until_ms = max(self._paused_until_ms, _now() + _PAUSE_MS)
            case _:
                pass

    def _prepared(self, request: Request) -> bytes:
        """Raises: BadBody."""
        fields = fields_of(request.body)
        extra = {**self._profile.body, **self._options.body}
        changes: dict[str, Any] = {name: value for name, value in extra.items() if name not in fields}
        changes["model"] = self._deployment.source
        if request.endpoint == EMBEDDINGS:
            return with_fields(fields, **changes)
        changes["stream"] = request.streamed
        changes["stream_options"] = {"include_usage": True} if request.streamed else None
        if not asks_for_length(fields):
            changes["max_tokens"] = request.max_output_tokens
        return with_fields(fields, **changes)

    def post(self, request: Request, body: bytes) -> Any:
        assert self._session is not None  # noqa: S101 - it was started
        path = request.endpoint.removeprefix("/v1")
        return self._session.post(f"{self._base_url}{path}", data=body, allow_redirects=False)

    @property
    def repeats(self) -> bool:
        return self._options.repeat_unanswered

    def failure(self, status: int, error: ApiError | None, headers: dict[str, str]) -> Failure:
        if error is not None and self._key:
            error = replace(error, message=error.message.replace(self._key, "…"))
        return failure_of(
            status,
            error,
            headers,
            denied=self._profile.denied or profiles()["generic"].denied,
            context_tokens=self._deployment.context_tokens,
            now=Ms(_now()),
        )

    def charge(
        self, usage: Usage, spent: Spent | None = None, headers: dict[str, str] | None = None
    ) -> Charge | None:
        """What the provider says it charged, else its list price, else None: then the deployment's price counts."""
        if spent is not None and self._profile.reports_cost and (cost := spent.cost_usd) is not None and cost >= 0:
            return Charge(nano_usd(Decimal(repr(cost))), PROVIDER)
        if headers and (told := headers.get(self._profile.cost_header)) is not None:
            with suppress(ArithmeticError):
                return Charge(nano_usd(Decimal(told)), PROVIDER)
        if not self._options.list_prices or not self._profile.prices:
            return None
        model = (spent.model if spent else None) or self._deployment.source
        return list_price(usage, model=model, provider=self._profile.prices) or list_price(
            usage, model=self._deployment.source, provider=self._profile.prices
        )

    def estimate(self, usage: Usage) -> Charge | None:
        charge = self.charge(usage)
        return charge and replace(charge, source=f"{charge.source}:estimate")


class Call:
    """One request and its answer."""

    def __init__(self, api: OpenAI, request: Request, body: bytes) -> None:
        self._api = api
        self._request = request
        self._body = body
        self._began = time.monotonic()
        self._chunks = 0
        self._headers: dict[str, str] = {}

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Its steps as they come; now and then that it waits, and what it may have cost by then."""
        steps = self._steps()
        waiting: asyncio.Future[Step] | None = None
        try:
            yield self._alive()
            while True:
                waiting = asyncio.ensure_future(anext(steps))
                while not (await asyncio.wait({waiting}, timeout=_LOOK_S))[0]:
                    yield self._alive()
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
            async with self._api.post(self._request, self._body) as response:
                self._headers = {name.lower(): value for name, value in response.headers.items()}
                is_stream = response.content_type == "text/event-stream"
                if response.status == 200 and is_stream and self._request.streamed:
                    async for step in self._streamed(response):
                        yield step
                else:
                    yield await self._whole(response)
        except aiohttp.ServerTimeoutError as error:
            yield self._too_late(error)
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            yield Failed(EngineLost(f"cannot connect: {_line(error)}"))
        except (aiohttp.ClientError, OSError) as error:
            yield self._unanswered(_line(error))
        except TimeoutError:
            yield self._unanswered("the attempt took too long")

    def _too_late(self, error: aiohttp.ServerTimeoutError) -> Failed:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return Failed(EngineLost("cannot connect in time"))
        return self._unanswered("nothing came for too long")

    async def _whole(self, response: aiohttp.ClientResponse) -> Step:
        if response.status != 200:
            body = await response.content.read(_ERROR_BYTES)
            return Failed(self._api.failure(response.status, error_in(body), self._headers))
        body = await response.read()
        if response.content_type not in {"application/json", "text/json", "application/octet-stream", "text/plain"}:
            return self._broken(f"it answered {response.content_type} where JSON was expected")
        if (error := error_in(body)) is not None and b'"choices"' not in body:
            return Failed(self._api.failure(status_of(error), error, self._headers))
        return self._succeeded(body)

    async def _streamed(self, response: aiohttp.ClientResponse) -> AsyncGenerator[Step, None]:
        whole, events = Whole(self._request.endpoint), Events()
        async for piece in response.content.iter_any():
            yield self._alive()
            for data in events.feed(piece):
                step = self._event(data, whole)
                if step is not None:
                    yield step
                if isinstance(step, Failed):
                    return
        if (left := events.end()) is not None and (step := self._event(left, whole)) is not None:
            yield step
            if isinstance(step, Failed):
                return
        if not whole.is_finished():
            yield self._unanswered("the stream was cut")
            return
        yield self._succeeded(whole.body())

    def _event(self, data: bytes, whole: Whole) -> Chunk | Failed | None:
        if data == DONE:
            return None
        if (error := error_in(data)) is not None:
            failure = self._api.failure(status_of(error), error, self._headers)
            return Failed(failure, self._usage(), self._api.estimate(self._usage()))
        try:
            event = json.loads(data)
            whole.add(event)
        except (ValueError, TypeError, AttributeError, RecursionError):
            return self._broken("it streamed what is no JSON object")
        self._chunks += bool(event.get("choices"))
        event["model"] = self._request.model
        return Chunk(json.dumps(event).encode())

    def _succeeded(self, body: bytes) -> Step:
        try:
            spent, fields = spent_of(body), fields_of(body)
        except BadBody as error:
            return self._broken(str(error))
        if not fields.keys() & {"choices", "data"}:
            return self._broken("it answered JSON that is no response")
        answer = with_fields(fields, model=self._request.model)
        if spent.usage is not None:
            return Succeeded(answer, spent.usage, self._api.charge(spent.usage, spent, self._headers))
        usage = Usage(self._usage().input_tokens, self._chunks or math.ceil(len(body) / 4))
        told = self._api.charge(usage, spent, self._headers)
        return Succeeded(answer, usage, told if told and told.source == PROVIDER else self._api.estimate(usage))

    def _usage(self) -> Usage:
        """At most what has been used so far: four bytes a token, and all that was asked for, unless it came in pieces."""
        prompt = math.ceil(len(self._request.body) / 4)
        if self._request.endpoint == EMBEDDINGS:
            return Usage(prompt)
        return Usage(prompt, self._chunks if self._request.streamed else self._request.max_output_tokens)

    def _alive(self) -> Alive:
        usage = self._usage()
        return Alive(usage, self._api.estimate(usage))

    def _broken(self, why: str) -> Failed:
        return Failed(EngineFault(why), self._usage(), self._api.estimate(self._usage()))

    def _unanswered(self, why: str) -> Failed:
        waited = Ms(int((time.monotonic() - self._began) * 1000))
        usage = self._usage()
        return Failed(Unanswered(waited, why, self._api.repeats), usage, self._api.estimate(usage))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _now() -> int:
    return time.time_ns() // 1_000_000

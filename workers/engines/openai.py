"""Calls any OpenAI-compatible HTTP API, a provider's or a self-hosted server's. How they differ is data: providers.toml.

A body is sent unchanged except for the model's name and the token limit. If no complete answer arrives, the most that the
request can have cost is recorded as an estimate.
"""

import asyncio
import logging
import os
import tomllib
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from functools import cache, partial
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec.structs import replace

from schemas.catalog import Deployment, base_url_problem
from schemas.clock import steady_clock
from schemas.endpoints import Endpoint, Shape
from schemas.engine_options import OpenAiOptions
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
)
from schemas.units import Ms
from schemas.urls import proxy_for
from schemas.worker import DENIED, THROTTLED, UPSTREAM_DOWN
from workers.core.address import Whereabouts, said_target
from workers.core.answers import failure_of, is_about_field, is_unknown_field
from workers.core.api_error import ApiError
from workers.core.body import (
    BadBody,
    asks_for_length,
    fields_of,
    requested_output,
    with_fields,
)
from workers.core.pause import Pause
from workers.core.usage import ReportedUsage, usd_of
from workers.engines.openai_call import PROVIDER, ApiCall, Prepared, Sending, note_reused, note_sent_headers
from workers.engines.openai_simplest import Simplest, is_served
from workers.engines.prices import is_listed, list_price, nano_usd
from workers.ports import (
    Capacity,
    Clock,
    EngineConfigError,
    EngineRequest,
    Overrides,
    Step,
)

log = logging.getLogger(__name__)
STEADY = steady_clock()
_DEFAULT_SLOTS = 32
_DENIED_MS = Ms(30_000)
"""How long to send nothing after the provider refused the account. A guess."""
_KEEPALIVE_S = 4.0
"""How long an idle connection is kept. Many servers close theirs after 5 s (uvicorn, Node's http)."""
_MOVED = frozenset({301, 302, 307, 308})
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
        options = msgspec.convert(deployment.options, OpenAiOptions)
    except msgspec.ValidationError as error:
        known = ", ".join(OpenAiOptions.__struct_fields__)
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


def _check_cap(deployment: Deployment, options: OpenAiOptions, profile: Profile) -> None:
    """Refuse a daily cap that could never be reached because nothing would have a cost. Raises: EngineConfigError."""
    is_reported = bool(profile.cost_at or profile.cost_header)
    is_priced = options.list_prices and bool(profile.prices) and is_listed(deployment.source, profile.prices)
    if deployment.daily_cap_usd is not None and deployment.price is None and not is_reported and not is_priced:
        raise EngineConfigError(
            f"`daily_cap_usd` needs a price: neither the API nor genai-prices says what {deployment.source!r} costs; "
            "set `price` of the deployment"
        )


def _key(variable: str) -> str:
    """Read the key from the worker's environment; "" without a variable. Raises: EngineConfigError."""
    if variable and not os.environ.get(variable):
        raise EngineConfigError(f"the key is missing: set the environment variable {variable} of the worker")
    return os.environ[variable].strip() if variable else ""


class RequestWriter:
    """Makes requests of bodies as the API takes them, and learns from its refusals which field limits the output."""

    def __init__(self, deployment: Deployment, options: OpenAiOptions, profile: Profile) -> None:
        self._source = deployment.source
        self._extra = {**profile.body, **options.body}
        self._limits: list[str | None] = [
            profile.limit,
            *({"max_tokens", "max_completion_tokens"} - {profile.limit}),
            None,
        ]
        """The fields that may limit a chat's output, the one to use first. Those that were refused are gone."""

    def prepared(self, request: EngineRequest) -> Prepared:
        """Build the body to send, for the provider's model and within the token limit. Raises: BadBody."""
        fields = fields_of(request.body)
        added: dict[str, Any] = {name: value for name, value in self._extra.items() if name not in fields}
        changes: dict[str, Any] = {**added, "model": self._source}
        endpoint, limit = request.endpoint, None
        if endpoint.shape is Shape.CHAT and (own := _own_limit(fields, endpoint)) is not None:
            limit = own if own in self._limits else self._limits[0]
            if limit not in {own, None}:  # the API refuses the body's own
                changes |= {own: None, limit: fields[own]}
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

    def learns(self, call: ApiCall) -> bool:
        """If the API refuses the field that limits the output, take another one from now on; say whether it is learnt."""
        field, error = call.prepared.limit, call.error
        is_chats = call.request.endpoint.shape is Shape.CHAT
        if field is None or error is None or not is_chats or not is_unknown_field(error, field):
            return False
        if field in self._limits:
            self._limits.remove(field)
            log.info("the API refuses %s, so %s is sent from now on", field, self._limits[0] or "no limit")
        return True


def _own_limit(fields: dict[str, msgspec.Raw], endpoint: Endpoint) -> str | None:
    """Return the field by which a body limits its output. None: it has none, or several."""
    limits = [name for name in endpoint.limits if bytes(fields.get(name, b"null")) != b"null"]
    return limits[0] if len(limits) == 1 else None


class OpenAI:
    """An engine that sends each request to one model of one API, and pauses while the API serves nobody."""

    def __init__(
        self,
        deployment: Deployment,
        options: OpenAiOptions,
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
        self._whereabouts = Whereabouts(base_url)
        self._key = key
        self._most = capacity
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._pause = Pause()
        self._probe = probe
        self._simplest = Simplest(
            deployment.source, self.run, is_paused=lambda: self._pause.left_ms(self._clock()) > 0
        )
        self._writer = RequestWriter(deployment, options, profile)

    async def start(self) -> Capacity:
        """Connect, and try the simplest request, so that a wrong key, path or model costs no job."""
        options, limit = self._options, self._most.slots + self._most.reserve
        headers = {"Content-Type": "application/json", **self._profile.headers, **options.headers}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(note_reused)
        trace.on_request_headers_sent.append(note_sent_headers)
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=limit, keepalive_timeout=_KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(
                total=max(_MARGIN_S, self._deployment.attempt_timeout_s - _MARGIN_S),
                sock_connect=options.connect_timeout_s,
                sock_read=options.silence_timeout_s,
            ),
            proxy=proxy_for(self._whereabouts.address.url("")),
            trace_configs=[trace],
        )
        if self._probe and is_served(await self._simplest.tried(self._probe)):
            self._pause = Pause()
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
                prepared = self._writer.prepared(request)
            except BadBody as error:
                yield Failed(BadRequest(str(error)))
                return
            call = ApiCall(self, request, prepared)
            async with aclosing(call.steps()) as steps:
                async for step in steps:
                    if isinstance(step, Failed) and self._writer.learns(call):
                        break
                    yield await self._judged(step, call) if isinstance(step, Succeeded | Failed) else step
                else:
                    return

    async def _judged(self, outcome: Succeeded | Failed, call: ApiCall) -> Succeeded | Failed:
        """Return an outcome as what it is: the deployment's fault if the simplest request is refused, else the request's."""
        match outcome:
            case Succeeded():
                self._whereabouts.served()
                if not call.is_probe:
                    self._simplest.other_served()
            case Failed(BadRequest() | EngineFault() as failure) if call.is_probe:
                outcome = self._simplest.judged(failure)
                call.failure_detail = f"{call.failure_detail} to the simplest request"
            case Failed(BadRequest() | EngineFault() as failure) if not call.is_outage:
                if refusal := await self._simplest.is_refused_like(failure, call.request.endpoint):
                    return refusal
            case Failed(Denied(message)) if call.is_doubtful and not call.is_probe:
                if await self._simplest.is_served_instead(call.request.endpoint):
                    outcome = Failed(BadRequest(message))
        self._pause_or_resume(outcome, call)
        return outcome

    def _pause_or_resume(self, outcome: Succeeded | Failed, call: ApiCall) -> None:
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

    async def post(self, request: EngineRequest, body: bytes, *, sending: Sending) -> aiohttp.ClientResponse:
        """Send a request, and return the response once its headers have come. Raises: aiohttp.ClientError, OSError.

        If the API has moved within its host, the request follows it, as do all later ones.
        """
        assert self._session is not None  # noqa: S101 - it was started
        path = request.endpoint.path.removeprefix("/v1")
        post = partial(self._session.post, data=body, allow_redirects=False, trace_request_ctx=sending)
        address = self._whereabouts.address
        response = await post(address.url(path))
        if response.status not in _MOVED:
            return response
        is_first = address == self._whereabouts.address
        moved = self._whereabouts.followed(address, response.headers.get("Location", ""), path=path)
        if moved is None:
            return response
        response.release()
        if is_first:
            log.warning("the API has moved to %s: set base_url", said_target(moved.url("")))
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

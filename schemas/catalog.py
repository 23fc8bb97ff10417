"""Defines the catalog: the models and what serves them. It is one TOML file, applied as a numbered revision.

[models.NAME]                 what producers ask for
[[models.NAME.route]]         deployments, by weight
[models.NAME.retry]           when a failed job is tried again
[deployments.NAME]            one concrete thing that serves a model: engine, source, limits
[deployments.NAME.price]      USD per million tokens
[deployments.NAME.options]    passed to the engine as they are
"""

import tomllib
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from schemas.endpoints import CHAT, ENDPOINTS, EndpointPath
from schemas.outcome import ALWAYS_FINAL, FAILURE_KINDS, UNCOUNTED
from schemas.subjects import token
from schemas.units import LONGEST_NAME, MOST_TOKENS, Instant, Name, Text

_LONGEST_TOKEN = 200
"""A deployment's consumers have its token as their name, which the server (2.15) limits to 255 bytes."""


OWN_VARIABLES = "INFERMQ_"
"""What a worker's own settings begin with, its key among them. No catalog may have them sent to an API."""


class CatalogError(ValueError):
    """A catalog cannot be applied. The message has a line for each fault."""


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    deployment: Name
    weight: Annotated[int, Meta(ge=0, le=1_000_000)] = 100
    """The share of the model's jobs, relative to the other entries. 0 makes a spare. A spare gets a job only if every other
    deployment has failed the job or takes nothing (no worker, draining, paused, daily cap), not if they are full. Spares
    are tried in their order.
    """


MOST_ATTEMPTS_OF_A_JOB = 20
MAX_ATTEMPTS = 3
"""Attempts of a job if neither it nor its model says how many. A guess: two failures may be chance, a third rarely is."""


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a job of the model is tried again after a failure: data for `broker.core.retry`."""

    max_attempts: Annotated[int, Meta(ge=1, le=MOST_ATTEMPTS_OF_A_JOB)] = MAX_ATTEMPTS
    """Attempts of a job that does not say how many it may have. Those that do not count, as when throttled, come on top."""
    backoff_base_s: Annotated[float, Meta(gt=0, le=3600)] = 0.5
    """The longest wait after the first attempt. It doubles with each. It falls short by chance, so that jobs spread."""
    backoff_cap_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    """The longest wait of all. Both are guesses: a restarted engine is back within a minute, and a provider that needs
    longer says so.
    """
    attempts: Annotated[dict[Name, Annotated[int, Meta(ge=0, le=10**6)]], Meta(max_length=100)] = {}
    """By class of failure: with how many attempts it ends the job, if that is fewer than `max_attempts`. 1: it is never
    tried again. A class of `ON_REQUEST` is tried again only if it is named here.
    """


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    endpoints: Annotated[tuple[EndpointPath, ...], Meta(min_length=1, max_length=100)] = (CHAT.path,)
    max_output_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] = 1024
    """The most output tokens that a body may ask for, and what it gets if it does not say."""
    route: Annotated[tuple[Route, ...], Meta(min_length=1, max_length=1000)]
    retry: Retry = Retry()


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price in USD per million tokens."""

    input: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    output: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    cached_input: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    """The price of input tokens from a prefix cache. None: the same as `input`."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    engine: Name
    source: Text = ""
    """A file, a directory, `package:NAME/FILE` (a file in an installed Python package), or a provider's model."""
    context_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] = 2048
    """The most tokens of prompt and output of one request together."""
    max_concurrency: Annotated[int, Meta(ge=0, le=65536)] = 0
    """Slots of one worker. 0: its engine decides."""
    reserve: Annotated[int, Meta(ge=0, le=4096)] = 1
    """Slots of one worker beside those, kept for interactive requests."""
    attempt_timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 300.0
    progress_timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 120.0
    """An attempt that makes no progress for this long is ended."""
    base_url: Text | None = None
    """Engine `openai`: where the API is, up to and with its `/v1`. None: the profile's own."""
    key_env: Text | None = None
    """Engine `openai`: the environment variable of the worker that holds the key. None: the profile's own. Empty: no key."""
    daily_cap_usd: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    """Once today's executions (UTC) have cost this much, nothing more starts here until tomorrow."""
    price: Price | None = None
    options: dict[str, Any] = {}
    """Options of the engine, which refuses those it does not know."""


class Catalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: Annotated[dict[Name, Model], Meta(max_length=10_000)] = {}
    deployments: Annotated[dict[Name, Deployment], Meta(max_length=10_000)] = {}

    def pin(self, name: str) -> tuple[str, str] | None:
        """Read `MODEL@DEPLOYMENT`: the model on this deployment only, whether or not its route has it.

        None: it is the name of a model, or of nothing.
        """
        if "@" not in name or name in self.models or len(name) > LONGEST_NAME:
            return None
        places = (place for place, character in enumerate(name) if character == "@")
        pins = ((name[:place], name[place + 1 :]) for place in places)
        return next((pin for pin in pins if pin[0] in self.models and pin[1] in self.deployments), None)

    def model(self, name: str) -> Model | None:
        """Return the model that a job asks for by this name, which may be a pin."""
        found = self.models.get(name)
        if found is None and (pin := self.pin(name)) is not None:
            return msgspec.structs.replace(self.models[pin[0]], route=(Route(pin[1]),))
        return found


class Revision(msgspec.Struct, frozen=True):
    """A catalog as applied: the value (JSON) of the active key in the CATALOG bucket."""

    number: Annotated[int, Meta(ge=0, lt=2**31)]
    applied_ms: Instant
    catalog: Catalog


def parse(toml: str) -> Catalog:
    """Parse and check a catalog. Raises: CatalogError."""
    try:
        catalog = msgspec.convert(tomllib.loads(toml), Catalog)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CatalogError(str(error)) from error
    if faults := _faults(catalog):
        raise CatalogError("\n".join(faults))
    return catalog


def _faults(catalog: Catalog) -> list[str]:
    faults = []
    for name, model in catalog.models.items():
        faults += [
            f"models.{name}.route: there is no deployment {route.deployment!r}; known: "
            f"{', '.join(sorted(catalog.deployments)) or 'none'}"
            for route in model.route
            if route.deployment not in catalog.deployments
        ]
        faults += [
            f"models.{name}.endpoints: {endpoint!r} is not one of {', '.join(ENDPOINTS)}"
            for endpoint in model.endpoints
            if endpoint not in ENDPOINTS
        ]
        if not any(route.weight for route in model.route):
            faults.append(f"models.{name}.route: every weight is 0: spares need somebody to stand in for")
        if len({route.deployment for route in model.route}) < len(model.route):
            faults.append(f"models.{name}.route: a deployment is there twice")
        faults += [f"models.{name}.retry.{fault}" for fault in _retry_faults(model.retry)]
    faults += [
        f"deployments.{name[:40]}…: in a subject its name has {len(token(name))} characters, the limit is {_LONGEST_TOKEN}: "
        "use fewer, or more of them ASCII letters, digits and hyphens"
        for name in catalog.deployments
        if len(token(name)) > _LONGEST_TOKEN
    ]
    for name, deployment in catalog.deployments.items():
        faults += [
            f"deployments.{name}.{field}: the engine {deployment.engine!r} has none, only 'openai'"
            for field in ("base_url", "key_env")
            if getattr(deployment, field) is not None and deployment.engine != "openai"
        ]
        if (deployment.key_env or "").startswith(OWN_VARIABLES):
            faults.append(f"deployments.{name}.key_env: {OWN_VARIABLES}… are infermq's own: take another variable")
        if deployment.base_url is not None and (problem := base_url_problem(deployment.base_url)) is not None:
            faults.append(f"deployments.{name}.base_url: {problem}")
    return faults


def _retry_faults(retry: Retry) -> list[str]:
    faults = []
    if retry.backoff_cap_s < retry.backoff_base_s:
        faults.append(
            f"backoff_cap_s: it is {retry.backoff_cap_s:g}, less than backoff_base_s ({retry.backoff_base_s:g})"
        )
    for kind, attempts in retry.attempts.items():
        if kind not in FAILURE_KINDS:
            known = ", ".join(sorted(FAILURE_KINDS - ALWAYS_FINAL))
            faults.append(f"attempts: there is no class of failure {kind[:100]!r}; known: {known}")
        elif kind in ALWAYS_FINAL:
            faults.append(
                f"attempts.{kind}: it is never tried again, since the same body would fail again: leave it out"
            )
        elif not 1 <= attempts <= MOST_ATTEMPTS_OF_A_JOB:
            faults.append(f"attempts.{kind}: it is {attempts}, it must be 1 to {MOST_ATTEMPTS_OF_A_JOB}")
        elif kind in UNCOUNTED and attempts > 1:
            faults.append(f"attempts.{kind}: such an attempt does not count: it can only be 1, never tried again")
    return faults


def base_url_problem(base_url: str) -> str | None:
    """Say what is wrong with the address of an API; None if nothing is. It never repeats a password."""
    if any(character.isspace() or not character.isprintable() for character in base_url):
        return "it has a space or an invisible character in it"
    try:
        url = urlsplit(base_url)
        _ = url.port
    except ValueError as error:
        return f"it is no URL ({error})"
    if url.scheme not in {"http", "https"} or not url.hostname:
        return f"it must be a URL such as https://host/v1, it is {base_url[:200].rpartition('@')[2]!r}"
    if "@" in url.netloc:
        return "leave user and password out of it: the key is in the environment variable that `key_env` names"
    if url.fragment or base_url.endswith("#"):
        return "leave out the part after #"
    path = url.path.rstrip("/")
    for endpoint in ENDPOINTS:
        if path.endswith(endpoint.removeprefix("/v1")):
            return f"leave out the endpoint {endpoint.removeprefix('/v1')}: it is added for each request"
    return None

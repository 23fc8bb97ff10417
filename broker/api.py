"""The broker's API over NATS: one FastStream handler a verb. Always JSON; the tenant is the subject's.

An answer with the header `Infermq-Kind: error` is an ErrorBody.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from fast_depends.msgspec import MsgSpecSerializer
from faststream import BaseMiddleware, ExceptionMiddleware
from faststream._internal.constants import PATH_CONTEXT_PREFIX
from faststream._internal.context import Context
from faststream.nats import NatsBroker, NatsPublishCommand, NatsResponse
from nats.aio.client import Client
from nats.errors import MaxPayloadError

from broker.bus.connect import Connection
from broker.bus.heard import Beats, Catalogs
from broker.core.explain import explained, model_statuses, pool_status
from broker.core.pools import Pool
from broker.errors import BadData, Conflict, Unavailable
from broker.ledger import PgLedger
from broker.ports import Clock
from schemas import subjects
from schemas.api import (
    Batch,
    BatchCreate,
    Batches,
    BatchList,
    BatchRef,
    BatchResults,
    BatchSeal,
    CatalogApply,
    CatalogShow,
    ErrorBody,
    JobRef,
    JobShow,
    Nothing,
    Problem,
    ResultPage,
    Status,
)
from schemas.catalog import CatalogError, parse
from schemas.codec import ERROR, KIND, jsoned, place_of
from schemas.ids import why_not
from schemas.subjects import Verb, untoken

log = logging.getLogger(__name__)
T = TypeVar("T")
BROKERS = "brokers"
"""The queue group: each request reaches one broker."""


class _Path(Context):
    """FastStream's `Path()` without a hop to a thread and back for each request: fast-depends takes what is not a coroutine
    for blocking (faststream 0.7, fast-depends 3.0).
    """

    async def use(self, /, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override] # either is awaited for
        return super().use(**kwargs)


Tenant = Annotated[str, _Path(prefix=PATH_CONTEXT_PREFIX)]


class Unfit(Exception):
    """A request that cannot be answered as it is."""

    def __init__(self, code: str, message: str, *, field: str | None = None, limit: int | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(code, message, field, limit)


def _found(answer: T | None, what: str) -> T:
    if answer is None:
        raise Unfit(f"unknown_{what.partition(' ')[0]}", f"there is no {what}", field="id")
    return answer


class _Connected(NatsBroker):
    """On a connection of our kind."""

    async def _connect(self) -> Client:
        nc = Connection()
        await nc.connect(**self._connection_kwargs)
        self.config.connect(nc)
        return nc


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One method a verb: the request, as JSON, and the subject's tenant in; the answer out."""

    name: str
    version: str
    ledger: PgLedger
    catalogs: Catalogs
    beats: Beats
    pools: Callable[[], Mapping[str, Pool]]
    clock: Clock

    def on(self, url: str) -> NatsBroker:
        """The handlers on a connection of their own, not yet started."""
        app = _Connected(
            url,
            name=f"infermq-api-{self.name}",
            serializer=MsgSpecSerializer(use_fastdepends_errors=False),
            middlewares=[_errors(), _Fitting],
            max_reconnect_attempts=-1,
            logger=None,
        )
        for verb in Verb:
            app.subscriber(subjects.api_pattern(verb), queue=BROKERS)(getattr(self, verb.replace("-", "_")))
        return app

    async def batch_create(self, ask: BatchCreate, tenant: Tenant) -> Batch:
        if wrong := why_not(ask.id, self.clock()):
            raise Unfit("bad_id", f"the id {ask.id} {wrong}", field="id")
        return await self.ledger.create_batch(ask, untoken(tenant), self.clock())

    async def batch_seal(self, ask: BatchSeal, tenant: Tenant) -> Batch:
        return _found(
            await self.ledger.seal_batch(ask.id, untoken(tenant), ask.jobs, self.clock()), f"batch {ask.id}"
        )

    async def batch_show(self, ask: BatchRef, tenant: Tenant) -> Batch:
        return _found(await self.ledger.batch(ask.id, untoken(tenant)), f"batch {ask.id}")

    async def batch_list(self, ask: BatchList, tenant: Tenant) -> Batches:
        return Batches(await self.ledger.batches(untoken(tenant), ask.limit, ask.before))

    async def batch_results(self, ask: BatchResults, tenant: Tenant) -> ResultPage:
        try:
            page = await self.ledger.results(ask.id, untoken(tenant), ask.cursor, ask.limit)
        except ValueError as error:
            raise Unfit("bad_cursor", str(error), field="cursor") from error
        return _found(page, f"batch {ask.id}")

    async def job_show(self, ask: JobRef, tenant: Tenant) -> JobShow:
        job = _found(await self.ledger.job(ask.id, untoken(tenant)), f"job {ask.id}")
        return explained(job, catalog=self.catalogs.active.catalog, pools=self.pools(), now=self.clock())

    async def catalog_apply(self, ask: CatalogApply, tenant: Tenant) -> CatalogShow:
        try:
            parse(ask.toml)
        except CatalogError as error:
            raise Unfit("bad_catalog", str(error), field="toml") from error
        revision = await self.ledger.apply_catalog(ask.toml, untoken(tenant), self.clock())
        await self.catalogs.publish(revision)
        return CatalogShow(revision.number, revision.applied_ms, ask.toml)

    async def catalog_show(self, ask: Nothing) -> CatalogShow:
        del ask
        active = await self.ledger.active_catalog()
        if active is None:
            raise Unfit("no_catalog", "no catalog was applied yet: infermq apply FILE")
        revision, toml = active
        return CatalogShow(revision.number, revision.applied_ms, toml)

    async def status(self, ask: Nothing) -> Status:
        del ask
        leadership = await self.ledger.leader()
        pools, backlog = self.pools(), await self.ledger.backlog(self.clock())
        return Status(
            name=self.name,
            version=self.version,
            now_ms=self.clock(),
            database_now_ms=await self.ledger.database_now(),
            leader=leadership.holder if leadership else None,
            term=leadership.term if leadership else 0,
            revision=self.catalogs.active.number or None,
            workers=tuple(sorted(self.beats.alive(), key=lambda beat: (beat.deployment, beat.worker))),
            backlog=tuple(backlog),
            pools=tuple(pool_status(pools[name]) for name in sorted(pools)),
            models=model_statuses(self.catalogs.active.catalog, pools, backlog),
        )


class _Fitting(BaseMiddleware[NatsPublishCommand, Any]):
    """An answer that no message can carry becomes one that says so."""

    async def publish_scope(
        self, call_next: Callable[[NatsPublishCommand], Awaitable[object]], cmd: NatsPublishCommand
    ) -> object:
        try:
            return await call_next(cmd)
        except MaxPayloadError:
            cmd.body, cmd.headers = jsoned(ErrorBody(_TOO_LARGE)), {KIND: ERROR}
            return await call_next(cmd)


_TOO_LARGE = Problem(
    "too_large", "the answer is larger than a message of this NATS server may be: ask for less at once"
)


def _errors() -> ExceptionMiddleware:
    """Every exception of a handler becomes an answer."""
    middleware = ExceptionMiddleware()

    @middleware.add_handler(Exception, publish=True)
    async def answer(error: Exception) -> NatsResponse:
        return NatsResponse(jsoned(ErrorBody(_problem(error))), headers={KIND: ERROR})

    return middleware


def _problem(error: Exception) -> Problem:
    match error:
        case Unfit():
            return error.problem
        case msgspec.ValidationError():
            return _invalid(str(error))
        case Unavailable():
            return Problem("unavailable", f"{error}: try again in a moment")
        case Conflict():
            return Problem("conflict", str(error))
        case BadData():
            return Problem("bad_text", f"the request holds text that cannot be stored: {error}")
        case _:
            log.error("api error=%s", type(error).__name__, exc_info=error)
            return Problem("internal", "the broker failed on this request; its log says why")


def _invalid(message: str) -> Problem:
    """The words are msgspec's, of a call whose argument is `ask`."""
    what, path = place_of(message)
    field = path.removeprefix(".ask").removeprefix(".")
    if not field and "got `bytes`" in what:
        what = "the request is not a JSON object"
    return Problem("bad_request", what, field or None)

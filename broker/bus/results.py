"""Publishes and hears the live feed of results: a notice for each job that ended, once the ledger has recorded it."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from broker.core.records import Recorded
from broker.errors import Unavailable
from schemas import subjects
from schemas.api import ResultNotice
from schemas.codec import jsoned
from schemas.jetstream import Message, NatsConnection, NatsError

log = logging.getLogger(__name__)
_MOST_ENTRIES = 2000
"""The most entries in one message."""


async def announce_results(nc: NatsConnection, recorded: Iterable[Recorded]) -> None:
    """Send each tenant and batch a JSON list of its results. Whoever misses one finds it in the ledger."""
    feeds: dict[tuple[str, UUID | None], list[ResultNotice]] = defaultdict(list)
    for one in recorded:
        notice = ResultNotice(job=one.job, state=one.state, custom_id=one.custom_id)
        feeds[one.tenant, one.batch].append(notice)
    for (tenant, batch), notices in feeds.items():
        for start in range(0, len(notices), _MOST_ENTRIES):
            try:
                await nc.publish(subjects.result(tenant, batch), jsoned(notices[start : start + _MOST_ENTRIES]))
            except NatsError as error:
                log.warning("results not announced error=%s", error)


@asynccontextmanager
async def hearing_results(nc: NatsConnection, tenant: str, batch: UUID | None) -> AsyncIterator[asyncio.Event]:
    """Set an event at each notice of a batch while the block runs. A notice may be lost. Raises: Unavailable."""
    async with _hearing(nc, tenant, batch, b"") as heard:
        yield heard


@asynccontextmanager
async def hearing_job(nc: NatsConnection, tenant: str, batch: UUID | None, job: UUID) -> AsyncIterator[asyncio.Event]:
    """Set an event when it is announced that a job has ended, of a batch or of none, while the block runs.

    Raises: Unavailable.
    """
    async with _hearing(nc, tenant, batch, str(job).encode()) as heard:
        yield heard


@asynccontextmanager
async def _hearing(nc: NatsConnection, tenant: str, batch: UUID | None, name: bytes) -> AsyncIterator[asyncio.Event]:
    """Set an event at each notice of a feed that holds the name. Raises: Unavailable."""
    heard = asyncio.Event()

    async def hear(message: Message) -> None:
        if name in message.data:
            heard.set()

    try:
        feed = await nc.subscribe(subjects.result(tenant, batch), cb=hear)
    except NatsError as error:
        raise Unavailable("NATS", str(error) or type(error).__name__) from error
    try:
        yield heard
    finally:
        if not nc.is_closed:
            with suppress(NatsError):
                await feed.unsubscribe()

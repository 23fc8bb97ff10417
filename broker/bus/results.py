"""Publishes the live feed of results: a notice for each job that ended, once the ledger has recorded it."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

from broker.core.records import Recorded
from schemas import subjects
from schemas.api import ResultNotice
from schemas.codec import jsoned
from schemas.jetstream import NatsConnection, NatsError

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

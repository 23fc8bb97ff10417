"""The live feed of results: a notice for each job that ended, after the ledger has it."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

from nats.aio.client import Client
from nats.errors import Error

from broker.core.records import Recorded
from schemas import subjects
from schemas.api import ResultNotice
from schemas.codec import jsoned

log = logging.getLogger(__name__)
_NOTICE = 2000
"""Entries of one message."""


async def announce_results(nc: Client, recorded: Iterable[Recorded]) -> None:
    """One message, a JSON list, for each tenant and batch. One that is not heard is found in the ledger."""
    feeds: dict[tuple[str, UUID | None], list[ResultNotice]] = defaultdict(list)
    for one in recorded:
        notice = ResultNotice(job=one.job, state=one.state, custom_id=one.custom_id)
        feeds[one.tenant, one.batch].append(notice)
    for (tenant, batch), notices in feeds.items():
        for start in range(0, len(notices), _NOTICE):
            try:
                await nc.publish(subjects.result(tenant, batch), jsoned(notices[start : start + _NOTICE]))
            except Error as error:
                log.warning("results not announced error=%s", error)

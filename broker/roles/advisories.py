"""Counts and logs what JetStream gives up on, so that nothing is given up on in silence."""

import logging

from broker.bus.desired import ADVISED
from broker.bus.groups import Groups, ack_all
from broker.metrics import BrokerMetrics
from schemas import subjects
from schemas.jetstream import NatsConnection

log = logging.getLogger(__name__)
_ROOM = 1000
_GROUP_BYTES = 1024 * 1024


async def count_advisories(nc: NatsConnection, metrics: BrokerMetrics) -> None:
    """Run until cancelled."""
    groups = Groups(nc, stream=subjects.ADVISORY, consumer=ADVISED, room=_ROOM, group_bytes=_GROUP_BYTES)
    async with groups.open():
        while True:
            messages = await groups.next()
            for message in messages:
                kind, _, where = message.subject.removeprefix("$JS.EVENT.ADVISORY.CONSUMER.").partition(".")
                metrics.advisories.labels(kind.lower()).inc()
                log.warning("advisory kind=%s consumer=%s", kind.lower(), where)
            await ack_all(nc, messages)

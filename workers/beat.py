"""Publishes the state of a worker each second, in the WORKERS bucket."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from schemas import subjects
from schemas.codec import jsoned
from schemas.jetstream import NatsConnection, NatsError
from schemas.subjects import WorkerId
from schemas.worker import BEAT_EVERY_MS, WorkerBeat

log = logging.getLogger(__name__)
_FLUSH_S = 2


async def beat(nc: NatsConnection, now: Callable[[], WorkerBeat]) -> None:
    """Publish a beat each second until cancelled. A key-value put is a publish; nobody waits for its acknowledgement."""
    while True:
        await publish_beat(nc, now())
        await asyncio.sleep(BEAT_EVERY_MS / 1000)


async def publish_beat(nc: NatsConnection, state: WorkerBeat) -> None:
    try:
        await nc.publish(subjects.beat(state.id), jsoned(state))
    except NatsError as error:
        log.warning("no beat error=%s", str(error) or type(error).__name__)


async def delete_beat(nc: NatsConnection, worker: WorkerId) -> None:
    """Delete the worker's beat, so that brokers see it leave at once. Without NATS the beat expires by itself."""
    with contextlib.suppress(NatsError):
        await nc.publish(subjects.beat(worker), b"", headers={"KV-Operation": "DEL"})
        await nc.flush(_FLUSH_S)

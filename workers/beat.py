"""What a worker says of itself each second."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from schemas import subjects
from schemas.codec import jsoned
from schemas.jetstream import NatsConnection, NatsError
from schemas.worker import BEAT_EVERY_MS, WorkerBeat

log = logging.getLogger(__name__)
_FLUSH_S = 2


def _subject(worker: str) -> str:
    return f"$KV.{subjects.WORKERS_BUCKET}.{subjects.token(worker)}"


async def beat(nc: NatsConnection, now: Callable[[], WorkerBeat]) -> None:
    """For ever. A key-value put is a publish; nobody waits for its acknowledgement."""
    while True:
        await publish_beat(nc, now())
        await asyncio.sleep(BEAT_EVERY_MS / 1000)


async def publish_beat(nc: NatsConnection, state: WorkerBeat) -> None:
    try:
        await nc.publish(_subject(state.worker), jsoned(state))
    except NatsError as error:
        log.warning("no beat error=%s", str(error) or type(error).__name__)


async def delete_beat(nc: NatsConnection, worker: str) -> None:
    """Be forgotten at once, or when the last beat has lived its time."""
    with contextlib.suppress(NatsError):
        await nc.publish(_subject(worker), b"", headers={"KV-Operation": "DEL"})
        await nc.flush(_FLUSH_S)

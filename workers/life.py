"""Runs a worker with its beat, following the catalog, from its first beat to its last word."""

import asyncio
from collections.abc import Callable

from schemas.jetstream import NatsConnection
from workers.beat import beat, delete_beat, publish_beat
from workers.catalog import ActiveCatalog
from workers.worker import Worker


async def live(
    worker: Worker,
    nc: NatsConnection,
    *,
    catalog: ActiveCatalog,
    drain_timeout_s: float,
    ready: Callable[[], None],
) -> bool:
    """Run the worker until it is over. Return whether all went well. `ready` is called once brokers know of it."""
    async with asyncio.TaskGroup() as group:
        tasks = {group.create_task(role) for role in (worker.serve(), beat(nc, worker.beat), catalog.follow(nc))}
        await publish_beat(nc, worker.beat())
        await nc.flush()
        ready()
        went_well = await worker.until_over(
            drain_timeout_s=drain_timeout_s, announce=lambda: publish_beat(nc, worker.beat())
        )
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await delete_beat(nc, worker.id)
    return went_well

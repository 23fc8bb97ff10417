"""Streams, buckets and consumers as a broker keeps them, for tests that run without one."""

import asyncio
from collections.abc import Sequence

from broker.bus.catalogs import Catalogs
from broker.bus.desired import Stream, desired
from broker.bus.streams import keep
from broker.config import LEASE_S
from broker.errors import Conflict
from schemas.jetstream import NatsConnection
from schemas.units import Ms

_TRIES, _PAUSE_S = 5, 0.2


async def declare_streams(nc: NatsConnection) -> None:
    """Declare all streams and buckets, and the consumers that brokers share. Raises: Conflict."""
    await _declare(nc, desired({}, lease_s=LEASE_S))


async def declare_pool(nc: NatsConnection, deployment: str, *, slots: int, lease_s: float = LEASE_S) -> None:
    """Declare the two consumers that a deployment's workers share, and tell the workers. Raises: Conflict."""
    await _declare(nc, desired({deployment: slots}, lease_s=lease_s))
    await Catalogs(nc).declare_pools([deployment], lease_ms=Ms(int(lease_s * 1000)))


async def _declare(nc: NatsConnection, wanted: Sequence[Stream]) -> None:
    """Try a few times: a stream that was deleted a moment ago cannot always be made again at once. Raises: Conflict."""
    wrong: dict[str, str] = {}
    for _ in range(_TRIES):
        wrong = (await keep(nc, wanted)).wrong or {}
        if not wrong:
            return
        await asyncio.sleep(_PAUSE_S)
    raise Conflict("; ".join(f"{name}: {why}" for name, why in wrong.items()))

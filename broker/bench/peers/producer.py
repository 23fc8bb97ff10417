"""Produces the tasks of a peer: some to see that its workers are ready, then the timed ones.

`python -m broker.bench.peers.producer on_taskiq 8000 600`: the module, how many tasks, and the bytes of each one's body.
"""

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import uvloop

_WARM = 200
_READY_S = 60.0
_LOOK_S = 0.02

NATS = os.environ.get("PEER_NATS", "")
REDIS = os.environ.get("PEER_REDIS", "")
"""The socket file of Redis."""
POSTGRES = os.environ.get("PEER_POSTGRES", "")
"""The URL of the Postgres that records tasks. Empty: nothing does, and answers stay in Redis."""


async def produce(
    send: Callable[[Sequence[str]], Awaitable[None]],
    ended: Callable[[], Awaitable[int]],
    written: Callable[[Sequence[str]], Awaitable[Sequence[str]]],
) -> None:
    """Print the seconds from the submission of the first task to the end of the last. `ended` counts tasks that ended."""
    count, size = int(sys.argv[2]), int(sys.argv[3])
    async with asyncio.timeout(_READY_S):
        await ended()
        await send(await written(_bodies(_WARM, size)))
        await _until(ended, _WARM)
    began = time.perf_counter()
    await send(await written(_bodies(count, size)))
    await _until(ended, _WARM + count)
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - began}) + "\n")


async def _until(ended: Callable[[], Awaitable[int]], count: int) -> None:
    while await ended() < count:
        await asyncio.sleep(_LOOK_S)


def _bodies(count: int, size: int) -> list[str]:
    return [str(number).rjust(size, "x") for number in range(count)]


async def side_by_side(send: Callable[[str], Awaitable[object]], bodies: Sequence[str], *, lanes: int = 64) -> None:
    """Submit many bodies at once."""
    left = iter(bodies)

    async def lane() -> None:
        for body in left:
            await send(body)

    await asyncio.gather(*(lane() for _ in range(lanes)))


if __name__ == "__main__":
    uvloop.run(importlib.import_module(f"broker.bench.peers.{sys.argv[1]}").main())

"""Dramatiq on Redis."""

from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from redis.asyncio import Redis

from broker.bench.peers import producer, record

_ANSWERS = f"unix://{producer.REDIS}?db=1"
_has_results = not producer.POSTGRES
tasks = RedisBroker(url=f"unix://{producer.REDIS}?db=0")
if _has_results:
    tasks.add_middleware(Results(backend=RedisBackend(url=_ANSWERS), store_results=True))
dramatiq.set_broker(tasks)


@dramatiq.actor
def infer(body: str) -> str | None:
    answer = record.answered(body)
    return answer if _has_results else None


async def _send(bodies: Sequence[str]) -> None:
    for body in bodies:
        infer.send(body)


async def main() -> None:
    await producer.produce(
        _send, Redis.from_url(_ANSWERS).dbsize if _has_results else record.EndedTasks(), record.submitted
    )

"""Celery on Redis, prefork, with a prefetch that keeps its processes fed."""

from collections.abc import Sequence

from celery import Celery
from redis.asyncio import Redis

from broker.bench.peers import producer, record

app = Celery(
    broker=f"redis+socket://{producer.REDIS}?virtual_host=0",
    backend=f"redis+socket://{producer.REDIS}?virtual_host=1",
)
app.conf.update(
    worker_prefetch_multiplier=64, task_ignore_result=bool(producer.POSTGRES), worker_hijack_root_logger=False
)


@app.task
def infer(body: str) -> str:
    return record.answered(body)


async def _send(bodies: Sequence[str]) -> None:
    for body in bodies:
        infer.delay(body)


async def main() -> None:
    ended = record.EndedTasks() if producer.POSTGRES else Redis.from_url(f"unix://{producer.REDIS}?db=1").dbsize
    await producer.produce(_send, ended, record.submitted)

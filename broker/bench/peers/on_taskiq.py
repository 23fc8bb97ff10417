"""taskiq on JetStream, pulled in batches; answers in Redis, which is faster than its object store on NATS."""

from redis.asyncio import Redis
from taskiq_nats import PullBasedJetStreamBroker
from taskiq_redis import RedisAsyncResultBackend

from broker.bench.peers import producer, record

_ANSWERS = f"unix://{producer.REDIS}?db=1"
tasks = PullBasedJetStreamBroker(producer.NATS, pull_consume_batch=100)
if not producer.POSTGRES:
    tasks.with_result_backend(RedisAsyncResultBackend(_ANSWERS))


@tasks.task
async def infer(body: str) -> str | None:
    answer = await record.answered_async(body)
    return None if producer.POSTGRES else answer


async def main() -> None:
    await tasks.startup()
    ended = record.EndedTasks() if producer.POSTGRES else Redis.from_url(_ANSWERS).dbsize
    await producer.produce(lambda bodies: producer.side_by_side(infer.kiq, bodies), ended, record.submitted)
    await tasks.shutdown()

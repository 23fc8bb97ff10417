"""arq on Redis: one process, many coroutines."""

from arq import create_pool
from arq.connections import RedisSettings
from arq.constants import default_queue_name

from broker.bench.peers import producer, record


async def infer(_: dict[str, object], body: str) -> str | None:
    answer = await record.answered_async(body)
    return None if producer.POSTGRES else answer


class Settings:
    """The settings of an `arq` worker."""

    functions = (infer,)
    redis_settings = RedisSettings(unix_socket_path=producer.REDIS)
    max_jobs = 200
    poll_delay = 0.01
    keep_result = 0 if producer.POSTGRES else 3600


async def main() -> None:
    pool = await create_pool(Settings.redis_settings)
    sent = 0

    async def send(body: str) -> None:
        nonlocal sent
        await pool.enqueue_job("infer", body)
        sent += 1

    async def ended_count() -> int:
        return sent - int(await pool.zcard(default_queue_name))

    ended = record.EndedTasks() if producer.POSTGRES else ended_count
    await producer.produce(lambda bodies: producer.side_by_side(send, bodies), ended, record.submitted)
    await pool.aclose()

"""Fill a ledger, then ask for lists, and print how long each takes: the first call, and the best of three."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg

from broker.ledger import migrate, open_ledger
from broker.ledger.connection import SETTINGS
from broker.ledger.selection import select_jobs
from broker.local.servers import postgres_server
from schemas.api import BatchList, State
from schemas.dead import DeadFilter
from schemas.job import Lane
from schemas.listing import JobFilter
from schemas.units import Ms
from tests.builders import now

JOBS = 1_000_000
_DAY_MS = 24 * 3600 * 1000


async def main(jobs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="infermq-lists-") as folder:
        async with postgres_server(Path(folder), durable=False) as url:
            await migrate(url)
            at = now()
            async with open_ledger(url, clock=now) as ledger:
                await ledger.days.keep()
            await _fill(url, jobs, at)
            await _measure(url, at)


async def _fill(url: str, jobs: int, at: Ms) -> None:
    connection = await asyncpg.connect(url)
    began = time.monotonic()
    await connection.execute(Path(__file__).with_name("fill.sql").read_text(), jobs, at)
    await connection.execute("vacuum analyze")
    print(f"{jobs} jobs made in {time.monotonic() - began:.0f} s")  # noqa: T201 - that is what it is for
    await connection.close()


async def _measure(url: str, at: Ms) -> None:
    connection = await asyncpg.connect(url, server_settings=SETTINGS)
    rows = await connection.fetch("select id from infermq.batches order by admitted")
    small, largest = rows[0]["id"], rows[-1]["id"]
    wanted = {
        "no filter": JobFilter(),
        "--state failed": JobFilter(states=(State.FAILED,)),
        "--state dead": JobFilter(states=(State.DEAD,)),
        "--state running": JobFilter(states=(State.RUNNING,)),
        "--state queued": JobFilter(states=(State.QUEUED,)),
        "--state expired (none)": JobFilter(states=(State.EXPIRED,)),
        "--code timed_out": JobFilter(kinds=("timed_out",)),
        "--code of none": JobFilter(kinds=("denied",)),
        "--model": JobFilter(model="m3"),
        "--model of none": JobFilter(model="other"),
        "--lane standard": JobFilter(lane=Lane.STANDARD),
        "--batch, the largest": JobFilter(batch=largest),
        "--batch, the smallest": JobFilter(batch=small),
        "--batch --state failed": JobFilter(batch=largest, states=(State.FAILED,)),
        "--batch --custom-id": JobFilter(batch=small, custom_id="line-9"),
        "--custom-id of none": JobFilter(custom_id="nowhere"),
        "--metadata": JobFilter(metadata={"team": "search"}),
        "--metadata of none": JobFilter(metadata={"team": "none"}),
        "--since --until": JobFilter(since_ms=Ms(at - 2 * _DAY_MS), until_ms=Ms(at - 2 * _DAY_MS + 3600_000)),
    }
    for name, one in wanted.items():
        took = []
        for _ in range(4):
            began = time.monotonic()
            found = await select_jobs(connection, "t3", one, limit=100)
            took.append(1000 * (time.monotonic() - began))
        line = f"{name:25} first {took[0]:6.1f} ms, then {min(took[1:]):6.1f} ms: {len(found.jobs)} jobs"
        print(f"{line}{', more' if found.next else ''}")  # noqa: T201
    await connection.close()
    await _measure_others(url)


async def _measure_others(url: str) -> None:
    """Batches, and dead letters of all tenants."""
    async with open_ledger(url, clock=now) as ledger:
        asks: dict[str, Callable[[], Awaitable[object]]] = {
            "batch list": lambda: ledger.batches.page("t0", BatchList(100)),
            "batch list --metadata": lambda: ledger.batches.page("t0", BatchList(100, metadata={"name": "batch-7"})),
            "dead list": lambda: ledger.dead_letters.count(DeadFilter()),
            "dead list --each": lambda: ledger.dead_letters.page(DeadFilter(), limit=100),
        }
        for name, ask in asks.items():
            took = []
            for _ in range(4):
                began = time.monotonic()
                await ask()
                took.append(1000 * (time.monotonic() - began))
            print(f"{name:25} first {took[0]:6.1f} ms, then {min(took[1:]):6.1f} ms")  # noqa: T201


asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else JOBS))

"""The bare pipeline: the messages and rows of the bulk path and nothing else, to show what a job costs at least.

Atomic batches → stream → rows of a backlog → running, read back with its body → stream → worker → stream → execution,
result and final state → announcement. Streams, payloads, tables and transactions are those of infermq, on plain nats-py and
asyncpg, with a message for each job. There is no validation, policy, fairness, lease, retry, price, metric or recovery.

`python -m broker.bench.floor broker|worker NATS POSTGRES ANSWER_BYTES` is one of its processes.
"""

import asyncio
import os
import secrets
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import nats
import uvloop
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from broker.bench.system import Talk, child
from broker.bus.desired import desired
from broker.config import LEASE_S
from broker.core.records import ONLY_SHARD
from broker.ledger.connection import SETTINGS, as_it_is
from broker.ledger.rows import EXECUTION_COLUMNS, JOB_COLUMNS
from broker.ledger.sql import query
from broker.local.servers import die_with_parent
from schemas import subjects
from schemas.api import ResultNotice, State
from schemas.clock import wall_clock
from schemas.codec import jsoned, packed, unpacker
from schemas.endpoints import CHAT
from schemas.ids import line_id, uuid7
from schemas.job import Attempt, Job, Lane
from schemas.outcome import Report, Succeeded, Timings, Usage
from schemas.units import Ms

_SUBMIT, _RUN, _OUTCOME = "FLOOR_SUBMIT", "FLOOR_RUN", "FLOOR_OUTCOME"
_SETTLED = "floor.settled"
_PENDING_BYTES = 16 * 1024 * 1024
_ROOM = 4000
"""Messages of a stream that are held or requested, as in infermq's own groups."""
_SLOTS = 512
_CREDIT = 1536
_BATCH = 1000
_job, _attempt, _report = unpacker(Job), unpacker(Attempt), unpacker(Report)

_TABLES = """
create schema if not exists floor;
drop table if exists floor.jobs, floor.bodies, floor.executions, floor.results, floor.waiting, floor.running,
    floor.leader, floor.control_version, floor.counts;
create table floor.jobs (like infermq.jobs including all) with (fillfactor = 85);
create table floor.bodies (like infermq.bodies including all);
create table floor.executions (like infermq.executions including all);
create table floor.results (like infermq.results including all);
create table floor.waiting (like infermq.waiting including all);
create table floor.running (like infermq.running including all);
create table floor.leader (like infermq.leader including all);
insert into floor.leader (shard, holder, term, until) values (0, 'floor', 1, 'infinity');
create table floor.control_version (like infermq.control_version including all);
insert into floor.control_version (number) values (1);
create table floor.counts (batch uuid primary key, admitted bigint not null, ended bigint not null);
"""
_TERM = _CONTROLS = 1
_DISPATCH = query("dispatch").replace("infermq.", "floor.")
_FINISH = query("finish").replace("infermq.", "floor.")
_ANY_DAY = UUID(int=0), UUID(int=(1 << 128) - 1)
_COUNT = """
insert into floor.counts as c values ($1, $2, $3)
on conflict (batch) do update set admitted = c.admitted + excluded.admitted, ended = c.ended + excluded.ended
"""


class Floor:
    """The processes of the bare pipeline, waiting for jobs."""

    def __init__(self, nc: Nats, processes: Sequence[Talk]) -> None:
        self._nc = nc
        self.processes = processes

    async def run(self, bodies: Sequence[bytes], batch: UUID) -> float:
        """Run a batch. Return the seconds from the first submission to the last announcement.

        Raises: RuntimeError, if one of the processes ends.
        """
        ended, all_ended = 0, asyncio.Event()

        async def on_settled(message: Msg) -> None:
            nonlocal ended
            ended += int((message.headers or {})["Count"])
            if ended >= len(bodies):
                all_ended.set()

        subscription = await self._nc.subscribe(_SETTLED, cb=on_settled)
        began = time.perf_counter()
        for start in range(0, len(bodies), _BATCH):
            payloads = [
                packed(_job_of(body, batch, line))
                for line, body in enumerate(bodies[start : start + _BATCH], start + 1)
            ]
            await _store(self._nc, "floor.submit", payloads, name=f"{batch}.{start}")
        await self._unless_ended(all_ended)
        seconds = time.perf_counter() - began
        await subscription.unsubscribe()
        return seconds

    async def _unless_ended(self, event: asyncio.Event) -> None:
        waiting = [
            event.wait(),
            *(process.answer() for process in self.processes),
        ]  # a process that serves prints nothing more
        tasks = [asyncio.ensure_future(one) for one in waiting]
        ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for one in ended:
            one.result()


@asynccontextmanager
async def floor(nats_url: str, postgres_url: str, *, answer_bytes: int) -> AsyncIterator[Floor]:
    """Start a broker and a worker on the servers that infermq uses, with streams and tables of their own."""
    words = ("-m", "broker.bench.floor")
    servers = (nats_url, postgres_url, str(answer_bytes))
    nc = await _connected(nats_url)
    await _declare(nc, postgres_url)
    try:
        async with child(*words, "broker", *servers) as settler, child(*words, "worker", *servers) as worker:
            yield Floor(nc, (settler, worker))
    finally:
        await nc.close()


async def _declare(nc: Nats, postgres_url: str) -> None:
    js = nc.jetstream()
    queue = next(stream.settings for stream in desired({}, lease_s=LEASE_S) if stream.name == subjects.RUN)
    for name in (_SUBMIT, _RUN, _OUTCOME):
        subject = name.lower().replace("_", ".")
        settings = {**queue, "name": name, "subjects": [subject]}
        await nc.request(f"$JS.API.STREAM.CREATE.{name}", jsoned(settings), timeout=10)
        pulled = ConsumerConfig(
            durable_name="all", ack_policy=AckPolicy.EXPLICIT, max_ack_pending=20_000, ack_wait=60, max_waiting=8192
        )
        await js.add_consumer(name, pulled)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(_TABLES)
    await connection.close()


async def _connected(url: str) -> Nats:
    return await nats.connect(url, pending_size=_PENDING_BYTES)


async def _store(nc: Nats, subject: str, payloads: Sequence[bytes], *, name: str) -> None:
    """Store messages as an atomic batch."""
    for number, payload in enumerate(payloads[:-1], 1):
        await nc.publish(subject, payload, headers={"Nats-Batch-Id": name, "Nats-Batch-Sequence": str(number)})
    last = {"Nats-Batch-Id": name, "Nats-Batch-Sequence": str(len(payloads)), "Nats-Batch-Commit": "1"}
    await nc.request(subject, payloads[-1], headers=last, timeout=10)


class Pull:
    """Pulls the messages of a stream, and hands out what has come since the last time."""

    def __init__(self, nc: Nats, stream: str, room: int) -> None:
        self._nc = nc
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.all"
        self._inbox = nc.new_inbox()
        self._room = room
        self._requested = 0
        self._came = asyncio.Event()
        self._messages: list[Msg] = []

    async def open(self) -> None:
        await self._nc.subscribe(self._inbox, cb=self._receive, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await self._request()

    async def group(self) -> list[Msg]:
        await self._came.wait()
        self._came.clear()
        messages, self._messages = self._messages, []
        await self._request()
        return messages

    async def _request(self) -> None:
        wanted = self._room - self._requested
        if wanted >= self._room // 2:
            self._requested += wanted
            await self._nc.publish(self._next, b'{"batch":%d,"expires":600000000000}' % wanted, self._inbox)

    async def _receive(self, message: Msg) -> None:
        if message.reply:
            self._requested -= 1
            self._messages.append(message)
            self._came.set()


class Broker:
    def __init__(self, nc: Nats, pool: asyncpg.Pool) -> None:
        self._nc = nc
        self._pool = pool
        self._ready: deque[tuple[int, UUID]] = deque()
        self._outstanding = 0
        self._wake = asyncio.Event()
        self._round = 0

    async def serve(self) -> None:
        await asyncio.gather(self._intake(), self._dispatch(), self._settle())

    async def _intake(self) -> None:
        pull = Pull(self._nc, _SUBMIT, _ROOM)
        await pull.open()
        while True:
            messages = await pull.group()
            now = wall_clock()
            jobs = [_job.decode(message.data) for message in messages]
            rows = [_job_row(job, now) for job in jobs]
            waiting = [("m", "bulk", "t", 0, now, job.id, job.batch) for job in jobs]
            async with self._pool.acquire() as connection, connection.transaction():
                await _copy(connection, "jobs", JOB_COLUMNS, rows)
                await _copy(connection, "bodies", ("job", "body"), [(job.id, job.body) for job in jobs])
                columns = ("model", "lane", "tenant", "rank", "deadline_ms", "job", "batch")
                await _copy(connection, "waiting", columns, waiting)
                await connection.execute(_COUNT, jobs[0].batch, len(jobs), 0)
            self._ready.extend((now, job.id) for job in jobs if job.id is not None)
            self._wake.set()
            await _ack(self._nc, messages)

    async def _dispatch(self) -> None:
        while True:
            room = min(_BATCH, _CREDIT - self._outstanding, len(self._ready))
            if room <= 0:
                self._wake.clear()
                await self._wake.wait()
                continue
            picks = [self._ready.popleft() for _ in range(room)]
            deadlines, jobs = [deadline for deadline, _ in picks], [job for _, job in picks]
            flow = ["m"] * room, ["bulk"] * room, ["t"] * room
            now = wall_clock()
            among = min(jobs), max(jobs)
            rows = await self._pool.fetch(
                _DISPATCH, *flow, deadlines, jobs, ["d"] * room, now, *among, _TERM, ONLY_SHARD, _CONTROLS, [0] * room
            )
            self._outstanding += len(rows)
            self._round += 1
            payloads = [packed(_attempt_of(row, now)) for row in rows]
            await _store(self._nc, "floor.run", payloads, name=f"{os.getpid()}.run.{self._round}")

    async def _settle(self) -> None:
        pull = Pull(self._nc, _OUTCOME, _ROOM)
        await pull.open()
        while True:
            messages = await pull.group()
            now = wall_clock()
            reports = [_report.decode(message.data) for message in messages]
            executions = [_execution(report) for report in reports]
            ends = zip(*(_end(report) for report in reports), strict=True)
            bodies = {one.job: one.outcome.body for one in reports if isinstance(one.outcome, Succeeded)}
            async with self._pool.acquire() as connection, connection.transaction():
                ended = await connection.fetch(_FINISH, *map(list, ends), now, *_ANY_DAY)
                await _copy(connection, "executions", EXECUTION_COLUMNS, executions)
                results = [(row["id"], row["batch"], bodies[row["id"]]) for row in ended]
                await _copy(connection, "results", ("job", "batch", "body"), results)
                await connection.execute(_COUNT, ended[0]["batch"], 0, len(reports))
            self._outstanding -= len(reports)
            self._wake.set()
            notices = [
                ResultNotice(job=row["id"], state=State.SUCCEEDED, custom_id=row["custom_id"]) for row in ended
            ]
            await self._nc.publish(_SETTLED, jsoned(notices), headers={"Count": str(len(notices))})
            await _ack(self._nc, messages)


def _job_row(job: Job, now: Ms) -> tuple[object, ...]:
    return (
        job.id, "t", "k", "bulk", "m", job.endpoint, "open", 3, 0, job.batch, job.line, job.custom_id, now, now, None,
        0, 0, 0, 0, None, None, None, b"0123456789abcdef", 0,
    )  # fmt: skip


def _execution(report: Report) -> tuple[object, ...]:
    usage, timings = report.outcome.usage, report.timings
    return (
        report.job, report.execution, 1, 1, report.deployment, report.worker, "succeeded", None, False,
        False, usage.input_tokens, usage.output_tokens, 0, usage.output_tokens, "floor", timings.started_ms,
        timings.queue_ms, timings.ttft_ms, timings.run_ms,
    )  # fmt: skip


def _end(report: Report) -> tuple[object, ...]:
    """Make a row of the arrays that finish.sql takes."""
    usage = report.outcome.usage
    return report.job, 1, "succeeded", None, usage.input_tokens, usage.output_tokens, 0, usage.output_tokens


def _attempt_of(row: asyncpg.Record, now: Ms) -> Attempt:
    return Attempt(
        job=row["job"],
        number=1,
        tenant="t",
        lane=Lane.BULK,
        model="m",
        deployment="d",
        endpoint=row["endpoint"],
        body=row["body"],
        admitted_ms=row["admitted_ms"],
        deadline_ms=row["deadline_ms"],
        dispatched_ms=now,
        left_ms=Ms(max(0, row["deadline_ms"] - now)),
    )


async def _copy(
    connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]",
    table: str,
    columns: Sequence[str],
    rows: Sequence[tuple[object, ...]],
) -> None:
    await connection.copy_records_to_table(table, records=rows, columns=columns, schema_name="floor")


async def _ack(nc: Nats, messages: Sequence[Msg]) -> None:
    for message in messages:
        await nc.publish(message.reply, b"+ACK")


async def _work(nc: Nats, answer: bytes) -> None:
    pull = Pull(nc, _RUN, _SLOTS)
    await pull.open()
    name = 0
    while True:
        messages = await pull.group()
        payloads = [packed(_answered(_attempt.decode(message.data), answer)) for message in messages]
        name += 1
        await _store(nc, "floor.outcome", payloads, name=f"{os.getpid()}.outcome.{name}")
        await _ack(nc, messages)


def _answered(attempt: Attempt, answer: bytes) -> Report:
    now = wall_clock()
    return Report(
        job=attempt.job,
        attempt=attempt.number,
        execution=uuid7(now, secrets.randbits(80)),
        delivery=1,
        deployment="d",
        worker="w",
        outcome=Succeeded(answer, Usage(100, 64)),
        timings=Timings(started_ms=now, queue_ms=Ms(now - attempt.admitted_ms), run_ms=Ms(0), ttft_ms=Ms(0)),
    )


def _job_of(body: bytes, batch: UUID, line: int) -> Job:
    """Make a job as the client does."""
    return Job(
        id=line_id(batch, line), batch=batch, line=line, endpoint=CHAT.path, body=body, custom_id=f"job-{line}"
    )


async def _main(role: str, nats_url: str, postgres_url: str, answer_bytes: int) -> None:
    nc = await _connected(nats_url)
    async with asyncpg.create_pool(
        postgres_url, min_size=3, max_size=3, server_settings=SETTINGS, reset=as_it_is
    ) as pool:
        serving = asyncio.create_task(
            Broker(nc, pool).serve() if role == "broker" else _work(nc, b"y" * answer_bytes)
        )
        sys.stdout.write("{}\n")
        sys.stdout.flush()
        await asyncio.wait(
            {serving, asyncio.create_task(asyncio.to_thread(sys.stdin.read))}, return_when=asyncio.FIRST_COMPLETED
        )
        if serving.done():
            serving.result()
        serving.cancel()
    await nc.close()


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(_main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))

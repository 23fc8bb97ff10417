"""Dead letters: messages that are no jobs or no outcomes, and jobs that ended as dead (`failures`)."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import msgspec

from broker.core.dead_letters import Counted
from broker.core.records import Audited, DeadLetter, RequeuedJobs
from broker.ledger import audit, requeues
from broker.ledger.connection import Connection, Database
from broker.ledger.rows import Row, columns, failure_of, json_text
from broker.ledger.sql import query
from schemas.dead import DeadCause, DeadFilter, DeadLine, DeadWhat
from schemas.outcome import public_message
from schemas.units import Ms

_headers = msgspec.json.Decoder(dict[str, str])


class PgDeadLetters:
    """Implements `broker.ports.DeadLetterLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, dead_letters: Sequence[DeadLetter]) -> None:
        rows = [_row(one) for one in dead_letters]
        async with self._database.connection() as connection:
            await connection.execute(query("record_dead_letters"), *columns(rows, 11))

    async def count(self, wanted: DeadFilter) -> list[Counted]:
        bounds = _bounds(wanted)
        async with self._database.connection() as connection:
            jobs = messages = []
            if wanted.what is not DeadWhat.MESSAGE:
                jobs = await connection.fetch(query("count_dead_jobs"), *bounds, wanted.batch)
            if wanted.what is not DeadWhat.JOB and wanted.batch is None:
                messages = await connection.fetch(query("count_dead_messages"), *bounds)
        return [
            *[Counted(what=DeadWhat.JOB, **dict(row)) for row in jobs],
            *[Counted(what=DeadWhat.MESSAGE, **dict(row)) for row in messages],
        ]

    async def page(
        self, wanted: DeadFilter, *, limit: int, before: UUID | None = None, ids: Sequence[UUID] | None = None
    ) -> list[DeadLine]:
        bounds = _bounds(wanted)
        letters: list[DeadLine] = []
        async with self._database.connection() as connection:
            if wanted.what is not DeadWhat.MESSAGE:
                rows = await connection.fetch(query("dead_jobs"), *bounds, before, ids, wanted.batch, limit)
                letters += [_job_line(row) for row in rows]
            if wanted.what is not DeadWhat.JOB and wanted.batch is None:
                rows = await connection.fetch(query("dead_messages"), *bounds, before, ids, limit)
                letters += [_message_line(row) for row in rows]
        return sorted(letters, key=_id, reverse=True)[:limit]

    async def piece(self, letter: DeadLine, *, offset: int, length: int) -> tuple[dict[str, str], bytes]:
        async with self._database.connection() as connection:
            if letter.what is DeadWhat.JOB:
                body = await connection.fetchval(query("dead_job_piece"), letter.id, offset, length)
                return {}, body or b""
            row = await connection.fetchrow(query("dead_message_piece"), letter.id, offset, length)
        return ({}, b"") if row is None else (_headers.decode(row["headers"]), row["piece"])

    async def requeue(
        self,
        ids: Sequence[UUID],
        publish: Callable[[Sequence[DeadLetter]], Awaitable[Sequence[DeadLetter]]],
        audited: Audited,
        asked: object,
    ) -> list[UUID]:
        async with self._database.connection() as connection, connection.transaction():
            held = [_letter(row) for row in await connection.fetch(query("hold_dead_messages"), list(ids))]
            sent = [one.id for one in await publish(held)] if held else []
            if sent:
                await connection.execute(query("mark_requeued"), sent, audited.at_ms)
                await audit.record(connection, audited, "requeue dead letters", asked, after={"messages": len(sent)})
        return sent

    async def requeue_jobs(self, ask: RequeuedJobs, audited: Audited, asked: object) -> None:
        async with self._database.connection() as connection:
            await requeues.give(connection, ask, audited, asked)

    async def drop(
        self, messages: Sequence[UUID], jobs: Sequence[UUID], audited: Audited, asked: object
    ) -> tuple[int, int]:
        async with self._database.connection() as connection, connection.transaction():
            dropped = await _dropped(connection, messages, jobs, audited.at_ms)
            if any(dropped):
                after = {"messages": dropped[0], "jobs": dropped[1]}
                await audit.record(connection, audited, "drop dead letters", asked, after=after)
        return dropped


async def _dropped(
    connection: Connection, messages: Sequence[UUID], jobs: Sequence[UUID], now: Ms
) -> tuple[int, int]:
    """Drop in the order of the ids, so that two calls never wait for each other."""
    gone = await connection.fetch(query("drop_dead_messages"), sorted(messages)) if messages else []
    hidden = await connection.fetch(query("drop_dead_jobs"), sorted(jobs), now) if jobs else []
    return len(gone), len(hidden)


def _row(one: DeadLetter) -> tuple[object, ...]:
    source = one.source
    return (
        one.id,
        one.stream,
        one.sequence,
        one.received_ms,
        _storable(one.subject),
        one.cause,
        _storable(one.reason),
        None if source is None else _storable(source.tenant),
        None if source is None else _storable(source.model),
        json_text({_storable(name): _storable(value) for name, value in one.headers.items()}),
        one.payload,
    )


def _storable(text: str) -> str:
    """Postgres stores no NUL, and UTF-8 no lone surrogate."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


def _bounds(wanted: DeadFilter) -> tuple[object, ...]:
    return wanted.tenant, list(wanted.causes), wanted.model, wanted.since_ms, wanted.until_ms


def _id(letter: DeadLine) -> int:
    return letter.id.int


def _job_line(row: Row) -> DeadLine:
    failure = failure_of(row)
    return DeadLine(
        id=row["id"],
        what=DeadWhat.JOB,
        cause=row["cause"],
        at_ms=row["ended_ms"],
        reason="" if failure is None else public_message(failure),
        tenant=row["tenant"],
        model=row["model"],
        batch=row["batch"],
        custom_id=row["custom_id"],
        attempts=row["attempts"],
        size_bytes=row["size_bytes"] or 0,
    )


def _message_line(row: Row) -> DeadLine:
    return DeadLine(
        id=row["id"],
        what=DeadWhat.MESSAGE,
        cause=row["cause"],
        at_ms=row["received_ms"],
        reason=row["reason"],
        tenant=row["tenant"],
        model=row["model"],
        size_bytes=row["size_bytes"],
        stream=row["stream"],
        subject=row["subject"],
        sequence=row["sequence"],
    )


def _letter(row: Row) -> DeadLetter:
    fields = {name: row[name] for name in ("subject", "stream", "sequence", "received_ms", "reason", "payload")}
    return DeadLetter(cause=DeadCause(row["cause"]), headers=_headers.decode(row["headers"]), **fields)

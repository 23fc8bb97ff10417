"""The part of the client that submits jobs, one at a time or many in a message."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self
from uuid import UUID

from msgspec.structs import replace

from broker.client.door import NotYet
from broker.client.encode import body_of, check_name, payload_of
from broker.client.errors import RequestRefused
from broker.client.session import Session
from broker.errors import Unavailable
from schemas import subjects
from schemas.codec import BUNDLE, BUNDLE_BYTES, bundled, bundles
from schemas.endpoints import CHAT
from schemas.ids import line_id
from schemas.jetstream import Outgoing
from schemas.job import Job, Lane
from schemas.subjects import Source

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0
"""Between two tries to store a message."""
_IN_FLIGHT = 8
"""How many groups may be on their way at once."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job, the model that it is for, and its lane."""

    model: str
    job: Job
    lane: Lane = Lane.BULK

    @classmethod
    def of(
        cls,
        model: str,
        body: Mapping[str, Any] | bytes,
        *,
        endpoint: str = CHAT.path,
        lane: Lane = Lane.BULK,
        id: UUID | None = None,  # noqa: A002 - the job's own word
        custom_id: str | None = None,
        deadline_ms: int | None = None,
        max_attempts: int | None = None,
        priority: int | None = None,
        metadata: dict[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Self:
        """Make a submission of a body, a dict or JSON as bytes. Raises: RequestRefused, if JSON cannot hold it."""
        job = Job(
            id=id,
            endpoint=endpoint,
            body=body_of(body),
            custom_id=custom_id,
            deadline_ms=deadline_ms,
            max_attempts=max_attempts,
            priority=priority,
            metadata=metadata,
            idempotency_key=idempotency_key,
        )
        return cls(model, job, lane)


class SubmitClient(Session):
    """Submits jobs."""

    async def submit(
        self,
        model: str,
        body: Mapping[str, Any] | bytes,
        *,
        endpoint: str = CHAT.path,
        lane: Lane = Lane.STANDARD,
        custom_id: str | None = None,
        deadline_ms: int | None = None,
        max_attempts: int | None = None,
        priority: int | None = None,
        metadata: dict[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> UUID:
        """Submit one job and return its id once it is accepted. Raises: RequestRefused, Unavailable, BacklogFull.

        If the same job was submitted before with the same `idempotency_key`, this one does not run: `job(id)` then shows the
        first. If another job has the key, this one fails with `key_conflict`.
        """
        job = self._new_id()
        one = Submission.of(
            model,
            body,
            endpoint=endpoint,
            lane=lane,
            id=job,
            custom_id=custom_id,
            deadline_ms=deadline_ms,
            max_attempts=max_attempts,
            priority=priority,
            metadata=metadata,
            idempotency_key=idempotency_key,
        )
        await self._store(self._outgoing(one), str(job))
        return job

    async def submit_many(
        self, jobs: AsyncIterable[Submission] | Iterable[Submission], *, batch_id: UUID | None = None
    ) -> int:
        """Submit jobs in messages of up to 1000 jobs and 256 KiB, and return how many were accepted.

        Jobs should carry ids (`line_id` for those of a batch): then sending all of them again after an error is safe.
        Raises: Unavailable, BacklogFull; RequestRefused, for a job that no intake could read.
        """
        count = 0
        # no TaskGroup: before Python 3.13, one that fails at its end leaves the caller's task cancelled
        sends: set[asyncio.Task[None]] = set()
        try:
            async for submissions in _groups(self._prepared(jobs, batch_id)):
                if len(sends) == _IN_FLIGHT:
                    sends = await _fewer(sends)
                sends.add(asyncio.create_task(self._store_all(_messages(submissions))))
                count += len(submissions)
            while sends:
                sends = await _fewer(sends)
        finally:
            for one in sends:
                one.cancel()
            await asyncio.gather(*sends, return_exceptions=True)
        return count

    async def _prepared(
        self, jobs: AsyncIterable[Submission] | Iterable[Submission], batch_id: UUID | None
    ) -> AsyncIterator[Outgoing]:
        number = 0
        async for one in _iterated(jobs):
            number += 1
            job = one.job
            if batch_id is not None and job.batch is None:
                line = number if job.line is None else job.line
                job = replace(job, batch=batch_id, line=line, id=job.id or line_id(batch_id, line))
            try:
                yield self._outgoing(Submission(one.model, job, one.lane))
            except RequestRefused as refused:
                problem = refused.problem
                raise RequestRefused(replace(problem, message=f"{problem.message}, in job {number}")) from refused

    def _outgoing(self, one: Submission) -> Outgoing:
        subject = _submit_subject(one.lane, one.model, self._door.tenant, self._door.key)
        return Outgoing(subject, payload_of(one.job))

    async def _store_all(self, messages: Sequence[Outgoing]) -> None:
        """Store all of them at once. When all have ended, raise the first error."""
        storing = [self._store(message, self._new_id().hex) for message in messages]
        for ended in await asyncio.gather(*storing, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    async def _store(self, message: Outgoing, name: str) -> None:
        """Send it until it is stored, always under one name, so that it is stored once."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience_s
        wait = _FIRST_WAIT_S
        while True:
            try:
                return await self._door.store(message, name)
            except NotYet as error:
                if loop.time() + wait > give_up:
                    raise Unavailable(error.what, error.why) from error
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)


async def _fewer(sends: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait until at least one has ended, and return the others. Raises the error of one that failed."""
    ended, others = await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
    for one in ended:
        one.result()
    return others


async def _iterated(jobs: AsyncIterable[Submission] | Iterable[Submission]) -> AsyncIterator[Submission]:
    if isinstance(jobs, AsyncIterable):
        async for one in jobs:
            yield one
        return
    for one in jobs:
        yield one


async def _groups(messages: AsyncIterator[Outgoing]) -> AsyncIterator[list[Outgoing]]:
    """Collect jobs into groups that fit into one message, if all are of one subject.

    An atomic batch could hold more, but the server writes those twice, in files of their own, and limits their number for
    all producers together.
    """
    group: list[Outgoing] = []
    size = 0
    async for message in messages:
        if group and (len(group) == BUNDLE or size + len(message.payload) > BUNDLE_BYTES):
            yield group
            group, size = [], 0
        group.append(message)
        size += len(message.payload)
    if group:
        yield group


def _messages(jobs: Sequence[Outgoing]) -> list[Outgoing]:
    """Put jobs of one subject into one message, since the server's cost is per message."""
    by_subject: defaultdict[str, list[bytes]] = defaultdict(list)
    for job in jobs:
        by_subject[job.subject].append(job.payload)
    return [
        Outgoing(subject, bundled(bundle)) for subject, payloads in by_subject.items() for bundle in bundles(payloads)
    ]


@lru_cache(maxsize=1024)
def _submit_subject(lane: Lane, model: str, tenant: str, key: str) -> str:
    """Build the subject once for each model: escaping costs more than the rest of a submission. Raises: RequestRefused."""
    check_name("model", model, "unknown_model")
    return subjects.submit(Source(lane, model, tenant, key))

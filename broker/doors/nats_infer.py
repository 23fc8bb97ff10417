"""Serves interactive requests over NATS: a core request on `infermq.infer.<model>.<tenant>.<key>`.

A request is decoded, admitted and handed to the relay. Its caller is an inbox. Each message to an inbox names a reply
subject of this door, so that the server says there if nobody listens to the inbox any more.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from uuid import UUID

from broker.core.principal import Identify
from broker.core.relay import Answered, Erred, Streamed
from broker.doors.requests import Requests
from broker.errors import Unavailable
from broker.ports import Clock, Entropy
from schemas import subjects
from schemas.api import ErrorBody, Problem
from schemas.codec import CHUNK, ERROR, FINAL, JOB, KEEPALIVE, KIND, SEQ, TRACEPARENT, Undecodable, decode_job, jsoned
from schemas.jetstream import Message, NatsConnection, NatsError

log = logging.getLogger(__name__)
_NO_OTHER = nullcontext()


class Inbox:
    """A caller that listens on a NATS subject."""

    def __init__(
        self,
        nc: NatsConnection,
        subject: str,
        *,
        job: UUID | None,
        gone: str = "",
        ended: Callable[[Answered | Erred], object],
    ) -> None:
        """The server says on `gone` if nobody listens any more. `ended` is called when the last message is sent."""
        self._nc = nc
        self._subject = subject
        self._headers = {} if job is None else {JOB: str(job)}
        self._gone = gone
        self._ended = ended

    async def start(self) -> None:
        """Send nothing: each message says by itself what it is."""

    async def piece(self, piece: Streamed) -> None:
        await self._send(CHUNK, piece.data, piece.sequence)

    async def alive(self) -> None:
        await self._send(KEEPALIVE, b"", None)

    async def end(self, end: Answered | Erred) -> None:
        self._ended(end)
        match end:
            case Answered(body, sequence):
                await self._send(FINAL, body, sequence)
            case Erred(problem, sequence):
                await self._send(ERROR, jsoned(ErrorBody(problem)), sequence)

    async def _send(self, kind: str, data: bytes, sequence: str | None) -> None:
        headers = {KIND: kind, **self._headers}
        if sequence is not None:
            headers[SEQ] = sequence
        try:
            await self._nc.publish(self._subject, data, self._gone, headers=headers)
        except NatsError as error:
            log.warning("reply not sent kind=%s error=%s", kind, str(error) or type(error).__name__)


class NatsInfer:
    """Takes requests, makes a caller for each, and tells the relay of callers that left."""

    def __init__(
        self,
        nc: NatsConnection,
        requests: Requests,
        *,
        identify: Identify,
        clock: Clock,
        entropy: Entropy,
        ended: Callable[[Answered | Erred], object] = lambda _: None,
    ) -> None:
        """`ended` is called with the end of each request."""
        self._nc = nc
        self._ended = ended
        self._requests = requests
        self._identify = identify
        self._clock = clock
        self._entropy = entropy
        self._inbox = nc.new_inbox()
        """The prefix of the subjects on which the server says that a caller is gone."""
        self._jobs: dict[str, UUID] = {}
        """The jobs that are being answered, by the last token of their subject under the inbox."""

    async def serve(self, beside: AbstractContextManager[None] = _NO_OTHER) -> None:
        """Answer requests until cancelled, with another door open `beside` this one.

        Then the doors close first, and what runs may finish.
        """
        async with self._noticing_leavers(), self._requests.relay.open(), self._open():
            with beside:
                await self._requests.relay.watch()

    @asynccontextmanager
    async def _noticing_leavers(self) -> AsyncIterator[None]:
        """Tell the relay of callers that leave, while it answers."""
        gone = await self._nc.subscribe(f"{self._inbox}.*", cb=self._left)
        try:
            yield
        finally:
            if not self._nc.is_closed:
                await gone.unsubscribe()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        """Take requests while the block runs, and then those that were sent here before: no other broker gets them."""
        requests = await self._nc.subscribe(subjects.INFER_ALL, queue=subjects.BROKERS, cb=self._take)
        try:
            yield
        finally:
            if self._nc.is_connected:
                with suppress(NatsError):
                    await requests.drain()

    async def _take(self, message: Message) -> None:
        try:
            source = subjects.parse_infer(message.subject)
        except ValueError as error:
            log.warning("infer ignored error=%s", error)
            return
        if not message.reply or not subjects.may_answer(message.reply, source.tenant, source.key):
            log.warning("infer ignored tenant=%s error=foreign or missing reply subject", source.tenant)
            return
        try:
            caller = await self._identify(source.tenant, source.key, self._clock())
            headers = message.headers or {}
            job = decode_job(message.data, headers)
            entry = self._requests.admitted(job, caller, source, traceparent=headers.get(TRACEPARENT))
        except Undecodable as error:
            await self._refuse(message.reply, Problem("bad_request", str(error)))
            return
        except Unavailable as error:
            await self._refuse(message.reply, Problem("unavailable", f"{error}: try again in a moment"))
            return
        named, entry = entry.id, self._requests.with_free_id(entry)
        await self._requests.ask(entry, self._caller(entry.id, message.reply, named=named))

    async def _refuse(self, reply: str, problem: Problem) -> None:
        await Inbox(self._nc, reply, job=None, ended=self._ended).end(Erred(problem))

    def _caller(self, job: UUID, subject: str, *, named: UUID) -> Inbox:
        """Make the caller of a job, which it calls by the name that it gave it."""
        token = f"{self._entropy():x}"
        self._jobs[token] = job

        def ended(end: Answered | Erred) -> None:
            self._jobs.pop(token, None)
            self._ended(end)

        return Inbox(self._nc, subject, job=named, gone=f"{self._inbox}.{token}", ended=ended)

    async def _left(self, message: Message) -> None:
        """Tell the relay that a caller left. The server says so by a status: nobody listens on its inbox."""
        if (message.headers or {}).get("Status") != "503":
            return
        job = self._jobs.pop(message.subject.rpartition(".")[2], None)
        if job is not None:
            await self._requests.relay.caller_left(job)

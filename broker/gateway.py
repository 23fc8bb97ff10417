"""The gateway: interactive requests past the backlog, never past admission or the ledger.

client ── infer (core request) ──► admit → a deployment with room → NOW ──► worker ── chunks, final ──► client

It stays in the middle: it owns the time-out, falls back to another deployment as long as nothing was streamed,
notices that a client left (what is sent there comes back as `no responders`) and is the only one that writes to a
client's inbox.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from uuid import UUID

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from broker.bus.runs import publish_rulings
from broker.caps import Caps
from broker.core import gateway as core
from broker.core.admit import AdmissionContext, admit
from broker.core.records import Entry
from broker.errors import Unavailable
from broker.ports import Clock, Entropy
from schemas import subjects
from schemas.api import ErrorBody, Problem
from schemas.catalog import Catalog
from schemas.codec import (
    CHUNK,
    ERROR,
    FAILURE,
    FINAL,
    KIND,
    SEQ,
    TRACEPARENT,
    Undecodable,
    decode_job,
    jsoned,
    packed,
)
from schemas.ids import uuid7
from schemas.jetstream import NotStored, Outgoing, publish_one
from schemas.job import Attempt
from schemas.outcome import EngineLost, Failure
from schemas.ruling import Fail
from schemas.units import Ms
from schemas.worker import WorkerBeat

log = logging.getLogger(__name__)
_failure = msgspec.json.Decoder(Failure)
GATEWAYS = "gateways"
JOB = "Infermq-Job"
TICK_S = 0.25
_PEAK_TICKS = 8
"""As long as it may be until a beat tells what changed: twice the time between two."""
LAST_S = 10.0
"""How long running requests may finish when the broker stops."""


@dataclass(slots=True, eq=False)
class Live:
    """One request in the middle of which we are."""

    entry: Entry
    client: str
    """Where the client listens."""
    began_ms: Ms
    attempt: Attempt
    """The present one: handed to a worker of its deployment."""
    token: str
    """Where we listen to that attempt; what an earlier one still says is not heard."""
    started_ms: Ms
    heard_ms: Ms | None = None
    spoke: bool = False
    """The client has had something of the answer: no other deployment could go on with it."""
    tried: tuple[str, ...] = ()


class Gateway:
    def __init__(
        self,
        nc: Client,
        *,
        catalog: Callable[[], Catalog],
        beats: Callable[[], Sequence[WorkerBeat]],
        caps: Caps,
        clock: Clock,
        entropy: Entropy,
        tick_s: float = TICK_S,
        last_s: float = LAST_S,
    ) -> None:
        self._nc = nc
        self._catalog = catalog
        self._beats = beats
        self._caps = caps
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock = clock
        self._entropy = entropy
        self._tick_s = tick_s
        self._last_s = last_s
        self._live: dict[str, Live] = {}
        self._jobs: set[UUID] = set()
        """Of the live requests: one at a time has an id."""
        self._outstanding: Counter[str] = Counter()
        self._peaks = deque([Counter[str]()], maxlen=_PEAK_TICKS)
        """The most that was outstanding, tick by tick."""
        self._earlier = Counter[str]()
        """The most of all these, until the last tick."""
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._idle = asyncio.Event()

    def __repr__(self) -> str:
        return f"Gateway(live={len(self._live)}, outstanding={dict(self._outstanding)})"

    async def serve(self) -> None:
        """Until cancelled; then what runs may finish."""
        answers = await self._nc.subscribe(f"{self._inbox}.*", cb=self._answered)
        asks = await self._nc.subscribe(subjects.INFER_ALL, queue=GATEWAYS, cb=self._asked)
        ticking = asyncio.create_task(self._tick())
        try:
            await ticking
        finally:
            if not self._nc.is_closed:
                if self._nc.is_connected:
                    with contextlib.suppress(Error):
                        await asks.drain()  # type: ignore[no-untyped-call] # what was sent to us nobody else answers
                await self._finish()
                await answers.unsubscribe()

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(self._last_s):
                while self._live:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            for live in list(self._live.values()):
                await self._abort(live.entry.id)
                await self._give_up(live, Problem("broker_stopped", "the broker stopped: try again"))

    async def _asked(self, message: Msg) -> None:
        """A client's request."""
        try:
            source = subjects.parse_infer(message.subject)
        except ValueError as error:
            log.warning("infer ignored error=%s", error)
            return
        if not message.reply or not core.may_answer(message.reply, source.tenant):
            log.warning("infer ignored tenant=%s error=foreign or missing reply subject", source.tenant)
            return
        try:
            entry = self._admitted(message, source)
        except Undecodable as error:
            await self._refuse(message.reply, Problem("bad_request", str(error)), None)
            return
        if entry.refused is not None:
            await self._refuse(message.reply, core.problem_of(entry.refused, source.model), entry.id)
            return
        await self._begin(entry, message.reply)

    def _admitted(self, message: Msg, source: subjects.Source) -> Entry:
        now = self._clock()
        headers = message.headers or {}
        context = AdmissionContext(
            source=source,
            catalog=self._catalog(),
            now=now,
            new_id=lambda _: uuid7(now, self._entropy()),
            traceparent=headers.get(TRACEPARENT),
            streams=True,
        )
        return admit(decode_job(message.data, headers), context)

    async def _begin(self, entry: Entry, client: str) -> None:
        if entry.id in self._jobs:
            await self._refuse(client, core.in_use(entry.id), entry.id)
            return
        where = self._choose(entry.model, ())
        if not isinstance(where, str):
            await self._refuse(client, core.problem_of(where, entry.model), entry.id)
            return
        now, token = self._clock(), secrets.token_hex(8)
        attempt = self._attempt(entry, where, token, number=1, tried=(), now=now)
        self._hand(Live(entry, client, began_ms=now, attempt=attempt, token=token, started_ms=now))

    def _choose(self, model: str, tried: Sequence[str]) -> str | core.Full | core.Absent | core.Capped | core.Gone:
        return core.choose(
            model,
            catalog=self._catalog(),
            beats=self._beats(),
            outstanding=self._outstanding,
            peak=self._earlier | self._peaks[-1],
            unit=(self._entropy() % 1_000_003) / 1_000_003,
            tried=tried,
            capped=self._is_capped,
        )

    def _is_capped(self, deployment: str) -> bool:
        found = self._catalog().deployments.get(deployment)
        return found is not None and self._caps.is_reached(
            deployment, found, running=self._outstanding.get(deployment, 0)
        )

    def _hand(self, live: Live) -> None:
        """The present attempt, to its deployment's workers. The next request does not wait for NATS to have it."""
        where = live.attempt.deployment
        self._live[live.token] = live
        self._jobs.add(live.entry.id)
        self._outstanding[where] += 1
        self._peaks[-1][where] = max(self._peaks[-1][where], self._outstanding[where])
        self._spawn(self._publish(live))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, live: Live) -> None:
        token = live.token
        outgoing = Outgoing(subjects.now(live.attempt.deployment), packed(live.attempt))
        try:
            await publish_one(self._nc, outgoing, message_id=f"{live.entry.id}.{token}")
        except (Error, NotStored) as error:
            if token not in self._live or live.heard_ms is not None:
                return  # a worker had it all the same
            await self._give_up(live, Problem("unavailable", f"{Unavailable('NATS', str(error))}: try again"))

    async def _again(self, live: Live) -> bool:
        """Hand it to another deployment; False if none can take it."""
        if live.spoke or not live.attempt.fallback:
            return False
        tried = (*live.tried, live.attempt.deployment)
        where = self._choose(live.entry.model, tried)
        if not isinstance(where, str):
            return False
        log.info("fallback job=%s from=%s to=%s", live.entry.id, live.attempt.deployment, where)
        self._over(live)
        live.token, live.tried, live.heard_ms, live.started_ms = secrets.token_hex(8), tried, None, self._clock()
        live.attempt = self._attempt(
            live.entry, where, live.token, number=live.attempt.number + 1, tried=tried, now=live.started_ms
        )
        self._hand(live)
        return True

    def _attempt(
        self, entry: Entry, deployment: str, token: str, *, number: int, tried: Sequence[str], now: Ms
    ) -> Attempt:
        others = core.has_another(
            entry.model, catalog=self._catalog(), beats=self._beats(), tried=(*tried, deployment)
        )
        return Attempt(
            job=entry.id,
            number=number,
            tenant=entry.tenant,
            lane=entry.lane,
            model=entry.model,
            deployment=deployment,
            endpoint=entry.endpoint,
            body=entry.body,
            admitted_ms=entry.admitted_ms,
            deadline_ms=entry.deadline_ms,
            dispatched_ms=now,
            reply_to=f"{self._inbox}.{token}",
            key=entry.key,
            custom_id=entry.custom_id,
            metadata=entry.metadata,
            fallback=others,
            traceparent=entry.traceparent,
        )

    async def _answered(self, message: Msg) -> None:
        """A worker's word on a request, or the server's that the client is gone."""
        live = self._live.get(message.subject.rpartition(".")[2])
        if live is None:
            return
        headers = message.headers or {}
        if headers.get("Status") == "503":
            await self._left(live)
            return
        live.heard_ms = self._clock()
        kind = headers.get(KIND, "")
        if kind == ERROR and FAILURE in headers:
            if await self._again(live):
                return
            self._last_word(live, _failure.decode(headers[FAILURE]))
        live.spoke = live.spoke or kind == CHUNK
        await self._tell(live, message.data, kind, headers.get(SEQ))
        if kind in {FINAL, ERROR}:
            self._over(live)

    async def _left(self, live: Live) -> None:
        log.info("client left job=%s", live.entry.id)
        self._over(live)
        await self._abort(live.entry.id)

    def _last_word(self, live: Live, failure: Failure) -> None:
        """Into the record, where no worker's report will end it."""
        self._spawn(publish_rulings(self._nc, [Fail(live.attempt, failure)]))

    async def _tell(self, live: Live, data: bytes, kind: str, sequence: str | None) -> None:
        """To the client; the reply subject is ours, so that the server says if nobody listens there."""
        headers = {KIND: kind, JOB: str(live.entry.id)}
        if sequence is not None:
            headers[SEQ] = sequence
        await self._nc.publish(live.client, data, f"{self._inbox}.{live.token}", headers=headers)

    async def _refuse(self, client: str, problem: Problem, job: UUID | None) -> None:
        headers = {KIND: ERROR} if job is None else {KIND: ERROR, JOB: str(job)}
        await self._nc.publish(client, jsoned(ErrorBody(problem)), headers=headers)

    def _over(self, live: Live) -> None:
        if self._live.pop(live.token, None) is not None:
            self._jobs.discard(live.entry.id)
            self._outstanding[live.attempt.deployment] -= 1
        if not self._live:
            self._idle.set()

    async def _give_up(self, live: Live, problem: Problem) -> None:
        self._over(live)
        await self._refuse(live.client, problem, live.entry.id)

    async def _abort(self, job: UUID) -> None:
        await self._nc.publish(subjects.CTL_ABORT, job.bytes)

    async def _tick(self) -> None:
        """Give up on what took too long."""
        while True:
            await asyncio.sleep(self._tick_s)
            self._peaks.append(Counter(self._outstanding))
            self._earlier = reduce(or_, self._peaks)
            now = self._clock()
            for live in list(self._live.values()):
                why = core.overdue(
                    began=live.began_ms,
                    started=live.started_ms,
                    heard=live.heard_ms,
                    deadline=live.entry.deadline_ms,
                    now=now,
                )
                if why is not None:
                    await self._overdue(live, why)

    async def _overdue(self, live: Live, why: Problem) -> None:
        log.warning("overdue job=%s code=%s", live.entry.id, why.code)
        await self._abort(live.entry.id)
        if not core.is_lost(why):
            await self._give_up(live, why)
        elif not await self._again(live):
            self._last_word(live, EngineLost(why.message))
            is_gone = isinstance(self._choose(live.entry.model, live.tried), core.Gone)
            await self._give_up(live, core.problem_of(core.Gone(), live.entry.model) if is_gone else why)

"""What a Python producer imports: submit jobs and batches, read results, ask and wait.

    async with Client.connect("nats://127.0.0.1:4222") as client:
        reply = await client.infer("small-chat", {"messages": [{"role": "user", "content": "Hello!"}]})

Everything else is on the wire as the README states it; nothing here is needed to use infermq.
"""

import asyncio
import contextlib
import re
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, TypeVar
from uuid import UUID

import msgspec
import nats
from msgspec.structs import replace
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.errors import Error, MaxPayloadError, NoRespondersError, NoServersError
from nats.errors import TimeoutError as NatsTimeoutError

from broker.bus.connect import Connection
from broker.errors import Unavailable
from schemas import subjects
from schemas.api import (
    Batch,
    BatchCreate,
    Batches,
    BatchList,
    BatchRef,
    BatchResults,
    BatchSeal,
    CatalogApply,
    CatalogShow,
    ErrorBody,
    JobRef,
    JobShow,
    Nothing,
    Problem,
    Result,
    ResultPage,
    Status,
)
from schemas.clock import wall_clock
from schemas.codec import (
    BUNDLE,
    BUNDLE_BYTES,
    ERROR,
    KIND,
    Undecodable,
    bundled,
    bundles,
    decode_job,
    jsoned,
    packed,
    place_of,
)
from schemas.endpoints import CHAT
from schemas.ids import line_id, uuid7
from schemas.jetstream import BATCH_BYTES, NotStored, Outgoing, publish_one
from schemas.job import BODY_BYTES, Job, Lane
from schemas.outcome import Usage
from schemas.subjects import DEFAULT, LONGEST_NAME, Source, Verb
from schemas.units import Ms

T = TypeVar("T")
_ACK_S = 5.0
"""How long a stream may take to say that it has a message."""
_CALL_S = 10.0
_TRIES = 5
_IN_FLIGHT = 8
"""Groups on their way at once."""
_POLL_S = 2.0
"""The net under the live feed of results."""
_SOON_S = 0.1
"""Until results that were recorded while a page was read are asked for: their notice may have come already."""
_SILENCE_S = 12.0
"""The gateway passes on a keepalive each second."""
_FULL = frozenset({10077, 10047, 10167, 10168})
"""The stream, or a limit of it, has no more room."""
_TOKEN_BYTES = 900
"""Of a name in a subject. NATS closes a connection whose control line has more than 4096 bytes; four names stand in one."""
_REST_BYTES = 64 * 1024
"""Of a job without its body: more than its longest texts need."""
_LONGEST_S = 7 * 24 * 3600
"""A deadline further ahead is refused."""


class Refused(Exception):
    """The broker's no, with its reason; or the client's, for what the broker could not even read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.field}: {problem.message}" if problem.field else problem.message)
        self.problem = problem


class NoBroker(Unavailable):
    """NATS answers, and no broker listens there."""

    def __init__(self) -> None:
        super().__init__("infermq", "no broker listens on this NATS: start one with `infermq up` or `infermq serve`")


class BacklogFull(Exception):
    """The stream takes no more jobs of this kind until the broker has taken in those that wait."""


class TimedOut(Exception):
    """No answer in time."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job and where it goes."""

    model: str
    job: Job
    lane: Lane = Lane.BULK


@dataclass(frozen=True, slots=True)
class Piece:
    """A streamed chunk: the engine's OpenAI object, and its text, if it has some."""

    data: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    job: UUID | None
    body: bytes
    """The OpenAI response."""

    def text(self) -> str:
        """What the model said in its first choice."""
        return _text_of(self.body, "message")

    def usage(self) -> Usage:
        read = _answer.decode(self.body)
        return Usage(read.usage.prompt_tokens, read.usage.completion_tokens)


class _Content(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Content | None = None
    delta: _Content | None = None
    text: str | None = None


class _Tokens(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Tokens = msgspec.field(default_factory=_Tokens)


_answer = msgspec.json.Decoder(_Answer)


def _text_of(data: bytes, part: str) -> str:
    choices = _answer.decode(data).choices
    if not choices:
        return ""
    content = getattr(choices[0], part)
    return (content.content if content else choices[0].text) or ""


class Client:
    """A producer's connection. One for a process is enough; it is safe to use from many tasks."""

    def __init__(
        self,
        nc: Nats,
        *,
        tenant: str,
        key: str,
        ack_s: float = _ACK_S,
        call_s: float = _CALL_S,
        poll_s: float = _POLL_S,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self._nc = nc
        self._tenant = tenant
        self._key = key
        self._ack_s = ack_s
        self._call_s = call_s
        self._poll_s = poll_s
        self._silence_s = silence_s

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *, tenant: str = DEFAULT, key: str = DEFAULT) -> AsyncIterator[Self]:
        """Raises: Unavailable, at once, when NATS is not there, later it is waited for; Refused, for a bad name."""
        _check_name("tenant", tenant)
        _check_name("key", key)
        nc = await _connected(url, tenant)
        try:
            yield cls(nc, tenant=tenant, key=key)
        finally:
            await nc.close()

    @property
    def nats(self) -> Nats:
        """The connection itself."""
        return self._nc

    # submit

    async def submit(
        self,
        model: str,
        body: Mapping[str, Any] | bytes,
        *,
        endpoint: str = CHAT.path,
        lane: Lane = Lane.STANDARD,
        custom_id: str | None = None,
        deadline_ms: int | None = None,
        metadata: dict[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> UUID:
        """One job; its id once it is accepted. Raises: Refused, Unavailable, BacklogFull.

        A second job with the same `idempotency_key` is not run; the id to ask for is the first one's.
        """
        job = Job(
            id=new_id(),
            endpoint=endpoint,
            body=_body(body),
            custom_id=custom_id,
            deadline_ms=deadline_ms,
            metadata=metadata,
            idempotency_key=idempotency_key,
        )
        await self._store(self._outgoing(Submission(model, job, lane)), str(job.id))
        assert job.id is not None  # noqa: S101 - given above
        return job.id

    async def submit_many(
        self, jobs: AsyncIterable[Submission] | Iterable[Submission], *, batch_id: UUID | None = None
    ) -> int:
        """Jobs in messages of up to 1000 and 256 KiB, some in flight at once; how many were accepted.

        Jobs should carry ids (`line_id` for those of a batch): then sending all of them again after an error is safe.
        Raises: Unavailable, BacklogFull; Refused, for a job that no intake could read.
        """
        count = 0
        # a TaskGroup that fails at its end leaves the caller's task told to end, before Python 3.13
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
            await _stopped(sends)
        return count

    async def _prepared(
        self, jobs: AsyncIterable[Submission] | Iterable[Submission], batch_id: UUID | None
    ) -> AsyncIterator[Outgoing]:
        number = 0
        async for one in _each(jobs):
            number += 1
            job = one.job
            if batch_id is not None and job.batch is None:
                line = job.line or number
                job = replace(job, batch=batch_id, line=line, id=job.id or line_id(batch_id, line))
            try:
                yield self._outgoing(Submission(one.model, job, one.lane))
            except Refused as refused:
                problem = refused.problem
                raise Refused(replace(problem, message=f"{problem.message}, in job {number}")) from refused

    def _outgoing(self, one: Submission) -> Outgoing:
        subject = _submit_subject(one.lane, one.model, self._tenant, self._key)
        return Outgoing(subject, _payload(one.job))

    async def _store_all(self, messages: Sequence[Outgoing]) -> None:
        """Side by side; what one of them raises, once all have ended."""
        storing = [self._store(message, secrets.token_hex(12)) for message in messages]
        for ended in await asyncio.gather(*storing, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    async def _store(self, message: Outgoing, name: str) -> None:
        """Until it is stored, under one name, so that it is stored once."""
        for attempt in range(_TRIES):
            try:
                await publish_one(self._nc, message, message_id=name, timeout_s=self._ack_s)
            except NotStored as error:
                if error.code in _FULL:
                    raise BacklogFull(f"{error}: wait until waiting jobs are taken in, and send again") from error
                if attempt == _TRIES - 1:
                    raise Unavailable("NATS", str(error)) from error
            except NoRespondersError as error:
                raise NoBroker from error
            except Error as error:
                if attempt == _TRIES - 1:
                    raise Unavailable("NATS", str(error) or type(error).__name__) from error
            else:
                return
            await asyncio.sleep(0.1 * 2**attempt)

    # batches, results, jobs

    async def create_batch(
        self, *, lane: Lane = Lane.BULK, deadline_ms: int | None = None, metadata: dict[str, str] | None = None
    ) -> Batch:
        ask = BatchCreate(id=new_id(), lane=lane, deadline_ms=deadline_ms, metadata=metadata or {})
        return await self._call(Verb.BATCH_CREATE, ask, Batch)

    async def seal(self, batch: UUID, *, jobs: int) -> Batch:
        """No more will come: the batch is complete once so many have ended."""
        return await self._call(Verb.BATCH_SEAL, BatchSeal(batch, jobs), Batch)

    async def batch(self, batch: UUID) -> Batch:
        return await self._call(Verb.BATCH_SHOW, BatchRef(batch), Batch)

    async def batches(self, *, limit: int = 20, before: UUID | None = None) -> tuple[Batch, ...]:
        """Newest first."""
        return (await self._call(Verb.BATCH_LIST, BatchList(limit, before), Batches)).batches

    async def results(self, batch: UUID, *, cursor: str | None = None, wait: bool = True) -> AsyncIterator[Result]:
        """Each result once, in the order recorded, from the first or after `cursor`; ends with the batch.

        `wait=False` ends with those that are there.
        """
        async for page in self.result_pages(batch, cursor=cursor, wait=wait):
            for result in page.results:
                yield result

    async def result_pages(
        self, batch: UUID, *, cursor: str | None = None, wait: bool = True
    ) -> AsyncIterator[ResultPage]:
        """The same by the page, each with the cursor from which another reader can go on."""
        news = asyncio.Event()

        async def heard(_: Msg) -> None:
            news.set()

        feed = await self._nc.subscribe(subjects.result(self._tenant, batch), cb=heard)
        try:
            while True:
                news.clear()
                page = await self._page(batch, cursor)
                if page.results:
                    yield page
                    cursor = page.cursor
                if page.results and page.more:
                    continue
                if page.completed or not wait:
                    return
                await _either(news, _SOON_S if page.more else self._poll_s)
        finally:
            if not self._nc.is_closed:
                await feed.unsubscribe()

    async def _page(self, batch: UUID, cursor: str | None) -> ResultPage:
        """Through reconnects and restarts of the broker."""
        for attempt in range(100):
            try:
                return await self._call(Verb.BATCH_RESULTS, BatchResults(batch, cursor), ResultPage)
            except Unavailable:
                if attempt == 99:
                    raise
            await asyncio.sleep(min(2.0, 0.1 * 2**attempt))
        raise AssertionError("unreachable")

    async def job(self, job: UUID) -> JobShow:
        return await self._call(Verb.JOB_SHOW, JobRef(job), JobShow)

    async def apply_catalog(self, toml: str) -> CatalogShow:
        return await self._call(Verb.CATALOG_APPLY, CatalogApply(toml), CatalogShow)

    async def catalog(self) -> CatalogShow:
        return await self._call(Verb.CATALOG_SHOW, Nothing(), CatalogShow)

    async def status(self) -> Status:
        return await self._call(Verb.STATUS, Nothing(), Status)

    async def _call(self, verb: Verb, ask: msgspec.Struct, answer: type[T]) -> T:
        """Raises: Refused, NoBroker, Unavailable."""
        subject = subjects.api(verb, self._tenant, self._key)
        try:
            message = await self._nc.request(subject, _json(ask, "bad_request"), timeout=self._call_s)
        except MaxPayloadError as error:
            what = "what is asked is larger than a message of this NATS server may be"
            raise Refused(Problem("too_large", what, limit=self._nc.max_payload)) from error
        except NoRespondersError as error:
            raise NoBroker from error
        except NatsTimeoutError as error:
            raise Unavailable("infermq", f"no answer to {verb} within {self._call_s:.0f} s") from error
        except Error as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error
        if (message.headers or {}).get(KIND) == ERROR:
            raise _refusal(message.data)
        return msgspec.json.decode(message.data, type=answer)

    # ask and wait

    async def infer(
        self, model: str, body: Mapping[str, Any] | bytes, *, endpoint: str = CHAT.path, timeout_s: float = 120.0
    ) -> Reply:
        """A whole answer. Raises: Refused, TimedOut, NoBroker, Unavailable."""
        async with contextlib.aclosing(self._conversation(model, body, endpoint, timeout_s)) as steps:
            async for step in steps:
                if isinstance(step, Reply):
                    return step
        raise AssertionError("a conversation ends with a reply or an error")

    async def infer_stream(
        self, model: str, body: Mapping[str, Any], *, endpoint: str = CHAT.path, timeout_s: float = 120.0
    ) -> AsyncGenerator[Piece | Reply, None]:
        """Pieces as they come, then the whole Reply, which is right even where a piece was lost.

        Leaving the loop early ends the request. Raises as `infer`.
        """
        asked = {**body, "stream": True}
        async with contextlib.aclosing(self._conversation(model, asked, endpoint, timeout_s)) as steps:
            async for step in steps:
                yield step

    async def _conversation(
        self, model: str, body: Mapping[str, Any] | bytes, endpoint: str, timeout_s: float
    ) -> AsyncGenerator[Piece | Reply, None]:
        deadline = Ms(wall_clock() + _timeout_ms(timeout_s))
        payload = _payload(Job(endpoint=endpoint, body=_body(body), deadline_ms=deadline))
        subject = _infer_subject(model, self._tenant, self._key)
        inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(inbox)
        try:
            await self._nc.publish(subject, payload, inbox)
            while True:
                message = await self._next(subscription.next_msg, timeout_s)
                step = _step(message)
                if step is not None:
                    yield step
                if isinstance(step, Reply):
                    return
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

    async def _next(self, next_msg: Any, timeout_s: float) -> Msg:
        try:
            message: Msg = await next_msg(timeout=min(timeout_s + 1, self._silence_s))
        except NatsTimeoutError as error:
            raise TimedOut("the broker went silent: ask again") from error
        except Error as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error
        return message


def _step(message: Msg) -> Piece | Reply | None:
    """Raises: Refused, NoBroker."""
    headers = message.headers or {}
    if headers.get("Status") == "503":
        raise NoBroker
    match headers.get(KIND):
        case "chunk":
            return Piece(message.data, _text_of(message.data, "delta"))
        case "final":
            return Reply(_job(headers), message.data)
        case "error":
            raise _refusal(message.data)
        case _:
            return None


def _job(headers: Mapping[str, str]) -> UUID | None:
    return UUID(headers["Infermq-Job"]) if "Infermq-Job" in headers else None


def _refusal(data: bytes) -> Exception:
    problem = msgspec.json.decode(data, type=ErrorBody).error
    if problem.code == "timed_out":
        return TimedOut(problem.message)
    if problem.code == "unavailable":
        return Unavailable("infermq", problem.message)
    return Refused(problem)


def new_id() -> UUID:
    """For a batch or a job."""
    return uuid7(wall_clock(), secrets.randbits(80))


def _body(body: Mapping[str, Any] | bytes) -> bytes:
    """Raises: Refused."""
    return body if isinstance(body, bytes) else _json(body, "body_not_json", "body")


def _json(value: object, code: str, field: str | None = None) -> bytes:
    """Raises: Refused."""
    try:
        return jsoned(value)
    except _UNWRITABLE as error:
        raise Refused(Problem(code, f"JSON cannot hold it: {error}", field)) from error


_UNWRITABLE = (UnicodeEncodeError, OverflowError, RecursionError)


def _payload(job: Job) -> bytes:
    """As MessagePack. Raises: Refused, for what would be accepted and become a dead letter, or no message at all."""
    size = len(job.body)
    if size > BODY_BYTES:
        message = f"the body is {size} bytes, the limit is {BODY_BYTES}: split the request or shorten the prompt"
        raise Refused(Problem("body_too_large", message, "body", BODY_BYTES))
    try:
        payload = packed(job)
        decode_job(payload, None)
    except Undecodable as error:
        what, path = place_of(str(error.__cause__))
        raise Refused(Problem("bad_job", what, path.removeprefix(".") or None)) from error
    except _UNWRITABLE as error:
        raise Refused(Problem("bad_job", str(error), _unwritable(job))) from error
    if len(payload) > size + _REST_BYTES:
        message = f"it has {len(job.endpoint)} characters: it is an address such as {CHAT.path}"
        raise Refused(Problem("endpoint_not_served", message, "endpoint"))
    return payload


def _unwritable(job: Job) -> str | None:
    """Which field of it cannot be packed."""
    for name in job.__struct_fields__:
        try:
            packed(getattr(job, name))
        except _UNWRITABLE:
            return name
    return None


def _timeout_ms(timeout_s: float) -> int:
    """Raises: Refused."""
    if not 0 < timeout_s <= _LONGEST_S:
        message = f"it is {timeout_s:g} s, it must be more than 0 and at most {_LONGEST_S}"
        raise Refused(Problem("bad_timeout", message, "timeout_s", _LONGEST_S))
    return int(timeout_s * 1000)


def _check_name(field: str, name: str, code: str = "bad_name") -> None:
    """Raises: Refused, for a name that no subject can carry."""
    fits = 1 <= len(name) <= LONGEST_NAME and len(subjects.token(name)) <= _TOKEN_BYTES
    if not fits or _SURROGATE.search(name):
        message = f"{name[:20]!r} has {len(name)} characters: a name has 1 to {LONGEST_NAME}, fewer beyond ASCII"
        raise Refused(Problem(code, message, field, LONGEST_NAME))


_SURROGATE = re.compile("[\ud800-\udfff]")


async def _connected(url: str, tenant: str) -> Nats:
    async def said(error: Exception) -> None:
        """Without it nats-py would go on trying."""
        raise error

    async def quiet(_: Exception) -> None:
        """Errors reach the caller where they matter."""

    try:
        async with asyncio.timeout(5):
            first = await nats.connect(url, allow_reconnect=False, error_cb=said, connect_timeout=2)
            await first.close()
        nc = Connection()
        await nc.connect(
            url,
            name="infermq-client",
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            inbox_prefix=subjects.inbox_prefix(tenant),
            error_cb=quiet,
            pending_size=2 * BATCH_BYTES,
        )
    except (OSError, NoServersError, Error, TimeoutError) as error:
        raise Unavailable("NATS", f"{url}: {str(error) or type(error).__name__}") from error
    return nc


async def _either(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


async def _fewer(sends: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those that go on when one at least has ended. Raises what it raised."""
    ended, others = await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
    for one in ended:
        one.result()
    return others


async def _stopped(sends: set[asyncio.Task[None]]) -> None:
    for one in sends:
        one.cancel()
    await asyncio.gather(*sends, return_exceptions=True)


async def _each(jobs: AsyncIterable[Submission] | Iterable[Submission]) -> AsyncIterator[Submission]:
    if isinstance(jobs, AsyncIterable):
        async for one in jobs:
            yield one
        return
    for one in jobs:
        yield one


async def _groups(messages: AsyncIterator[Outgoing]) -> AsyncIterator[list[Outgoing]]:
    """Jobs that fit into one message, if all are of one subject.

    No atomic batches, which could hold more: the server writes these twice, in files of their own, and has a limit for
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
    """Those of one subject share a message: a server's work is by the message."""
    of: defaultdict[str, list[bytes]] = defaultdict(list)
    for job in jobs:
        of[job.subject].append(job.payload)
    return [Outgoing(subject, bundled(bundle)) for subject, payloads in of.items() for bundle in bundles(payloads)]


@lru_cache(maxsize=1024)
def _submit_subject(lane: Lane, model: str, tenant: str, key: str) -> str:
    """Escaping costs more than the rest of a submission, and a producer has few models. Raises: Refused."""
    _check_name("model", model, "unknown_model")
    return subjects.submit(Source(lane, model, tenant, key))


@lru_cache(maxsize=1024)
def _infer_subject(model: str, tenant: str, key: str) -> str:
    """Raises: Refused."""
    _check_name("model", model, "unknown_model")
    return subjects.infer(model, tenant, key)

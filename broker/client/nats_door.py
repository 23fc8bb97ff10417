"""The way to a broker over NATS: a `Door`."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

from broker.client.denials import Denials, Denied
from broker.client.door import NotYet, Piece, Question, Reply
from broker.client.encode import check_name, read_key
from broker.client.entry import Entry
from broker.client.errors import BacklogFull, NoBroker, RequestRefused, RequestTimedOut, refusal_of
from broker.client.reading import StreamText
from broker.errors import Unavailable
from schemas import codec, subjects
from schemas.api import Problem
from schemas.codec import ERROR, KIND
from schemas.jetstream import (
    BATCH_BYTES,
    Kind,
    MaxPayloadError,
    Message,
    NatsError,
    NatsTimeoutError,
    NoRespondersError,
    NoServersError,
    NotStored,
    Outgoing,
    is_refusal,
    publish_one,
)
from schemas.jetstream.client import NatsClient, reach
from schemas.jetstream.trust import Trust, why
from schemas.subjects import Verb
from schemas.urls import public

_CONNECT_S = 5.0
_LET_IN_S = 4.0
"""How long a node may take to let us in. It refuses a key after a second, or after two if no broker answers it."""
REFUSED_S = 6.0
"""How long a connection that was lost may be refused before the calls on it end. While no broker runs a server refuses
everybody, and a broker that is started again is there after some seconds."""
_ACK_S = 5.0
"""How long a stream may take to acknowledge a message."""
_SILENCE_S = 12.0
"""How long the relay may be silent. It passes on a keepalive each second."""


class NatsDoor:
    """A connection to NATS. One that is lost comes back by itself."""

    files = None

    def __init__(
        self,
        nc: NatsClient,
        *,
        tenant: str,
        key: str,
        denials: Denials | None = None,
        entry: Entry | None = None,
        ack_s: float = _ACK_S,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self.nc = nc
        self.tenant = tenant
        self.key = key
        self._denials = Denials() if denials is None else denials
        self._entry = entry or Entry(_refused(None), within_s=REFUSED_S)
        self._ack_s = ack_s
        self._silence_s = silence_s

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, *, api_key: str | None, trust: Trust | None, tenant: str, key: str
    ) -> "AsyncIterator[NatsDoor]":
        """Raises: Unavailable, RequestRefused."""
        denials, entry = Denials(), Entry(_refused(api_key), within_s=REFUSED_S)
        inbox_prefix = subjects.inbox_prefix(tenant, key)
        nc = await _connected(url, api_key, trust, inbox_prefix=inbox_prefix, denials=denials, entry=entry)
        try:
            if api_key is not None:
                entry.ended = partial(_try_no_more, nc)
                await nc.subscribe(subjects.key_ended(tenant, key), cb=entry.on_notice)
            yield cls(nc, tenant=tenant, key=key, denials=denials, entry=entry)
        finally:
            await nc.close()

    async def call(self, verb: Verb, ask: bytes, *, within_s: float, held_s: float = 0.0) -> bytes:  # noqa: ARG002 - none is kept
        subject = subjects.api(verb, self.tenant, self.key)
        try:
            async with self._entry.held():
                asking = self.nc.request(subject, ask, timeout=within_s)
                message = await self._denials.unless_denied(subject, asking)
        except Denied as error:
            what = f"a key of this role may not call {verb}: `infermq key show {self.key}` says what it may"
            raise RequestRefused(Problem("forbidden", what)) from error
        except MaxPayloadError as error:
            what = "what is asked is larger than a message of this NATS server may be"
            raise RequestRefused(Problem("too_large", what, limit=self.nc.max_payload)) from error
        except NoRespondersError as error:
            raise NoBroker from error
        except NatsTimeoutError as error:
            raise Unavailable("infermq", f"no answer to {verb} within {within_s:.0f} s") from error
        except NatsError as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error
        if (message.headers or {}).get(KIND) == ERROR:
            raise refusal_of(message.data)
        data: bytes = message.data
        return data

    async def store(self, message: Outgoing, name: str) -> None:
        """As of every door. If its key is let in no more meanwhile, whether it was stored is not known.

        While a cluster elects a leader, nobody answers, or the answer is that the stream is not available.
        """
        try:
            async with self._entry.held():
                await publish_one(self.nc, message, message_id=name, timeout_s=self._ack_s)
        except NotStored as error:
            if error.kind is Kind.FULL:
                raise BacklogFull(_full(error)) from error
            kind = NotYet if error.kind is Kind.BUSY else Unavailable
            raise kind("NATS", str(error)) from error
        except NatsError as error:
            if isinstance(error, NoRespondersError) and not await self._has_broker():
                raise NoBroker from error
            raise NotYet("NATS", str(error) or type(error).__name__) from error

    async def converse(self, question: Question) -> AsyncGenerator[Piece | Reply, None]:
        subject = _infer_subject(question.model, self.tenant, self.key)
        inbox = self.nc.new_inbox()
        async with self._entry.held():
            subscription = await self.nc.subscribe(inbox)
        try:
            await self.nc.publish(subject, question.payload, inbox)
            text = StreamText()
            while True:
                message = await self._next(subscription.next_msg, question.timeout_s)
                step = _step(message, text)
                if step is not None:
                    yield step
                if isinstance(step, Reply):
                    return
        finally:
            if not self.nc.is_closed:
                await subscription.unsubscribe()

    @asynccontextmanager
    async def news(self, batch: UUID) -> "AsyncIterator[_Notices]":
        notices = _Notices()
        async with self._entry.held():
            feed = await self.nc.subscribe(subjects.result(self.tenant, batch), cb=notices.hear)
        try:
            yield notices
        finally:
            if not self.nc.is_closed:
                await feed.unsubscribe()

    async def _next(self, next_msg: Any, timeout_s: float) -> Message:
        try:
            async with self._entry.held():
                message: Message = await next_msg(timeout=min(timeout_s + 1, self._silence_s))
        except NatsTimeoutError as error:
            raise RequestTimedOut("the broker went silent: ask again") from error
        except NatsError as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error
        return message

    async def _has_broker(self) -> bool:
        """Say whether some broker listens, even if it does not answer now."""
        try:
            await self.nc.request(subjects.api(Verb.CATALOG_SHOW, self.tenant, self.key), b"", timeout=self._ack_s)
        except NoRespondersError:
            return False
        except NatsError:
            return True
        return True


class _Notices:
    """Notices of results, which no broker keeps back: `News`."""

    held_s = 0.0

    def __init__(self) -> None:
        self._heard = asyncio.Event()

    async def hear(self, _: Message) -> None:
        self._heard.set()

    def clear(self) -> None:
        self._heard.clear()

    async def wait(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()


def _step(message: Message, text: StreamText) -> Piece | Reply | None:
    """Read a message of the relay; None: a sign of life. Raises: RequestRefused, NoBroker, and as `refusal_of`."""
    headers = message.headers or {}
    if headers.get("Status") == "503":
        raise NoBroker
    match headers.get(codec.KIND):
        case codec.CHUNK:
            return Piece(message.data, text.of(message.data))
        case codec.FINAL:
            job = UUID(headers[codec.JOB]) if codec.JOB in headers else None
            return Reply(job, message.data)
        case codec.ERROR:
            raise refusal_of(message.data)
        case _:
            return None


@lru_cache(maxsize=1024)
def _infer_subject(model: str, tenant: str, key: str) -> str:
    """Build the subject of a request, once for each model. Raises: RequestRefused."""
    check_name("model", model, "unknown_model")
    return subjects.infer(model, tenant, key)


def _full(error: NotStored) -> str:
    """Say which limit was reached, and what to do."""
    return (
        f"{error}: wait until waiting jobs are taken in, and send again; or raise the limit (see operating.md, Room)"
    )


def _try_no_more(nc: NatsClient) -> None:
    """Let a connection end for good when the server ends it, since its key will never be let in again."""
    nc.options["allow_reconnect"] = False


async def _connected(
    url: str, api_key: str | None, trust: Trust | None, *, inbox_prefix: str, denials: Denials, entry: Entry
) -> NatsClient:
    token = None if api_key is None else api_key.strip()

    async def on_error(error: Exception) -> None:
        """Log nothing: errors that matter are raised to the caller."""
        await denials.heard(error)
        await entry.on_error(error)

    try:
        async with asyncio.timeout(_CONNECT_S):
            await reach(url, token=token, trust=trust, connect_timeout=_LET_IN_S)
        nc = NatsClient()
        await nc.connect(
            url,
            name="infermq-client",
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            inbox_prefix=inbox_prefix,
            token=token,
            trust=trust,
            error_cb=on_error,
            reconnected_cb=entry.on_back,
            pending_size=2 * BATCH_BYTES,
        )
    except (OSError, NoServersError, NatsError, TimeoutError) as error:
        if is_refusal(error):
            raise RequestRefused(_refused(api_key)) from error
        raise Unavailable("NATS", f"{public(url)}: {why(error)}") from error
    return nc


def _refused(api_key: str | None) -> Problem:
    if api_key is None:
        return Problem("no_key", "NATS asks for an API key: set INFERMQ_API_KEY, or INFERMQ_API_KEY_FILE")
    name = read_key(api_key).id
    why = "it is unknown, expired or revoked, or no broker runs that could check it"
    return Problem("unauthorized", f"NATS refuses the key {name}: {why}")

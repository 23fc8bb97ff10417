"""Serves the API over NATS: a FastStream handler for each verb decodes, calls the use-case and encodes.

Requests and answers are JSON. The subject names tenant and key. An answer with the header `Infermq-Kind: error` is an
ErrorBody.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fast_depends.msgspec import MsgSpecSerializer
from faststream import BaseMiddleware, ContextRepo, ExceptionMiddleware
from faststream.nats import NatsBroker, NatsMessage, NatsPublishCommand, NatsResponse
from faststream.nats.security import NatsNKey

from broker.core.principal import Identify, Principal
from broker.doors.nats_calls import caller_of, may_be_answered, problem_of_call
from broker.doors.operations import Operation, operations
from broker.ports import Clock
from broker.service import Services
from schemas import subjects
from schemas.api import ErrorBody, Problem
from schemas.codec import ERROR, KIND, UNREADABLE, jsoned
from schemas.jetstream import MaxPayloadError, NatsError
from schemas.jetstream.client import NatsClient, urls_of
from schemas.jetstream.trust import Trust
from schemas.subjects import Verb

log = logging.getLogger(__name__)


@asynccontextmanager
async def nats_api(
    url: str,
    services: Services,
    *,
    name: str,
    connection: Callable[[], NatsClient],
    identify: Identify,
    clock: Clock,
    seed: str | None = None,
    trust: Trust | None = None,
) -> AsyncIterator[NatsBroker]:
    """Answer requests on a connection of its own while the block runs.

    `connection` makes the client before it is connected; `identify` makes the caller out of its tenant and key; `seed` is
    that of a user of the server's configuration, `trust` as of `NatsClient.connect`.
    """
    app = _OnConnection(
        url,
        connection,
        trust,
        name=f"infermq-api-{name}",
        serializer=MsgSpecSerializer(use_fastdepends_errors=False),
        middlewares=[_OwnInboxes, _errors(), _TooLargeAnswers],
        decoder=_decoded,
        max_reconnect_attempts=-1,
        security=None if seed is None else NatsNKey.from_seed(seed),
        logger=None,
    )
    by_verb = operations(services)
    for verb in Verb:
        handler = _handler(by_verb[verb], app.context, lambda tenant, key: identify(tenant, key, clock()))
        app.subscriber(subjects.api_pattern(verb), queue=subjects.BROKERS, title=verb)(handler)
    await app.start()
    try:
        await app.hear()
        yield app
    finally:
        await app.stop()


def _handler(
    operation: Operation[Any], context: ContextRepo, identify: Callable[[str, str], Awaitable[Principal | Problem]]
) -> Callable[[Any], Awaitable[msgspec.Struct]]:
    """Make a handler for FastStream, which decodes `ask` by its annotation and encodes the answer.

    The subject comes from the context and not from a parameter such as `Path()`: fast-depends (3.0) fills each of those
    by a hop to a thread and back.
    """

    async def handle(ask: Any) -> msgspec.Struct:
        message: NatsMessage = context.get_local("message")
        return await operation.use_case(await caller_of(message.raw_message.subject, identify), ask)

    handle.__annotations__ = {"ask": operation.request}
    return handle


async def _decoded(message: NatsMessage) -> object:
    """Decode JSON, however it was labelled. What is none stays bytes, which no request can be made of."""
    try:
        return msgspec.json.decode(message.body)
    except UNREADABLE:
        return message.body


class _OnConnection(NatsBroker):
    """A FastStream broker on a connection of the given kind, which FastStream has no public way to choose."""

    def __init__(self, url: str, connection: Callable[[], NatsClient], trust: Trust | None, **options: Any) -> None:
        super().__init__(urls_of(url), **options)
        self._new = connection
        self._trust = trust

    async def _connect(self) -> NatsClient:
        nc = self._new()
        options = {**self._connection_kwargs}
        options.pop("tls", None)  # with a seed FastStream says that there is none
        await nc.connect(**options, trust=self._trust)
        self.config.connect(nc)
        return nc

    async def hear(self) -> None:
        """Wait until the server knows the subscriptions.

        One flush is not enough: nats-py (2.16) writes its PING in front of the commands that still wait to be written.
        """
        nc = await self.connect()
        with contextlib.suppress(NatsError):  # a connection that is lost here subscribes again by itself
            await nc.flush()
            await nc.flush()


class _OwnInboxes(BaseMiddleware[NatsPublishCommand, Any]):
    """Leaves a call alone whose answer would go anywhere but to an inbox of its key, or nowhere."""

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[object]], msg: Any) -> object:
        if may_be_answered(msg.raw_message.subject, msg.reply_to):
            return await call_next(msg)
        msg.reply_to = ""
        return None


class _TooLargeAnswers(BaseMiddleware[NatsPublishCommand, Any]):
    """Replaces an answer that is too large for a message by an error that says so."""

    async def publish_scope(
        self, call_next: Callable[[NatsPublishCommand], Awaitable[object]], cmd: NatsPublishCommand
    ) -> object:
        try:
            return await call_next(cmd)
        except MaxPayloadError:
            cmd.body, cmd.headers = jsoned(ErrorBody(_TOO_LARGE)), {KIND: ERROR}
            return await call_next(cmd)


_TOO_LARGE = Problem(
    "too_large", "the answer is larger than a message of this NATS server may be: ask for less at once"
)


def _errors() -> ExceptionMiddleware:
    """Make the middleware that turns every exception of a handler into an answer."""
    middleware = ExceptionMiddleware()

    @middleware.add_handler(Exception, publish=True)
    async def answer(error: Exception) -> NatsResponse:
        problem = problem_of_call(error, within=".ask")
        return NatsResponse(jsoned(ErrorBody(problem)), headers={KIND: ERROR})

    return middleware

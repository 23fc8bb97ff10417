"""Serves the API over NATS as `broker.doors.nats_api` does, without FastStream, on any connection."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from broker.core.principal import Identify
from broker.doors.nats_calls import caller_of, may_be_answered, problem_of_call
from broker.doors.operations import Operation, operations
from broker.ports import Clock
from broker.service import Services
from schemas import subjects
from schemas.api import ErrorBody
from schemas.codec import ERROR, KIND, jsoned
from schemas.jetstream import Message, NatsConnection
from schemas.subjects import Verb


@asynccontextmanager
async def plain_api(nc: NatsConnection, services: Services, identify: Identify, clock: Clock) -> AsyncIterator[None]:
    """Answer calls while the block runs."""

    def answering(operation: Operation[Any]) -> Callable[[Message], Awaitable[None]]:
        async def answer(message: Message) -> None:
            if not may_be_answered(message.subject, message.reply):
                return
            try:
                caller = await caller_of(message.subject, lambda tenant, key: identify(tenant, key, clock()))
                ask = msgspec.json.decode(message.data, type=operation.request)
                ended = jsoned(await operation.use_case(caller, ask))
            except Exception as error:  # noqa: BLE001 - as the door over FastStream answers all of them
                await nc.publish(message.reply, jsoned(ErrorBody(problem_of_call(error))), headers={KIND: ERROR})
            else:
                await nc.publish(message.reply, ended)

        return answer

    by_verb = operations(services)
    for verb in Verb:
        pattern = subjects.api_pattern(verb).format(tenant="*", key="*")
        await nc.subscribe(pattern, queue=subjects.BROKERS, cb=answering(by_verb[verb]))
    yield

"""Serves the API over NATS as `broker.doors.nats_api` does, without FastStream, on any connection."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from broker.core.principal import Identify
from broker.doors.operations import Operation, invalid, operations
from broker.ports import Clock
from broker.service import Services
from broker.service.refusal import Refusal, problem_of
from schemas import subjects
from schemas.api import ErrorBody, Problem
from schemas.codec import ERROR, KIND, jsoned
from schemas.jetstream import Message, NatsConnection
from schemas.subjects import Verb


@asynccontextmanager
async def plain_api(nc: NatsConnection, services: Services, identify: Identify, clock: Clock) -> AsyncIterator[None]:
    """Answer calls while the block runs."""

    def answering(operation: Operation[Any]) -> Callable[[Message], Awaitable[None]]:
        async def answer(message: Message) -> None:
            try:
                ended = await _answer(operation, message, identify, clock)
            except Exception as error:  # noqa: BLE001 - as the door over FastStream answers all of them
                await nc.publish(message.reply, jsoned(ErrorBody(_problem(error))), headers={KIND: ERROR})
            else:
                await nc.publish(message.reply, jsoned(ended))

        return answer

    by_verb = operations(services)
    for verb in Verb:
        pattern = subjects.api_pattern(verb).format(tenant="*", key="*")
        await nc.subscribe(pattern, queue=subjects.BROKERS, cb=answering(by_verb[verb]))
    yield


async def _answer(operation: Operation[Any], message: Message, identify: Identify, clock: Clock) -> msgspec.Struct:
    _, tenant, key = subjects.parse_api(message.subject)
    caller = await identify(tenant, key, clock())
    if isinstance(caller, Problem):
        raise Refusal(caller)
    return await operation.use_case(caller, msgspec.json.decode(message.data, type=operation.request))


def _problem(error: Exception) -> Problem:
    return invalid(str(error), within=".ask") if isinstance(error, msgspec.ValidationError) else problem_of(error)

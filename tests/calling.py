"""Calls of the API as a client of a tenant makes them: the answer comes to an inbox of the key's own."""

import msgspec

from schemas import subjects
from schemas.codec import jsoned
from schemas.jetstream import Message
from schemas.jetstream.client import NatsClient
from schemas.subjects import Verb
from tests.builders import an_id


async def called(nc: NatsClient, verb: Verb, tenant: str, key: str, ask: msgspec.Struct) -> Message:
    inbox = f"{subjects.inbox_prefix(tenant, key)}.{an_id()}"
    heard = await nc.subscribe(inbox)
    try:
        await nc.publish(subjects.api(verb, tenant, key), jsoned(ask), inbox)
        message: Message = await heard.next_msg(timeout=5)
    finally:
        await heard.unsubscribe()
    return message

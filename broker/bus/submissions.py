"""Stores messages of jobs in SUBMIT, from which intake takes them."""

from broker.errors import NoRoom, Unavailable
from schemas.jetstream import Kind, NatsConnection, NatsError, NotStored, Outgoing, publish_one


async def store(nc: NatsConnection, message: Outgoing, name: str) -> None:
    """Store a message, once by this name (within the stream's duplicate window). Raises: NoRoom, Unavailable."""
    try:
        await publish_one(nc, message, message_id=name)
    except NotStored as error:
        if error.kind is Kind.FULL:
            raise NoRoom(str(error)) from error
        raise Unavailable("NATS", str(error)) from error
    except (NatsError, TimeoutError) as error:
        raise Unavailable("NATS", str(error) or type(error).__name__) from error

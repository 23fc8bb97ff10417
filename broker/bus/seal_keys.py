"""Reads and writes the copy of the seals' key that NATS holds for brokers which start while Postgres is away."""

from broker.core.seals import KEY_BYTES
from broker.errors import Unavailable
from schemas import subjects
from schemas.jetstream import (
    ApiRefused,
    Kind,
    NatsConnection,
    NatsError,
    NotStored,
    Outgoing,
    last_stored,
    publish_one,
)

_STREAM = f"KV_{subjects.BROKERS_BUCKET}"
_KEY = f"$KV.{subjects.BROKERS_BUCKET}.{subjects.SEAL_KEY}"


class NatsSealKeys:
    """Implements `broker.ports.SealKeyCopy`."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc

    async def read(self) -> bytes | None:
        try:
            _, key = await last_stored(self._nc, _STREAM, _KEY)
        except ApiRefused as error:
            if error.kind is not Kind.MISSING:
                raise Unavailable("NATS", str(error)) from error
            return None
        except NatsError as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error
        return key if len(key) == KEY_BYTES else None

    async def write(self, key: bytes) -> None:
        try:
            await publish_one(self._nc, Outgoing(_KEY, key))
        except (NatsError, NotStored) as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error

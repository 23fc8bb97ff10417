"""Reads and writes the copy of the directory of keys that NATS holds for brokers which start while Postgres is away.

It holds hashes of secrets only. One message has all: tens of thousands of keys fit into it.
"""

import zlib

import msgspec

from broker.core.keys import Directory, KeyRecord, TenantRecord
from broker.errors import Unavailable
from schemas import subjects
from schemas.codec import UNREADABLE
from schemas.jetstream import (
    ApiRefused,
    Kind,
    MaxPayloadError,
    NatsConnection,
    NatsError,
    NotStored,
    Outgoing,
    last_stored,
    publish_one,
)

_STREAM = f"KV_{subjects.KEYS_BUCKET}"
_KEY = f"$KV.{subjects.KEYS_BUCKET}.{subjects.DIRECTORY}"
_MOST_BYTES = 64 * 1024 * 1024
"""How large a copy may be when it is unpacked. A guess: more than a message of 8 MiB holds of random hashes."""


class _Copy(msgspec.Struct, frozen=True):
    version: int
    tenants: tuple[TenantRecord, ...]
    keys: tuple[KeyRecord, ...]


_copy = msgspec.msgpack.Decoder(_Copy)


class NatsDirectories:
    """Implements `broker.ports.DirectoryCopy`."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc

    async def read(self) -> tuple[Directory | None, int]:
        try:
            sequence, data = await last_stored(self._nc, _STREAM, _KEY)
        except ApiRefused as error:
            if error.kind is not Kind.MISSING:
                raise Unavailable("NATS", str(error)) from error
            return None, 0
        except NatsError as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error
        return _read(data), sequence

    async def write(self, directory: Directory, *, instead_of: int) -> None:
        copy = _Copy(directory.version, tuple(directory.tenants.values()), tuple(directory.keys.values()))
        data = zlib.compress(msgspec.msgpack.encode(copy))
        try:
            await publish_one(self._nc, Outgoing(_KEY, data), last_sequence=instead_of)
        except (NatsError, NotStored, MaxPayloadError) as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error


def _read(data: bytes) -> Directory | None:
    """Unpack a copy. None: it cannot be read, perhaps a newer broker wrote it."""
    try:
        copy = _copy.decode(zlib.decompressobj().decompress(data, _MOST_BYTES))
    except (zlib.error, *UNREADABLE):
        return None
    return Directory.of(copy.version, copy.tenants, copy.keys)

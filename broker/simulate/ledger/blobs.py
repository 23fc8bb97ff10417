"""The content of files, in pieces: in Postgres, or in a store beside it. Nothing is compressed."""

from collections.abc import Collection
from uuid import UUID

from broker.core.file_stores import POSTGRES
from broker.errors import Unavailable
from broker.ports import Blobs
from broker.simulate.ledger.stored import BlobRow
from broker.simulate.ledger.transactions import Area, transaction

BESIDE = "memory://files"
"""The name of the store beside Postgres."""


class MemoryBlobs(Area):
    """Implements `broker.ports.Blobs`."""

    @transaction
    def put(self, file: UUID, number: int, piece: bytes) -> bool:
        gate = self._session.gate
        return self._tables.blobs.add(BlobRow(file=file, number=number, data=piece, by=gate, troubles=gate.troubles))

    @transaction
    def get(self, file: UUID, number: int) -> bytes | None:
        row = self._tables.blobs.get((file, number))
        return None if row is None else row.data

    @transaction
    def drop(self, files: Collection[UUID]) -> None:
        for file in files:
            for key in self._tables.blobs_by_file.keys(file):
                self._tables.blobs.remove(key)


class MemoryStores:
    """Implements `broker.ports.BlobStores`: files are in Postgres, or in the store beside it, if there is one."""

    def __init__(self, postgres: Blobs, beside: Blobs | None) -> None:
        self._postgres = postgres
        self._beside = beside

    async def current(self) -> str:
        return POSTGRES if self._beside is None else BESIDE

    async def of(self, name: str) -> Blobs:
        if name == POSTGRES:
            return self._postgres
        if self._beside is None:
            raise Unavailable("the store of files", f"{name} is not there")
        return self._beside

"""The content of files, in pieces. Nothing is compressed."""

from collections.abc import Collection
from uuid import UUID

from broker.simulate.ledger.stored import BlobRow
from broker.simulate.ledger.transactions import Area, transaction


class MemoryBlobs(Area):
    """Implements `broker.ports.Blobs`."""

    @transaction
    def put(self, file: UUID, number: int, piece: bytes) -> bool:
        return self._tables.blobs.add(BlobRow(file=file, number=number, data=piece))

    @transaction
    def get(self, file: UUID, number: int) -> bytes | None:
        row = self._tables.blobs.get((file, number))
        return None if row is None else row.data

    @transaction
    def drop(self, files: Collection[UUID]) -> None:
        for file in files:
            for key in self._tables.blobs_by_file.keys(file):
                self._tables.blobs.remove(key)

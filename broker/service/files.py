"""Use-cases of files. A principal reaches those of its tenant only."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from broker.core.authorise import Action
from broker.core.batch_output import bad_line_of, is_output, line_of
from broker.core.files import PIECE_BYTES, Part, Pieces, spans
from broker.core.openai_batch import ERRORS, OUTPUT, file_id, is_gone, output_id
from broker.core.principal import Principal
from broker.core.records import FileBatchState
from broker.errors import Unavailable
from broker.ports import Blobs, BlobStores, Clock, Entropy, FileBatchLedger, FileLedger
from broker.service.refusal import Refusal, authorise, found
from schemas.api import Problem
from schemas.files import File, FileList, Files, Purpose, Upload
from schemas.ids import uuid7

MOST_BYTES = 2 * 1024**3
"""The largest file: ten times OpenAI's for batches."""
_PAGE = 500
_NOTED_BYTES = 8 * 1024 * 1024
"""How much of an upload at most is sent again after a broker was killed. A statement notes it each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileService:
    """Each method raises Refusal or Unavailable."""

    ledger: FileLedger
    stores: BlobStores
    file_batches: FileBatchLedger
    clock: Clock
    entropy: Entropy
    most_bytes: int = MOST_BYTES

    async def store(self, principal: Principal, name: str, content: AsyncIterator[bytes]) -> File:
        """Store a file of requests, as its content comes, with no more than a piece of it in memory."""
        authorise(principal, Action.SUBMIT)
        store = await self.stores.current()
        blobs, now = await self.stores.of(store), self.clock()
        file = File(
            id=uuid7(now, self.entropy()),
            purpose=Purpose.BATCH,
            name=name,
            bytes=0,
            created_ms=now,
        )
        await self.ledger.begin(file, store, principal.tenant, principal.key)
        async with self._unless_dropped(blobs, file.id):
            size = await self._put(blobs, file.id, content)
            # none if the upload took so long that it was taken for cut off
            return found(await self.ledger.finish(file.id, size, self.clock()), f"file {file.id}")

    async def upload(self, principal: Principal, sha256: bytes, *, size: int) -> Upload | None:
        """Find the file with this content and size, whole or as far as it was uploaded."""
        authorise(principal, Action.SUBMIT)
        if size > self.most_bytes:
            raise self._too_large()
        return await self.ledger.of_content(sha256, principal.tenant, self.clock())

    async def go_on(self, principal: Principal, part: Part, content: AsyncIterator[bytes]) -> File:
        """Store the rest of a file from a byte on, as its content comes. What came before it is cut off is kept."""
        known = await self.upload(principal, part.sha256, size=part.bytes)
        if known is not None and known.is_whole:
            return known.file
        if part.offset != _kept(known):
            raise _bad_offset(known)
        begun = await self._begun(principal, part) if known is None else known
        file, blobs = begun.file.id, await self.stores.of(begun.store)
        async with self._unless_dropped(blobs, file):
            digest = await _digest(blobs, file, part.offset)
            await self._put_rest(blobs, file, part, content, digest)
            if digest.digest() != part.sha256:
                await self.ledger.discard(file, self.clock())
                message = (
                    "what came is not what the digest is of, so it was dropped: send the file again, from byte 0 on"
                )
                raise Refusal(Problem("bad_digest", message, "sha256"))
            done = await self.ledger.finish(file, part.bytes, self.clock(), kept_ms=part.kept_ms)
            if done is not None:
                return done
            # sent by a connection that its client took for lost, the rest has come before; or all was dropped
            known = await self.upload(principal, part.sha256, size=part.bytes)
            if known is None or not known.is_whole:
                raise _bad_offset(known)
        await self._drop_rest(blobs, file)
        return known.file

    @asynccontextmanager
    async def _unless_dropped(self, blobs: Blobs, file: UUID) -> AsyncIterator[None]:
        """Run the block, which puts pieces of a file. If that was dropped meanwhile, what came since is nobody's."""
        try:
            yield
        except (Refusal, Unavailable, ConnectionError):
            await self._drop_rest(blobs, file)
            raise

    async def _drop_rest(self, blobs: Blobs, file: UUID) -> None:
        """Drop what was put to a file after that was dropped."""
        if await self.ledger.store_of(file) is None:
            await blobs.drop([file])

    async def _begun(self, principal: Principal, part: Part) -> Upload:
        store, now = await self.stores.current(), self.clock()
        file = File(id=uuid7(now, self.entropy()), purpose=Purpose.BATCH, name=part.name, bytes=0, created_ms=now)
        await self.ledger.begin(file, store, principal.tenant, principal.key, sha256=part.sha256)
        return Upload(file, store=store, is_whole=False)

    async def _put_rest(
        self, blobs: Blobs, file: UUID, part: Part, content: AsyncIterator[bytes], digest: "hashlib._Hash"
    ) -> None:
        """Keep the pieces that follow, and note how far they are: also if the rest does not come. Raises: Refusal."""
        pieces, kept = Pieces(), part.offset
        noted = kept
        try:
            async for data in content:
                for piece in pieces.add(data):
                    await asyncio.to_thread(digest.update, piece)
                    await self._put_piece(blobs, file, kept // PIECE_BYTES, piece)
                    kept += PIECE_BYTES
                if part.offset + pieces.bytes > part.bytes:
                    raise _not_so_long(part)
                if kept - noted >= _NOTED_BYTES:
                    await self.ledger.grew(file, kept)
                    noted = kept
        except ConnectionError:
            await self.ledger.grew(file, kept)
            raise
        if part.offset + pieces.bytes != part.bytes:
            await self.ledger.grew(file, kept)
            raise _not_so_long(part)
        for piece in pieces.rest():
            digest.update(piece)
            await self._put_piece(blobs, file, kept // PIECE_BYTES, piece)

    async def _put_piece(self, blobs: Blobs, file: UUID, number: int, piece: bytes) -> None:
        """Keep a piece of an upload. One that another try has left there must be the same. Raises: Refusal."""
        if not await blobs.put(file, number, piece) and await blobs.get(file, number) != piece:
            await self.ledger.discard(file, self.clock())
            raise _bad_offset(None)

    def _too_large(self) -> Refusal:
        message = f"the file is larger than {self.most_bytes} bytes: split it"
        return Refusal(Problem("too_large", message, "file", self.most_bytes))

    async def _put(self, blobs: Blobs, file: UUID, content: AsyncIterator[bytes]) -> int:
        pieces, number = Pieces(), 0
        async for data in content:
            full = pieces.add(data)
            if pieces.bytes > self.most_bytes:
                raise self._too_large()
            for piece in full:
                await blobs.put(file, number, piece)
                number += 1
        for piece in pieces.rest():
            await blobs.put(file, number, piece)
        return pieces.bytes

    async def show(self, principal: Principal, file: UUID) -> File:
        authorise(principal, Action.READ_JOBS)
        return found(await self.ledger.find(file, principal.tenant, self.clock()), f"file {file_id(file)}")

    async def expire(self, principal: Principal, file: UUID, in_ms: int) -> File:
        """Let a file be deleted so long after it was made."""
        authorise(principal, Action.SUBMIT)
        return found(await self.ledger.expire(file, principal.tenant, in_ms), f"file {file}")

    async def list(self, principal: Principal, ask: FileList) -> Files:
        authorise(principal, Action.READ_JOBS)
        return await self.ledger.page(principal.tenant, ask, self.clock())

    async def delete(self, principal: Principal, file: UUID) -> None:
        """Delete a file. Batches that were made of it go on."""
        authorise(principal, Action.SUBMIT)
        if not await self.ledger.delete(file, principal.tenant, self.clock()):
            raise Refusal(Problem("unknown_file", f"there is no file {file_id(file)}", "id"))

    async def content(self, file: File, begin: int, end: int) -> AsyncIterator[bytes]:
        """Yield the bytes of a stored file from `begin` to before `end`. Raises: Refusal, if it is dropped meanwhile."""
        what = f"file {file.id}"
        blobs = await self.stores.of(found(await self.ledger.store_of(file.id), what))
        for span in spans(begin, min(end, file.bytes)):
            piece = await blobs.get(file.id, span.number)
            if piece is None:
                found(await self.ledger.store_of(file.id), what)
                raise Unavailable("the store of files", f"piece {span.number} of {what} is not there")
            yield piece[span.begin : span.end]

    async def batch(self, principal: Principal, batch: UUID, which: str) -> FileBatchState:
        """Find the batch whose output or errors are read as a file."""
        authorise(principal, Action.READ_JOBS)
        name = f"file {output_id(batch, which)}"
        state = found(await self.file_batches.find(batch, principal.tenant), name)
        return found(None if is_gone(state, which, self.clock()) else state, name)

    async def delete_output(self, principal: Principal, batch: UUID, which: str) -> None:
        """Let the output or the errors of a batch be read no more. What its jobs came to stays in the record of them."""
        authorise(principal, Action.SUBMIT)
        state = await self.batch(principal, batch, which)
        if state.batch.completed_ms is None:
            raise Refusal(Problem("bad_state", "the batch still runs: cancel it, or wait for its end", "id"))
        await self.file_batches.delete_file(batch, principal.tenant, which, self.clock())

    async def size(self, state: FileBatchState, which: str) -> int:
        """Return how many bytes the output or the errors of a batch have by now."""
        output, errors = await self.file_batches.sizes(state)
        return output if which == OUTPUT else errors

    async def lines(self, state: FileBatchState, which: str) -> AsyncIterator[bytes]:
        """Yield what a batch came to by now, as lines of its output or of its errors, many at a time."""
        batch = state.batch.id
        if which == ERRORS:
            last = -1
            while bad := await self.file_batches.bad_lines(batch, after=last, limit=_PAGE):
                yield b"".join(bad_line_of(one, batch) for one in bad)
                last = bad[-1].number
        after = 0
        while (read := await self.file_batches.results(state, after=after, limit=_PAGE)).ordinals:
            lines = [line_of(one) for one in read.page.results if is_output(one) is (which == OUTPUT)]
            if lines:
                yield b"".join(lines)
            after = read.ordinals[-1]


async def _digest(blobs: Blobs, file: UUID, size: int) -> "hashlib._Hash":
    """Begin the digest of a file with the pieces of it that are kept."""
    digest = hashlib.sha256()
    for number in range(size // PIECE_BYTES):
        if (piece := await blobs.get(file, number)) is None:  # it was dropped
            raise _bad_offset(None)
        await asyncio.to_thread(digest.update, piece)
    return digest


def _kept(known: Upload | None) -> int:
    return 0 if known is None else known.file.bytes


def _bad_offset(known: Upload | None) -> Refusal:
    kept = _kept(known)
    return Refusal(Problem("bad_offset", f"of this file {kept} bytes are here: go on from there", "offset", kept))


def _not_so_long(part: Part) -> Refusal:
    message = f"what came does not make the {part.bytes} bytes that were told"
    return Refusal(Problem("bad_request", message, "bytes", part.bytes))

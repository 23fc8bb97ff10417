"""Files over HTTP: sent from where an upload was cut off, and made batches of."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, BinaryIO, Protocol, TypeVar
from uuid import UUID

import aiohttp
import msgspec
from msgspec import Meta

from broker.client.door import FileContent
from broker.errors import Unavailable
from schemas.codec import JSON, UNREADABLE
from schemas.files import Fault

_ASK_S = 60.0
_SILENCE_S = 120.0
"""How long a broker may take for the end of a file. It reads again what came before a part, to check all of it."""
_CHUNK_BYTES = 256 * 1024
_LISTED = 1000
T = TypeVar("T")


class Kept(msgspec.Struct, frozen=True):
    """What is stored of a file."""

    bytes: Annotated[int, Meta(ge=0)]
    file_id: str | None = None
    """None: it is not whole."""


class _Named(msgspec.Struct, frozen=True):
    id: str


class _BadLines(msgspec.Struct, frozen=True):
    data: list[Fault]
    has_more: bool


class Ask(Protocol):
    """Asks once, and runs the block with the answer if it is good. Raises: TimeoutError, and as `Door`."""

    def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        limits: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[bytes]: ...


class HttpFiles:
    """Implements `broker.client.door.Files`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def kept(self, content: FileContent) -> tuple[int, str | None]:
        query = {"sha256": content.sha256, "bytes": str(content.bytes)}
        kept = _decoded(await self._asked("GET", "/v1/uploads", query=query), Kept)
        return kept.bytes, kept.file_id

    async def send(self, stream: BinaryIO, content: FileContent, *, offset: int, sent: Callable[[int], None]) -> str:
        query = {
            "sha256": content.sha256,
            "bytes": str(content.bytes),
            "offset": str(offset),
            "name": content.name,
            "expires_in_s": str(content.kept_s),
        }
        headers = {"content-type": "application/octet-stream", "content-length": str(content.bytes - offset)}
        limits = aiohttp.ClientTimeout(total=None, sock_read=_SILENCE_S)
        body = _chunks(stream, offset, sent)
        try:
            async with self._ask("PUT", "/v1/uploads", body, headers, limits=limits, query=query) as answer:
                return _decoded(answer, _Named).id
        except TimeoutError as error:
            raise Unavailable("infermq", f"a file was not stored within {_SILENCE_S:.0f} s of its end") from error

    async def create(self, ask: Mapping[str, Any]) -> None:
        await self._asked("POST", "/v1/batches", msgspec.json.encode(ask))

    async def delete(self, name: str) -> None:
        await self._asked("DELETE", f"/v1/files/{name}")

    async def bad_lines(self, batch: UUID) -> AsyncIterator[Fault]:
        after = -1
        while True:
            query = {"after": str(after), "limit": str(_LISTED)}
            page = _decoded(await self._asked("GET", f"/v1/batches/{batch}/bad_lines", query=query), _BadLines)
            for fault in page.data:
                yield fault
            if not page.has_more:
                return
            after = page.data[-1].number

    async def _asked(
        self, method: str, path: str, body: bytes | None = None, *, query: Mapping[str, str] | None = None
    ) -> bytes:
        headers = None if body is None else {"content-type": JSON}
        limits = aiohttp.ClientTimeout(total=_ASK_S)
        try:
            async with self._ask(method, path, body, headers, limits=limits, query=query) as answer:
                return answer
        except TimeoutError as error:
            raise Unavailable("infermq", f"no answer about a file within {_ASK_S:.0f} s") from error


def _decoded(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except UNREADABLE as error:
        raise Unavailable("infermq", f"a broker does not answer as infermq does: {error}") from error


async def _chunks(stream: BinaryIO, offset: int, sent: Callable[[int], None]) -> AsyncIterator[bytes]:
    stream.seek(offset)
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk
        sent(stream.tell())

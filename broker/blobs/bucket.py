"""Keeps the content of files in a bucket of an S3-compatible service.

Only `stores` imports this, when there is a bucket: it needs an extra. obstore's blocking calls are made in threads, since
its coroutines end the process by SIGABRT if it exits just then (its threads call into an interpreter that is gone).
"""

import asyncio
import contextlib
import os
from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Self
from uuid import UUID

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from broker.blobs.errors import translated
from broker.blobs.pieces import packed, unpacked
from broker.core.file_stores import MARK_FILE, BucketPlace

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_PATIENCE: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
"""A caller waits meanwhile, and is told to try again afterwards. All of this is a guess."""
_LISTED = 1000
"""How many objects are listed, and dropped, by one request: as many as S3 allows."""


class BucketBlobs:
    """Implements `broker.ports.Blobs`. A piece is an object, whose key begins with the id of its file."""

    def __init__(self, store: S3Store, mark: str) -> None:
        self._store = store
        self.mark = mark

    @classmethod
    async def open(cls, place: BucketPlace, new_mark: str | None) -> Self:
        """Open a bucket. `new_mark`: mark it so, unless it bears a mark. Raises: Unavailable."""
        with translated(BaseError, OSError):
            store = _connected(place)
            return cls(store, await asyncio.to_thread(_mark, store, new_mark))

    async def put(self, file: UUID, number: int, piece: bytes) -> bool:
        with translated(BaseError, OSError):
            return await asyncio.to_thread(self._put, file, number, piece)

    async def get(self, file: UUID, number: int) -> bytes | None:
        with translated(BaseError, OSError):
            return await asyncio.to_thread(self._get, file, number)

    async def drop(self, files: Collection[UUID]) -> None:
        with translated(BaseError, OSError):
            await asyncio.to_thread(self._drop, files)

    def _put(self, file: UUID, number: int, piece: bytes) -> bool:
        try:
            obstore.put(self._store, _key(file, number), packed(piece), mode="create")
        except AlreadyExistsError:
            return False
        return True

    def _get(self, file: UUID, number: int) -> bytes | None:
        data = _read(self._store, _key(file, number))
        return None if data is None else unpacked(data, file)

    def _drop(self, files: Collection[UUID]) -> None:
        for file in files:
            for listed in obstore.list(self._store, f"{file}/", chunk_size=_LISTED):
                obstore.delete(self._store, [one["path"] for one in listed])


def _read(store: S3Store, key: str) -> bytes | None:
    try:
        return bytes(obstore.get(store, key).bytes())
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise
        return None


def _mark(store: S3Store, new: str | None) -> str:
    """Read the mark of the bucket, which is marked first if `new` is given. Raises: BaseError, OSError."""
    found = _read(store, MARK_FILE)
    if found is None and new is not None:
        with contextlib.suppress(AlreadyExistsError):  # another broker was first
            obstore.put(store, MARK_FILE, new.encode(), mode="create")
        found = _read(store, MARK_FILE)
    if found is None:
        raise OSError("no files were ever stored there")
    return found.decode()


def _connected(place: BucketPlace) -> S3Store:
    """Return a client with the keys, the region and the endpoint of the environment."""
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    options: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=3),
        "timeout": timedelta(seconds=10),
    }
    config: S3Config = {"endpoint": endpoint} if endpoint else {}
    return S3Store(
        place.bucket, prefix=place.prefix or None, client_options=options, retry_config=_PATIENCE, config=config
    )


def _key(file: UUID, number: int) -> str:
    return f"{file}/{number:06d}"

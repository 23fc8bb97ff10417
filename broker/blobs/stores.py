"""Opens the store that a setting names for new files, and those that earlier files are in."""

import contextlib
import logging
from typing import Protocol

from broker.blobs.directory import DirectoryBlobs
from broker.blobs.errors import INSTALL, unavailable
from broker.core.file_stores import POSTGRES, BucketPlace, DirectoryPlace, StoreName, place_of
from broker.errors import Unavailable
from broker.ports import Blobs

log = logging.getLogger(__name__)


class Stores:
    """Implements `broker.ports.BlobStores`. A store is opened once, when it is first needed."""

    def __init__(self, postgres: Blobs, url: str = POSTGRES, new_mark: str = "") -> None:
        """`url` is where new files go: `postgres`, or what `place_of` reads; `new_mark` its mark, if it bears none yet."""
        self._postgres = postgres
        self._url = url
        self._new_mark = new_mark
        self._opened: dict[str, Blobs] = {}
        """By their marks."""
        self._current: str | None = None
        """The name of the store for new files, once it is open."""

    async def current(self) -> str:
        if self._url == POSTGRES:
            return POSTGRES
        if self._current is None:
            mark = await self._open(self._url, self._new_mark)
            self._current = StoreName(self._url, mark).text()
            log.info("new files go to store=%s", self._current)
        return self._current

    async def of(self, name: str) -> Blobs:
        if name == POSTGRES:
            return self._postgres
        store = StoreName.read(name)
        for url in dict.fromkeys((store.url, self._url)):
            if store.mark not in self._opened and url != POSTGRES:
                with contextlib.suppress(Unavailable):  # it is logged
                    await self._open(url, None)
        if store.mark not in self._opened:
            raise unavailable(f"the store {name} of a file is not there: it must be reached by all brokers")
        return self._opened[store.mark]

    async def _open(self, url: str, new_mark: str | None) -> str:
        """Open a store; return its mark. Raises: Unavailable."""
        match place_of(url):
            case DirectoryPlace(path):
                store: MarkedBlobs = await DirectoryBlobs.open(path, new_mark)
            case BucketPlace() as place:
                store = await _bucket(place, new_mark)
        self._opened[store.mark] = store
        return store.mark


class MarkedBlobs(Blobs, Protocol):
    mark: str


async def _bucket(place: BucketPlace, new_mark: str | None) -> MarkedBlobs:
    try:
        from broker.blobs.bucket import BucketBlobs  # noqa: PLC0415 - it needs an extra
    except ModuleNotFoundError as error:
        raise unavailable(INSTALL) from error
    return await BucketBlobs.open(place, new_mark)

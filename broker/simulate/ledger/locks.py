"""Rows that a transaction holds while it waits for something else. Others skip them, or wait until they are free."""

from asyncio import Future, get_running_loop
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

Key = tuple[str, Hashable]
"""A table, and the primary key of a row."""


class Held(Exception):
    """Another transaction holds a row: the statement is run again when it is free."""

    def __init__(self, key: Key) -> None:
        super().__init__(key)
        self.key = key


class Holder:
    """A transaction of a process. Two are never equal."""

    __slots__ = ("process",)

    def __init__(self, process: object) -> None:
        self.process = process


class Locks:
    """Who holds which rows."""

    def __init__(self) -> None:
        self._holders: dict[Key, Holder] = {}
        self._waiting: dict[Key, list[Future[None]]] = {}
        self._now: Holder | None = None
        """Whose statement runs."""

    @contextmanager
    def of(self, holder: Holder) -> Iterator[None]:
        """Let the statement in the block take what it takes for this holder."""
        self._now = holder
        try:
            yield
        finally:
            self._now = None

    def held(self) -> list[Key]:
        """List the rows that somebody holds."""
        return list(self._holders)

    def is_free(self, key: Key) -> bool:
        return self._holders.get(key, self._now) is self._now

    def take(self, key: Key) -> None:
        """Hold a row until the end of the transaction. Raises: Held, if another holds it."""
        if self._now is None or not self.is_free(key):
            raise Held(key)
        self._holders[key] = self._now

    async def freed(self, key: Key) -> None:
        """Wait until a row is free."""
        future: Future[None] = get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        await future

    def release(self, holder: Holder) -> None:
        """Free all that a transaction holds."""
        self._free([key for key, other in self._holders.items() if other is holder])

    def cut(self, process: object) -> None:
        """Free all that the transactions of a process hold, which was killed. It is known by its gate."""
        self._free([key for key, other in self._holders.items() if other.process is process])

    def _free(self, keys: list[Key]) -> None:
        for key in keys:
            del self._holders[key]
            for future in self._waiting.pop(key, ()):
                if not future.done():
                    future.set_result(None)

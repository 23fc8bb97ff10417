"""The part of the client that submits a whole file: it is stored first, and a broker makes its lines jobs."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, BinaryIO, TypeVar
from uuid import UUID

from broker.client.door import FileContent, Files
from broker.client.errors import RequestRefused
from broker.client.session import Session
from broker.errors import Unavailable
from schemas.api import Batch, BatchRef, Problem
from schemas.files import Fault
from schemas.ids import ms_of
from schemas.job import Lane
from schemas.subjects import Verb

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0
"""Between two tries to send the rest of a file."""
_KEPT_S = 7 * 24 * 3600
"""How long a file is kept whose batch was not asked for: then the upload need not be repeated."""
_SHARED = 5
"""How often a file is stored again that others, who submit the same, have deleted."""
_WINDOWS = {Lane.BULK: "24h", Lane.STANDARD: "1h"}
"""How long a batch may take if nothing is said: as long as single jobs of its lane."""
_INTERACTIVE_MS = 120_000
_BLOCK = 1 << 20
T = TypeVar("T")


class FileClient(Session):
    """Submits files. Raises: RequestRefused, Unavailable."""

    @property
    def takes_files(self) -> bool:
        """Whether files can be submitted as a whole: over HTTP. Over NATS their lines are sent in messages."""
        return self._door.files is not None

    async def submit_file(
        self,
        file: BinaryIO,
        *,
        model: str | None = None,
        lane: Lane = Lane.BULK,
        within_ms: int | None = None,
        priority: int = 0,
        metadata: dict[str, str] | None = None,
        webhook: UUID | None = None,
        strict: bool = False,
        sha256: str | None = None,
        name: str = "file.jsonl",
        sent: Callable[[int], None] = lambda _: None,
    ) -> Batch:
        """Store a file of OpenAI Batch lines, and return the batch of its lines once it is accepted.

        Whatever breaks, calling it again with the same content goes on with the upload where that was. A line that is bad is
        left out, or with `strict` nothing runs: `bad_lines` lists them. `model`: for lines that name none. `within_ms`: how
        long it may take. `sent` is called with the bytes that were sent.
        """
        files = self._files()
        size = file.seek(0, 2)
        content = FileContent(sha256=sha256 or await _digest(file), bytes=size, name=name, kept_s=_KEPT_S)

        def ask(batch: UUID) -> dict[str, Any]:
            window, deadline_ms = _until(lane, within_ms, ms_of(batch))
            return {
                "id": batch,
                "endpoint": "any",
                "completion_window": window,
                "deadline_ms": deadline_ms,
                "on_bad_line": "fail" if strict else "skip",
                "lane": lane,
                "priority": priority,
                "model": model,
                "metadata": metadata or {},
                "webhook": webhook,
            }

        batch, stored = await self._accepted(lambda: self._stored(files, file, content, sent), files, ask)
        with contextlib.suppress(Unavailable, RequestRefused):  # it is accepted: its file goes by itself, later
            await files.delete(stored)
        return await self._patiently(lambda: self._call(Verb.BATCH_SHOW, BatchRef(batch), Batch))

    async def bad_lines(self, batch: UUID) -> AsyncIterator[Fault]:
        """Yield the lines of a file's batch that cannot run, in order."""
        async for fault in self._files().bad_lines(batch):
            yield fault

    def _files(self) -> Files:
        if self._door.files is None:
            message = "files are submitted over HTTP; over NATS send their lines: submit_many"
            raise RequestRefused(Problem("bad_request", message))
        return self._door.files

    async def _accepted(
        self, stored: Callable[[], Awaitable[str]], files: Files, ask: Callable[[UUID], dict[str, Any]]
    ) -> tuple[UUID, str]:
        """Store a file, and have a batch made of it, once; return both. `ask` says what of, under an id.

        Whoever submits the same content at the same time shares its file, and may have deleted it between the two.
        """
        for _ in range(_SHARED):
            file, batch = await stored(), self._new_id()
            asked = {**ask(batch), "input_file_id": file}
            try:
                await self._patiently(partial(files.create, asked))
            except RequestRefused as refused:
                if refused.problem.code != "unknown_file":
                    raise
            else:
                return batch, file
        raise Unavailable("infermq", "others delete the file again and again: submit it once")

    async def _stored(self, files: Files, stream: BinaryIO, content: FileContent, sent: Callable[[int], None]) -> str:
        """Send a file until it is stored, each time from where it was. Gives up when nothing more of it comes through."""
        patience, restarts = _Patience(self._patience_s), 0
        while True:
            try:
                kept, stored = await files.kept(content)
                if stored is not None:
                    return stored
                patience.note(kept)
                sent(kept)
                return await files.send(stream, content, offset=kept, sent=sent)
            except Unavailable as error:
                await patience.rest(error)
            except RequestRefused as refused:
                if refused.problem.code != "bad_offset":  # of an earlier try, parts may still have come in
                    raise
                patience.note(int(refused.problem.limit or 0))
                if refused.problem.limit == 0 and restarts < _SHARED:  # others have dropped what there was
                    patience, restarts = _Patience(self._patience_s), restarts + 1
                await patience.rest(refused)

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do what is safe to repeat until it succeeds."""
        patience = _Patience(self._patience_s)
        while True:
            try:
                return await act()
            except Unavailable as error:
                await patience.rest(error)


class _Patience:
    """Waits between tries, longer each time, until for some time after a failure nothing has come of them.

    However long a try took before it failed, there is another.
    """

    def __init__(self, most_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._most_s = most_s
        self._reached = -1
        self.note(0)

    def note(self, reached: int) -> None:
        """Note how far it is by now."""
        if reached > self._reached:
            self._reached = reached
            self._end_s: float | None = None
            self._wait_s = _FIRST_WAIT_S

    async def rest(self, error: Exception) -> None:
        """Wait a little. Raises the error, once it is time to give up."""
        now_s = self._loop.time()
        if self._end_s is None:
            self._end_s = now_s + self._most_s
        if now_s + self._wait_s > self._end_s:
            raise error
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)


def _until(lane: Lane, within_ms: int | None, now_ms: int) -> tuple[str, int | None]:
    """Return how long a batch may take as it is shown, and the instant if that is said by none of OpenAI's windows."""
    if within_ms is None and lane in _WINDOWS:
        return _WINDOWS[lane], None
    within_ms = _INTERACTIVE_MS if within_ms is None else within_ms
    return f"{within_ms // 1000}s", now_ms + within_ms


async def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        await asyncio.to_thread(digest.update, block)
    return digest.hexdigest()

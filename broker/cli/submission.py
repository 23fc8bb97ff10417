"""Sends a file of requests as one batch, or goes on with one that was begun, and waits for it."""

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import UUID

from broker.batch_file import Line, admissible, read_lines
from broker.cli.progress import making, sending, watch, watch_and_write
from broker.cli.result_files import ResultFiles, Wanted, check_loss, result_files, write_faults
from broker.cli.results import failure_line, first_failures
from broker.cli.terminal import Exit, err, fail, plain, print_json, printable, stop
from broker.client import BacklogFull, Client, RequestRefused, Submission, new_id
from broker.core.records import BatchInfo
from broker.errors import Unavailable
from schemas.api import Batch, BatchList
from schemas.catalog import Catalog, CatalogError, parse
from schemas.clock import wall_clock
from schemas.files import Fault
from schemas.ids import ms_of
from schemas.job import MOST_LABELS, Lane
from schemas.subjects import DEFAULT

T = TypeVar("T")
_SHOWN = 20
"""How many faults are printed one by one."""
_KEPT = 1000
"""How many faults `--json` lists. The number of bad lines counts all."""


@dataclass(slots=True)
class Tally:
    """Counts what was sent of a file, and keeps the first faults."""

    sent: int = 0
    faults: list[Fault] = field(default_factory=list)
    bad: int = 0
    failures: list[str] = field(default_factory=list)
    """Some of the jobs that did not succeed, a line each."""

    def note(self, fault: Fault) -> None:
        self.bad += 1
        if len(self.faults) < _KEPT:
            self.faults.append(fault)

    def print(self) -> None:
        for fault in self.faults[:_SHOWN]:
            err.print(f"[yellow]{fault.code}[/] {plain(str(fault))}")
        if self.bad > _SHOWN:
            err.print(f"… and {self.bad - _SHOWN} more")

    def print_json(self, state: Batch | None) -> None:
        faults = [str(fault) for fault in self.faults]
        print_json({"batch": state, "faults": faults, "bad_lines": self.bad, "failures": self.failures})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command was given."""

    model: str | None
    lane: Lane
    window_ms: int | None
    priority: int
    strict: bool
    batch: UUID | None
    new: bool
    metadata: dict[str, str]
    wait: bool
    resume: bool
    force: bool
    out: str | None
    errors: str | None
    webhook: UUID | None = None
    """The endpoint that is told of the end of a new batch."""

    def wanted(self, batch: UUID) -> Wanted:
        return Wanted(batch=batch, out=self.out, errors=self.errors)

    def check(self) -> None:
        """Raises: typer.Exit."""
        if self.resume and (self.new or self.batch is not None):
            fail("--resume finds the batch by its file: leave --new and --batch out", Exit.USAGE)
        if self.resume and len(self.metadata) >= MOST_LABELS:
            most = MOST_LABELS - 1
            fail(f"--resume knows the file by a pair of the batch's metadata: give at most {most} others", Exit.USAGE)

    def paths(self) -> list[Path]:
        return [Path(name) for name in (self.out, self.errors) if name is not None]


FILE_LABEL = "infermq-file"
"""The label of a batch that tells which file it was made of."""


class FileSubmission:
    """Submits one file."""

    def __init__(self, stream: BinaryIO, options: Options) -> None:
        self._stream = stream
        self._options = options
        self._sha256, label = _digests(stream, options.model, options.lane)
        self._label = None if options.batch is not None else label
        self._is_continued = False
        """Whether some of its lines may have been sent before."""
        self._earlier: Batch | None = None
        """A complete batch of the same file."""
        self.tally = Tally()

    async def run(self, client: Client) -> Batch | None:
        """Submit the file. Return None if nothing was submitted: the tally says why. Raises: typer.Exit."""
        options = self._options
        catalog = await _catalog(client)
        self._check_model(catalog)
        batch = await self._same(client) if options.batch is None else await client.batch(options.batch)
        await check_loss(client, options.paths(), None if batch is None else batch.id, force=options.force)
        self._is_continued = batch is not None
        if batch is not None and options.resume and batch.jobs is not None:
            await self._send_missing(client, batch, catalog)
            return await self._rest(client, batch, catalog, resume=True)
        if batch is not None:
            _check_open(batch)
        if batch is not None and batch.of_file:
            return await self._made(client, batch, catalog)
        if not self._is_worth_submitting(batch, catalog):
            self.tally.print()
            return None
        if batch is None and client.takes_files and (stored := await self._stored(client)) is not None:
            return await self._made(client, stored, catalog)
        if batch is None:
            metadata = self._metadata()
            batch = await client.create_batch(
                lane=options.lane, priority=options.priority, metadata=metadata, webhook=options.webhook
            )
            self._say_made(batch)
        if not options.wait:
            return await self._sent(client, batch, catalog, self.tally.note)
        with result_files(options.wanted(batch.id), resume=options.resume) as files:

            def note(fault: Fault) -> None:
                self.tally.note(fault)
                files.add_fault(fault)

            await self._sent(client, batch, catalog, note)
            files.keep()
            return await self._waited(client, files)

    def _say_made(self, batch: Batch) -> None:
        err.print(f"batch {batch.id}")
        if self._options.wait and FILE_LABEL in batch.metadata:
            err.print("if this is cut off, go on with the same command and --resume")
        if self._earlier is not None:
            err.print(f"this file was submitted before, as the batch {self._earlier.id}: this is another")

    async def _stored(self, client: Client) -> Batch | None:
        """Send the file as a whole, and have it made a batch. None: it is larger than brokers take. Raises: typer.Exit."""
        options = self._options
        metadata = self._metadata()
        with sending(self._stream.seek(0, 2)) as sent:
            storing = client.submit_file(
                self._stream,
                sha256=self._sha256,
                name=_name_of(self._stream),
                model=options.model,
                lane=options.lane,
                within_ms=options.window_ms,
                priority=options.priority,
                metadata=metadata,
                webhook=options.webhook,
                strict=options.strict,
                sent=partial(sent, None),
            )
            again = "and --resume" if FILE_LABEL in metadata else "again"
            try:
                batch = await _interruptible(
                    storing, f"stopped while the file was sent: the same command {again} goes on where it was"
                )
            except RequestRefused as refused:
                if refused.problem.code != "too_large":
                    raise
                return None
        self._say_made(batch)
        return batch

    async def _made(self, client: Client, batch: Batch, catalog: Catalog | None) -> Batch | None:
        """Wait until a broker has made the lines of a file jobs. None: none of them can run. Raises: typer.Exit."""
        state = await _interruptible(making(client, batch.id), _to_watch(batch.id))
        if state.jobs == 0 and state.cancel_ms is None:
            faults = [fault async for fault in self._unsent(client, state, catalog)]
            for fault in faults:
                self.tally.note(fault)
            self.tally.print()
            if self._options.errors is not None:
                write_faults(Path(self._options.errors), faults)
            return None
        return await self._rest(client, state, catalog, resume=self._options.resume)

    async def _sent(
        self, client: Client, batch: Batch, catalog: Catalog | None, note: Callable[[Fault], None]
    ) -> Batch:
        """Send every line and seal the batch. Calls `note` with each line that is bad. Raises: typer.Exit."""
        await self._send(client, batch, None if self._is_continued else catalog, note)
        state = await client.seal(batch.id, jobs=self.tally.sent)
        self.tally.print()
        if not self._options.wait:
            await self._note_failures(client, state)
        return state

    async def _rest(self, client: Client, batch: Batch, catalog: Catalog | None, *, resume: bool) -> Batch:
        """Wait for a batch that was sent to its end, if that is wanted. Raises: typer.Exit."""
        self.tally.sent = batch.jobs or 0
        if not self._options.wait:
            async for fault in self._unsent(client, batch, catalog):
                self.tally.note(fault)
            self.tally.print()
            await self._note_failures(client, batch)
            return batch
        with result_files(self._options.wanted(batch.id), resume=resume) as files:
            async for fault in self._unsent(client, batch, catalog):
                self.tally.note(fault)
                if not files.is_resumed:
                    files.add_fault(fault)
            files.keep()
            self.tally.print()
            return await self._waited(client, files)

    async def _unsent(self, client: Client, batch: Batch, catalog: Catalog | None) -> AsyncIterator[Fault]:
        """Yield the lines that were not sent, since they were bad. Those of a file that is stored, brokers know.

        Otherwise the file is read again, without the catalog if that allows more or fewer than were sent.
        """
        if batch.of_file and client.takes_files:
            async for fault in client.bad_lines(batch.id):
                yield fault
            return
        catalog = catalog if self._good(batch.id, catalog) == batch.jobs else None
        for item in self._items(batch.id, catalog):
            if isinstance(item, Fault):
                yield item

    def _good(self, batch: UUID, catalog: Catalog | None) -> int:
        """Count the lines that can be sent."""
        good = sum(not isinstance(item, Fault) for item in self._items(batch, catalog))
        self._stream.seek(0)
        return good

    async def _send_missing(self, client: Client, batch: Batch, catalog: Catalog | None) -> None:
        """Send a batch once more that was sent to its end and has not all of its jobs: NATS may have lost some.

        Those that it has stay as they are. If the lines cannot be told that were sent, none is.
        """
        if batch.of_file or batch.cancel_ms is not None or batch.counts.admitted >= (batch.jobs or 0):
            return
        for checked in (catalog, None):
            if self._good(batch.id, checked) == batch.jobs:
                err.print(
                    f"{batch.jobs - batch.counts.admitted} of its jobs have not come yet: sending all of them again"
                )
                await self._send(client, batch, checked, lambda _: None)
                self._stream.seek(0)
                return

    async def _waited(self, client: Client, files: ResultFiles) -> Batch:
        """Wait until the batch is complete, and its results are written. Raises: typer.Exit, when Ctrl-C ends that."""
        waiting = asyncio.create_task(self._wait(client, files))
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, waiting.cancel)
        try:
            return await waiting
        except asyncio.CancelledError:
            stop(_how_to_go_on(files.wanted))
        except Exception as error:
            error.add_note(_how_to_go_on(files.wanted))
            raise

    async def _same(self, client: Client) -> Batch | None:
        """Find a batch of the same file, to go on with it. Raises: typer.Exit, if it runs and nobody asked to go on."""
        if self._options.new or self._label is None:
            return None
        same = BatchList(metadata={FILE_LABEL: self._label})
        found = next(iter(await client.batches(limit=1, matching=same)), None)
        if found is None:
            return None
        known = f"this file is the batch {found.id}, "
        resume = self._options.resume
        if found.cancel_ms is not None:
            if resume:
                fail(f"{known}which was cancelled; to submit it once more: --new", Exit.USAGE)
            return None
        if found.completed_ms is not None:
            if not resume:
                self._earlier = found
                return None
            err.print(f"{known}which is complete")
            return found
        if found.jobs is None and found.of_file:
            err.print(f"{known}whose lines are being made jobs: going on with it (--new: another)")
            return found
        if found.jobs is None:
            err.print(f"{known}which was not sent to its end: going on with it (--new: another)")
            return found
        done = f"{int(100 * found.counts.settled() / max(1, found.jobs))} % done"
        if not resume:
            fail(
                f"{known}{done}: go on with it with --resume, or see infermq batch watch {found.id}; once more: --new",
                Exit.USAGE,
            )
        err.print(f"{known}{done}: going on with it")
        return found

    def _metadata(self) -> dict[str, str]:
        given = self._options.metadata
        return {FILE_LABEL: self._label, **given} if self._label and len(given) < MOST_LABELS else given

    def _check_model(self, catalog: Catalog | None) -> None:
        """Raises: typer.Exit."""
        model = self._options.model
        if catalog is not None and model is not None and model not in catalog.models:
            known = ", ".join(sorted(catalog.models)) or "none, see infermq apply"
            fail(f"--model: there is no model {model[:200]!r}; known: {known}", Exit.USAGE)

    def _is_worth_submitting(self, batch: Batch | None, catalog: Catalog | None) -> bool:
        """Tell whether there is something to submit: with `--strict` every line must be good, else one is enough.

        If not, the file of errors gets what is wrong.
        """
        is_good = False
        strict, errors = self._options.strict, self._options.errors
        checked = catalog if strict or not batch else None
        of = batch.id if batch else new_id()
        for item in self._items(of, checked):
            if isinstance(item, Fault):
                self.tally.note(item)
                continue
            is_good = True
            if not strict:
                break
        self._stream.seek(0)
        if not is_good or (strict and self.tally.bad):
            if errors is not None:
                write_faults(Path(errors), (item for item in self._items(of, checked) if isinstance(item, Fault)))
            return False
        self.tally = Tally()
        return True

    def _items(self, batch: UUID, catalog: Catalog | None) -> Iterator[Line | Fault]:
        """Read the file as jobs of a batch. Without a catalog, only the broker can tell what it refuses."""
        window_ms = self._options.window_ms
        deadline_ms = None if window_ms is None else ms_of(batch) + window_ms
        items = read_lines(self._stream, model=self._options.model, batch=batch, deadline_ms=deadline_ms)
        if catalog is None:
            return items
        info = BatchInfo(id=batch, tenant=DEFAULT, lane=self._options.lane, deadline_ms=None)
        return admissible(items, batch=info, catalog=catalog, now=wall_clock())

    async def _send(
        self, client: Client, batch: Batch, catalog: Catalog | None, note: Callable[[Fault], None]
    ) -> None:
        """Send every line. Ids are made of batch and line, so sending a line again is safe.

        Without a catalog, they are not checked against one: where a batch is continued, they may have been accepted under
        another.
        """
        size = self._stream.seek(0, 2)
        self._stream.seek(0)
        items = self._items(batch.id, catalog)
        interrupted = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
        again = "--resume" if FILE_LABEL in batch.metadata else f"--batch {batch.id}"
        rest = f"what was accepted is known, so send all of it again: the same command with {again}"
        try:
            with sending(size) as sent:
                await client.submit_many(self._submissions(items, batch.lane, sent, interrupted, note))
        except (BacklogFull, Unavailable) as error:
            error.add_note(f"stopped after {self.tally.sent} jobs; {rest}")
            raise
        if interrupted.is_set():
            stop(f"stopped after {self.tally.sent} jobs; they run. {rest}")

    def _submissions(
        self,
        items: Iterable[Line | Fault],
        lane: Lane,
        sent: Callable[[int, int], None],
        interrupted: asyncio.Event,
        note: Callable[[Fault], None],
    ) -> Iterator[Submission]:
        for item in items:
            if interrupted.is_set():
                return
            if isinstance(item, Fault):
                note(item)
                continue
            self.tally.sent += 1
            if self.tally.sent % 500 == 0:
                sent(self.tally.sent, self._stream.tell())
            yield Submission(item.model, item.job, lane)

    async def _wait(self, client: Client, files: ResultFiles) -> Batch:
        wanted = files.wanted
        state = await (watch_and_write(client, files) if wanted.paths() else watch(client, wanted.batch))
        await self._note_failures(client, state)
        return state

    async def _note_failures(self, client: Client, state: Batch) -> None:
        self.tally.failures = [failure_line(result) for result in await first_failures(client, state)]
        for line in self.tally.failures:
            err.print(printable(line), markup=False)
        others = state.counts.settled() - state.counts.succeeded - len(self.tally.failures)
        if others:
            err.print(f"… and {others} more")
        if state.refused:
            err.print(f"{state.refused} more came after the batch had all that it was sealed with: they did not run")


def _check_open(batch: Batch) -> None:
    """Check that a batch takes jobs: what is sealed was sent to its end. Raises: typer.Exit."""
    if batch.jobs is not None:
        jobs = "1 job" if batch.jobs == 1 else f"{batch.jobs} jobs"
        fail(
            f"the batch {batch.id} was sealed with {jobs} and is {batch.status}, so it takes no more: for other jobs leave "
            f"--batch out; its results: infermq batch results {batch.id}",
            Exit.USAGE,
        )


async def _catalog(client: Client) -> Catalog | None:
    """Return the active catalog, or None if it is written for another version: then only the broker can check against it."""
    try:
        return parse((await client.catalog()).toml)
    except CatalogError:
        return None


def _how_to_go_on(wanted: Wanted) -> str:
    return f"{_to_watch(wanted.batch)}\nits results: {wanted.command()}"


def _to_watch(batch: UUID) -> str:
    return f"the batch goes on: infermq batch watch {batch}"


async def _interruptible(work: Coroutine[Any, Any, T], how_to_go_on: str) -> T:
    """Do the work, until Ctrl-C ends it. Raises: typer.Exit, then."""
    doing = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, doing.cancel)
    try:
        return await doing
    except asyncio.CancelledError:
        stop(how_to_go_on)


def _digests(stream: BinaryIO, model: str | None, lane: Lane) -> tuple[str, str]:
    """Identify the file's content; and what is submitted: the content, and what changes its jobs."""
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    stream.seek(0)
    of_content = digest.hexdigest()
    digest.update(f"\0{model or ''}\0{lane}".encode())
    return of_content, digest.hexdigest()


def _name_of(stream: BinaryIO) -> str:
    """Name a file as its user does. What was standard input has no name."""
    name = getattr(stream, "name", None)
    return Path(name).name[:200] if isinstance(name, str) else "standard input"

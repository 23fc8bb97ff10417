"""`infermq submit FILE.jsonl`: checks a file of requests and submits it as one batch."""

import asyncio
import hashlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO
from uuid import UUID

import typer

from broker.batch_file import Fault, Line, admissible, read_lines
from broker.cli.filters import MetadataOption, metadata_of, window_ms
from broker.cli.progress import ends_of, sending, watch, watch_and_write
from broker.cli.results import check_out, failure_line, first_failures
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    NatsUrl,
    err,
    fail,
    money,
    out,
    plain,
    print_json,
    printable,
    reporting_errors,
    utf8,
    with_client,
)
from broker.client import BacklogFull, Client, Submission, new_id
from broker.core.records import BatchInfo
from broker.errors import Unavailable
from schemas.api import Batch, BatchList
from schemas.catalog import Catalog, CatalogError, parse
from schemas.clock import wall_clock
from schemas.ids import ms_of
from schemas.job import MOST_LABELS, MOST_PRIORITY, Lane
from schemas.subjects import DEFAULT

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
        print_json({"batch": state, "faults": [str(fault) for fault in self.faults], "bad_lines": self.bad})


def submit(
    file: Annotated[str, typer.Argument(help="OpenAI Batch lines (JSONL); - for standard input.")],
    *,
    model: Annotated[str | None, typer.Option(help="For lines whose body names none.")] = None,
    lane: Annotated[Lane, typer.Option(help="Priority class.")] = Lane.BULK,
    deadline: Annotated[str | None, typer.Option(help="From now: 90s, 30m, 24h, 7d. By default the lane's.")] = None,
    priority: Annotated[
        int,
        typer.Option(min=-MOST_PRIORITY, max=MOST_PRIORITY, help="Before your other jobs of the lane; higher first."),
    ] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the batch is complete.")] = False,
    results: Annotated[Path | None, typer.Option("--out", help="Write results here; waits for them.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Submit nothing if a line is bad.")] = False,
    batch: Annotated[UUID | None, typer.Option(help="Go on with a batch that was not sent to its end.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Submit it even if a batch of this file runs.")] = False,
    metadata: MetadataOption = None,
    as_json: AsJson = False,
    nats_url: NatsUrl = None,
    data: Data = None,
) -> None:
    """Submit a file of requests as one batch.

    Prints the id of the batch first, and how to watch it. A line that is bad is named, and the others are sent.
    The same file again goes on where it stopped.

    Examples:
      infermq submit prompts.jsonl
      infermq submit prompts.jsonl --out results.jsonl
      infermq submit prompts.jsonl --model small-chat --deadline 2h
    """
    if model is not None:
        utf8(model, "the model's name")
    wait = wait or results is not None
    with reporting_errors():
        if results is not None:
            check_out(results)
        with _opened(file) as stream:
            job = _Submit(
                stream,
                model=model,
                lane=lane,
                window_ms=window_ms(deadline),
                priority=priority,
                strict=strict,
                batch=batch,
                metadata=metadata_of(metadata),
                label=None if batch is not None else _digest(stream, model, lane),
                new=new,
            )
            state = with_client(nats_url, data, lambda client: job.run(client, wait=wait, out=results))
    if as_json:
        job.tally.print_json(state)
    elif state is not None:
        _print(state, job.tally, waited=wait, results=results)
    if state is None:
        fail(f"nothing was submitted; bad lines: {job.tally.bad}", Exit.USAGE)
    ended = state.counts.settled() - state.counts.succeeded
    if job.tally.bad or ended or state.refused:
        raise typer.Exit(Exit.FAILED)


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """Open the file. Standard input and pipes are copied to a temporary file, since the input is read twice."""
    with sys.stdin.buffer if name == "-" else Path(name).open("rb") as stream:
        if stream.seekable() and name != "-":
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
            copy.seek(0)
            yield copy


FILE_LABEL = "infermq-file"
"""The label of a batch that tells which file it was made of."""


def _digest(stream: BinaryIO, model: str | None, lane: Lane) -> str:
    """Identify what is submitted: the file's content, and what changes its jobs."""
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    digest.update(f"\0{model or ''}\0{lane}".encode())
    stream.seek(0)
    return digest.hexdigest()


class _Submit:
    def __init__(
        self,
        stream: BinaryIO,
        *,
        model: str | None,
        lane: Lane,
        window_ms: int | None,
        priority: int,
        strict: bool,
        batch: UUID | None,
        metadata: dict[str, str],
        label: str | None,
        new: bool,
    ) -> None:
        self._new = new
        self._stream = stream
        self._model = model
        self._lane = lane
        self._window_ms = window_ms
        self._priority = priority
        self._strict = strict
        self._batch = batch
        self._label = label
        self._metadata = {FILE_LABEL: label, **metadata} if label and len(metadata) < MOST_LABELS else metadata
        self.tally = Tally()

    async def run(self, client: Client, *, wait: bool, out: Path | None) -> Batch | None:
        """Submit the file. Return None if nothing was submitted: the tally says why. Raises: typer.Exit."""
        catalog = await _catalog(client)
        self._check_model(catalog)
        batch = await self._same(client) if self._batch is None else await client.batch(self._batch)
        if batch is not None:
            _check_open(batch)
            self._batch = batch.id
        if not self._is_worth_submitting(batch, catalog):
            self.tally.print()
            return None
        if batch is None:
            batch = await client.create_batch(lane=self._lane, priority=self._priority, metadata=self._metadata)
            err.print(f"batch {batch.id}")
        await self._send(client, batch, catalog)
        state = await client.seal(batch.id, jobs=self.tally.sent)
        self.tally.print()
        if not wait:
            await _say_what_failed(client, state)
            return state
        waiting = asyncio.create_task(self._wait(client, batch.id, out))
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, waiting.cancel)
        try:
            return await waiting
        except asyncio.CancelledError:
            _say_how_to_continue(batch.id, out)
            raise typer.Exit(Exit.INTERRUPTED) from None
        except Exception:
            _say_how_to_continue(batch.id, out)
            raise

    async def _same(self, client: Client) -> Batch | None:
        """Find a batch of the same file that was not sent to its end, to go on with it. Raises: typer.Exit, if one runs."""
        if self._new or self._label is None:
            return None
        same = BatchList(metadata={FILE_LABEL: self._label})
        found = next(iter(await client.batches(limit=1, matching=same)), None)
        if found is None or found.completed_ms is not None or found.cancel_ms is not None:
            return None
        if found.jobs is not None:
            done = int(100 * found.counts.settled() / max(1, found.jobs))
            watch_it = f"infermq batch watch {found.id}"
            fail(
                f"this file is the batch {found.id}, {done} % done: {watch_it}; to submit it once more: --new",
                Exit.USAGE,
            )
        err.print(
            f"this file is the batch {found.id}, which was not sent to its end: going on with it (--new: another)"
        )
        return found

    def _check_model(self, catalog: Catalog | None) -> None:
        """Raises: typer.Exit."""
        if catalog is not None and self._model is not None and self._model not in catalog.models:
            known = ", ".join(sorted(catalog.models)) or "none, see infermq apply"
            fail(f"--model: there is no model {self._model[:200]!r}; known: {known}", Exit.USAGE)

    def _is_worth_submitting(self, batch: Batch | None, catalog: Catalog | None) -> bool:
        """Tell whether there is something to submit: with `--strict` every line must be good, else one is enough."""
        is_good = False
        for item in self._items(batch.id if batch else new_id(), catalog if self._strict or not batch else None):
            if isinstance(item, Fault):
                self.tally.note(item)
                continue
            is_good = True
            if not self._strict:
                break
        self._stream.seek(0)
        if not is_good or (self._strict and self.tally.bad):
            return False
        self.tally = Tally()
        return True

    def _items(self, batch: UUID, catalog: Catalog | None) -> Iterator[Line | Fault]:
        """Read the file as jobs of a batch. Without a catalog, only the broker can tell what it refuses."""
        deadline_ms = None if self._window_ms is None else ms_of(batch) + self._window_ms
        items = read_lines(self._stream, model=self._model, batch=batch, deadline_ms=deadline_ms)
        if catalog is None:
            return items
        info = BatchInfo(id=batch, tenant=DEFAULT, lane=self._lane, deadline_ms=None)
        return admissible(items, batch=info, catalog=catalog, now=wall_clock())

    async def _send(self, client: Client, batch: Batch, catalog: Catalog | None) -> None:
        """Send every line. Ids are made of batch and line, so sending a line again is safe.

        If a batch is continued, its lines are not checked against the catalog: they may have been accepted under another.
        """
        size = self._stream.seek(0, 2)
        self._stream.seek(0)
        items = self._items(batch.id, None if self._batch else catalog)
        interrupted = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
        rest = f"send all of it again, what was accepted is known: infermq submit FILE --batch {batch.id}"
        try:
            with sending(size) as sent:
                await client.submit_many(self._submissions(items, batch.lane, sent, interrupted))
        except (BacklogFull, Unavailable):
            err.print(f"stopped after {self.tally.sent} jobs; {rest}")
            raise
        if interrupted.is_set():
            err.print(f"\nstopped after {self.tally.sent} jobs; they run. {rest}")
            raise typer.Exit(Exit.INTERRUPTED)

    def _submissions(
        self, items: Iterable[Line | Fault], lane: Lane, sent: Callable[[int, int], None], interrupted: asyncio.Event
    ) -> Iterator[Submission]:
        for item in items:
            if interrupted.is_set():
                return
            if isinstance(item, Fault):
                self.tally.note(item)
                continue
            self.tally.sent += 1
            if self.tally.sent % 500 == 0:
                sent(self.tally.sent, self._stream.tell())
            yield Submission(item.model, item.job, lane)

    async def _wait(self, client: Client, batch: UUID, out: Path | None) -> Batch:
        state = await (watch(client, batch) if out is None else watch_and_write(client, batch, out))
        await _say_what_failed(client, state)
        return state


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


async def _say_what_failed(client: Client, state: Batch) -> None:
    failures = await first_failures(client, state)
    for result in failures:
        err.print(printable(failure_line(result)), markup=False)
    others = state.counts.settled() - state.counts.succeeded - len(failures)
    if others:
        err.print(f"… and {others} more")
    if state.refused:
        err.print(f"{state.refused} more came after the batch had all that it was sealed with: they did not run")


def _say_how_to_continue(batch: UUID, out: Path | None) -> None:
    where = f" --out {plain(str(out))}" if out else ""
    err.print(f"\nthe batch goes on: infermq batch watch {batch}")
    err.print(f"its results: infermq batch results {batch} --wait{where}")


def _print(state: Batch, tally: Tally, *, waited: bool, results: Path | None) -> None:
    out.print(
        f"batch [bold]{state.id}[/]: {tally.sent} jobs submitted" + (f", {tally.bad} bad lines" if tally.bad else "")
    )
    if not waited:
        out.print(f"watch it: infermq batch watch {state.id}\nresults:  infermq batch results {state.id} --out FILE")
        return
    out.print(
        f"{ends_of(state.counts) or 'nothing ran'}; {state.usage.input_tokens} + {state.usage.output_tokens} tokens, "
        f"{money(state.cost_nano_usd)}"
    )
    if results is not None:
        out.print(f"results: {plain(str(results))}")

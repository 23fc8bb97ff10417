"""`infermq submit FILE.jsonl`."""

import asyncio
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO
from uuid import UUID

import typer

from broker.cli.progress import sending, watch, watched
from broker.cli.results import write_results
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    NatsUrl,
    err,
    fail,
    money,
    out,
    print_json,
    told,
    with_client,
)
from broker.client import BacklogFull, Client, Submission, new_id
from broker.core.lines import Fault, Line, read_lines
from broker.errors import Unavailable
from schemas.api import Batch
from schemas.ids import ms_of
from schemas.job import Lane

_SHOWN = 20
"""Faults that are printed one by one."""
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(slots=True)
class Tally:
    """What a file came to."""

    sent: int = 0
    faults: list[Fault] = field(default_factory=list)
    bad: int = 0

    def note(self, fault: Fault) -> None:
        self.bad += 1
        if len(self.faults) < _SHOWN:
            self.faults.append(fault)

    def print(self) -> None:
        for fault in self.faults:
            err.print(f"[yellow]{fault.code}[/] ", end="")
            err.print(str(fault), markup=False)
        if self.bad > len(self.faults):
            err.print(f"… and {self.bad - len(self.faults)} more")


def submit(
    file: Annotated[str, typer.Argument(help="OpenAI Batch lines (JSONL); - for standard input.")],
    *,
    model: Annotated[str | None, typer.Option(help="For lines whose body names none.")] = None,
    lane: Annotated[Lane, typer.Option(help="Priority class.")] = Lane.BULK,
    deadline: Annotated[str | None, typer.Option(help="From now: 90s, 30m, 24h, 7d. By default the lane's.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the batch is complete.")] = False,
    results: Annotated[Path | None, typer.Option("--out", help="Write results here; waits for them.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Submit nothing if a line is bad.")] = False,
    batch: Annotated[UUID | None, typer.Option(help="Go on with a batch that was not sent to its end.")] = None,
    as_json: AsJson = False,
    nats_url: NatsUrl = None,
    data: Data = None,
) -> None:
    """Submit a file of requests as one batch."""
    with told(), _opened(file) as stream:
        job = _Submit(stream, model=model, lane=lane, deadline_ms=_window_ms(deadline), strict=strict, batch=batch)
        state = with_client(nats_url, data, lambda client: job.run(client, wait=wait or bool(results), out=results))
    if as_json:
        print_json({"batch": state, "faults": [str(fault) for fault in job.tally.faults], "bad_lines": job.tally.bad})
    else:
        _print(state, job.tally, waited=wait or results is not None, results=results)
    ended = state.counts.settled() - state.counts.succeeded
    if job.tally.bad or ended:
        raise typer.Exit(Exit.FAILED)


def _window_ms(text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None:
        fail(f"{text!r} is not a time such as 90s, 30m, 24h, 7d", Exit.USAGE)
    return int(found[1]) * _UNITS_MS[found[2]]


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """Standard input is kept in a file, since it may be read twice."""
    if name != "-":
        with Path(name).open("rb") as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as copy:
        while block := sys.stdin.buffer.read(1 << 20):
            copy.write(block)
        copy.seek(0)
        yield copy


class _Submit:
    def __init__(
        self,
        stream: BinaryIO,
        *,
        model: str | None,
        lane: Lane,
        deadline_ms: int | None,
        strict: bool,
        batch: UUID | None,
    ) -> None:
        self._stream = stream
        self._model = model
        self._lane = lane
        self._window_ms = deadline_ms
        self._strict = strict
        self._batch = batch
        self.tally = Tally()

    async def run(self, client: Client, *, wait: bool, out: Path | None) -> Batch:
        if self._strict:
            self._check()
        batch = await self._ensure(client)
        await self._send(client, batch)
        state = await client.seal(batch.id, jobs=self.tally.sent)
        self.tally.print()
        if not wait:
            return state
        waiting = asyncio.create_task(self._wait(client, batch.id, out))
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, waiting.cancel)
        try:
            return await waiting
        except asyncio.CancelledError:
            where = f" --out {out}" if out else ""
            err.print(f"\nthe batch goes on: infermq batch show {batch.id}")
            err.print(f"its results: infermq batch results {batch.id} --wait{where}")
            raise typer.Exit(Exit.INTERRUPTED) from None

    def _check(self) -> None:
        """Read it all once. Raises: typer.Exit, at a bad line."""
        for item in read_lines(self._stream, model=self._model, batch=new_id()):
            if isinstance(item, Fault):
                self.tally.note(item)
        self._stream.seek(0)
        if self.tally.bad:
            self.tally.print()
            fail(f"{self.tally.bad} bad lines: nothing was submitted", Exit.USAGE)

    async def _ensure(self, client: Client) -> Batch:
        if self._batch is not None:
            return await client.batch(self._batch)
        first = next(iter(read_lines(self._stream, model=self._model, batch=new_id())), None)
        self._stream.seek(0)
        if isinstance(first, Fault) and first.number == 0:
            fail(str(first), Exit.USAGE)
        return await client.create_batch(lane=self._lane, metadata={})

    async def _send(self, client: Client, batch: Batch) -> None:
        """Ids are made of batch and line: sending again what was sent before is safe."""
        size = self._stream.seek(0, 2)
        self._stream.seek(0)
        interrupted = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
        rest = f"send all of it again, what was accepted is known: infermq submit FILE --batch {batch.id}"
        try:
            with sending(size) as sent:
                await client.submit_many(self._submissions(batch, sent, interrupted))
        except (BacklogFull, Unavailable):
            err.print(f"stopped after {self.tally.sent} jobs; {rest}")
            raise
        if interrupted.is_set():
            err.print(f"\nstopped after {self.tally.sent} jobs; they run. {rest}")
            raise typer.Exit(Exit.INTERRUPTED)

    def _submissions(
        self, batch: Batch, sent: Callable[[int, int], None], interrupted: asyncio.Event
    ) -> Iterator[Submission]:
        deadline = ms_of(batch.id) + self._window_ms if self._window_ms is not None else None
        for item in read_lines(self._stream, model=self._model, batch=batch.id, deadline_ms=deadline):
            if interrupted.is_set():
                return
            if isinstance(item, Fault):
                self.tally.note(item)
                continue
            yield self._counted(item, batch, sent)

    def _counted(self, line: Line, batch: Batch, sent: Callable[[int, int], None]) -> Submission:
        self.tally.sent += 1
        if self.tally.sent % 500 == 0:
            sent(self.tally.sent, self._stream.tell())
        return Submission(line.model, line.job, batch.lane)

    async def _wait(self, client: Client, batch: UUID, out: Path | None) -> Batch:
        if out is None:
            return await watch(client, batch)

        async def write() -> None:
            await write_results(client, batch, out, wait=True)

        return await watched(client, batch, write)


def _print(state: Batch, tally: Tally, *, waited: bool, results: Path | None) -> None:
    out.print(
        f"batch [bold]{state.id}[/]: {tally.sent} jobs submitted" + (f", {tally.bad} bad lines" if tally.bad else "")
    )
    if not waited:
        out.print(f"watch it: infermq batch show {state.id}\nresults:  infermq batch results {state.id} --out FILE")
        return
    counts = state.counts
    ends = ", ".join(f"{getattr(counts, name)} {name}" for name in _ENDS if getattr(counts, name))
    out.print(
        f"{ends or 'nothing ran'}; {state.usage.input_tokens} + {state.usage.output_tokens} tokens, "
        f"{money(state.cost_nano_usd)}"
    )
    if results is not None:
        out.print(f"results: {results}")


_ENDS = ("succeeded", "failed", "expired", "cancelled", "dead")

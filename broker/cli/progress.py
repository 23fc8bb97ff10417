"""Shows how a batch proceeds, in a line that is updated: done, rate, time left, cost so far, what failed, why it waits."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from uuid import UUID

from msgspec.structs import replace
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from broker.cli.layout import flowed
from broker.cli.result_files import ResultFiles, write_results
from broker.cli.terminal import duration, err, money, reasons, shown
from broker.client import Client, RequestRefused
from broker.errors import Unavailable
from schemas.api import Batch, Counts, HoldCode

_LOOK_S = 0.5
_SOON_S = 0.05
"""Before the first look: a short file needs no more."""
BETWEEN = " · "
_KINDS = 3
"""How many kinds of failures a line names."""
_STILL_S = 5.0
"""How long no job has ended when the broker is asked why."""
_PLAIN_S = 10.0
"""Between two lines where the output is no terminal, so that no line can be updated."""


@contextmanager
def sending(total_bytes: int | None) -> Iterator[Callable[[int | None, int], None]]:
    """Show a progress bar while the block runs. Call the value with the jobs and the bytes sent so far; with None instead of
    jobs while a file is sent as a whole.
    """
    columns = (TextColumn("sending"), BarColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal or err.quiet) as progress:
        task = progress.add_task("sending", total=total_bytes, said="")

        def sent(jobs: int | None, position: int) -> None:
            said = f"{position / 1e6:,.0f} MB" if jobs is None else f"{jobs:,} jobs"
            progress.update(task, completed=position, said=said)

        yield sent


async def making(client: Client, batch: UUID) -> Batch:
    """Show how many lines of a stored file are jobs, until all are. All are checked before the first is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[jobs]:,} jobs"))
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal or err.quiet) as progress:
        task = progress.add_task("checking", total=None, jobs=0)
        wait_s = _SOON_S
        while (state := await _look(client, batch)) is None or (state.jobs is None and state.completed_ms is None):
            if state is not None and state.counts.admitted:
                progress.update(task, description="making jobs", jobs=state.counts.admitted)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LOOK_S)
        return state


async def watch(client: Client, batch: UUID) -> Batch:
    """Show the batch until it is complete. If no job ends for some seconds, show why too."""
    settled, since, held = -1, 0.0, ""
    with _bar() as show:
        while True:
            state = await _look(client, batch)
            if state is not None:
                if state.counts.settled() != settled:
                    settled, since, held = state.counts.settled(), time.monotonic(), ""
                elif time.monotonic() - since >= _STILL_S:
                    since, held = time.monotonic(), await _held(client, state)
                show(state, held)
                if state.completed_ms is not None:
                    return state
            await asyncio.sleep(_LOOK_S)


async def _held(client: Client, batch: Batch) -> str:
    """Say why nothing of a batch starts: it is paused, or the models that jobs wait for start nothing. Empty: they do start
    jobs, or no broker answers.
    """
    if batch.holds:
        return reasons(batch.holds)
    try:
        status = await client.status()
    except (RequestRefused, Unavailable):
        return ""
    holds = [hold for model in status.models if model.waiting for hold in model.holds]
    return reasons([hold for hold in holds if hold.code is not HoldCode.BUSY])


async def _look(client: Client, batch: UUID) -> Batch | None:
    """Return the batch, or None while no broker answers: the batch waits for one too."""
    try:
        return await client.batch(batch)
    except Unavailable:
        return None


async def watch_and_write(client: Client, files: ResultFiles) -> Batch:
    """Show a batch until it is complete, while its results are written."""
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch(client, files.wanted.batch))
        group.create_task(write_results(client, files, wait=True))
    return watching.result()


@contextmanager
def _bar() -> Iterator[Callable[[Batch, str], None]]:
    """Give a function that shows a batch: in a line that is updated, or in one now and then where that cannot be."""
    began = last_line = time.monotonic()
    live = Live(console=err, auto_refresh=False) if err.is_terminal and not err.quiet else None
    try:
        done_before: int | None = None
        held_before = ""

        def show(batch: Batch, held: str) -> None:
            nonlocal last_line, done_before, held_before
            done = batch.counts.settled()
            done_before = done if done_before is None else done_before
            elapsed = time.monotonic() - began
            parts = describe(batch, rate=(done - done_before) / elapsed if elapsed > 0 else 0.0, held=held)
            if live is not None:
                live.start()
                live.update(Text("\n".join(flowed(parts, err.width - 1, BETWEEN))), refresh=True)
            elif held not in {"", held_before} or time.monotonic() - last_line >= _PLAIN_S:
                last_line = time.monotonic()
                err.print(BETWEEN.join(parts), markup=False)
            held_before = held

        yield show
    finally:
        if live is not None:
            live.stop()


def _total(batch: Batch) -> int:
    """Return how many jobs a batch has, or has had so far if it is not sealed yet."""
    return batch.counts.admitted if batch.jobs is None else batch.jobs


def ends_of(counts: Counts) -> str:
    """Say how jobs ended, such as `36 succeeded, 4 failed`. Empty: none has."""
    ends = ((name, getattr(counts, name)) for name in Counts.__struct_fields__ if name != "admitted")
    return ", ".join(f"{number:,} {name}" for name, number in ends if number)


def came_to(batch: Batch) -> str:
    """Say how the jobs of a batch ended, and how many have no result."""
    return ", ".join(part for part in (ends_of(batch.counts), *_without_result(batch)) if part) or "nothing ran"


def _without_result(batch: Batch) -> list[str]:
    counted = {"came too late": batch.refused, "never came": batch.never_came()}
    return [f"{number:,} {what}" for what, number in counted.items() if number]


def describe(batch: Batch, *, rate: float, held: str = "") -> list[str]:
    """Describe a batch, the most important first. The rate is in jobs/s; `held` says why nothing starts."""
    settled, total = batch.counts.settled(), _total(batch)
    share = f" {int(100 * settled / total)}%" if total else ""
    parts = [f"{settled:,}/{'?' if batch.jobs is None else f'{total:,}'}{share}"]
    if batch.ahead:
        parts.append(ahead(batch.ahead, more=batch.more_ahead))
    if rate > 0:
        parts.append(f"{rate:,.{0 if rate >= 10 else 1}f}/s")
    if total > settled and rate > 0 and batch.completed_ms is None:
        parts.append(f"{duration(int((total - settled) / rate * 1000))} left")
    parts.append(_cost(batch.cost_nano_usd, settled, total - batch.never_came()))
    if otherwise := ends_of(replace(batch.counts, succeeded=0)):
        parts.append(otherwise + _kinds(batch.failures))
    parts += _without_result(batch)
    if held:
        parts.append(held)
    return [shown(part) for part in parts]


def ahead(jobs: int, *, more: bool) -> str:
    """Say how many jobs are before this one."""
    return f"{'more than ' if more else ''}{jobs:,} {'job' if jobs == 1 else 'jobs'} ahead"


def _cost(so_far: int, settled: int, total: int) -> str:
    """Say what was spent, and what it comes to if the rest costs what this did."""
    if not settled or settled >= total:
        return money(so_far, short=True)
    return f"{money(so_far, short=True)} of ~{money(so_far * total // settled, short=True)}"


def _kinds(failures: Mapping[str, int]) -> str:
    """List the kinds of failures that there are the most of."""
    shown = [f"{kind} {count:,}" for kind, count in list(failures.items())[:_KINDS]]
    more = ["…"] if len(failures) > _KINDS else []
    return f" ({', '.join([*shown, *more])})" if shown else ""

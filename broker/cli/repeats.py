"""`infermq batch retry`: runs what failed again."""

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from broker.batch_file import Line, read_lines
from broker.cli.filters import window_ms
from broker.cli.instructions import counted
from broker.cli.progress import came_to, watch
from broker.cli.result_files import (
    Force,
    Wanted,
    check_files,
    check_loss,
    result_files,
    saying_how_to_go_on,
    whole,
    write_results,
)
from broker.cli.results import failure_line, first_failures
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    Url,
    err,
    fail,
    money,
    out,
    plain,
    print_json,
    print_text,
    printable,
    reporting_errors,
    utf8,
    with_client,
)
from broker.client import Client, new_id
from broker.errors import Unavailable
from schemas.api import Batch, State
from schemas.files import Fault
from schemas.instructions import Instruction
from schemas.repeats import FAILED_STATES, FixedBody, RetryChoice

_SHOWN = 20
"""How many bad lines are printed one by one."""
_SOON_S = 5.0
"""How long a command that does not wait for results waits for the new jobs to be made, to say how many they are."""


def retry(
    batch: Annotated[UUID, typer.Argument(help="The batch.")],
    *,
    code: Annotated[
        list[str] | None, typer.Option(help="Only these failures, such as engine_fault. May be repeated.")
    ] = None,
    state: Annotated[
        list[State] | None, typer.Option(help="Only these; by default failed, expired and dead. May be repeated.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Lines with other bodies, by their custom_id (JSONL).")] = None,
    model: Annotated[str | None, typer.Option(help="Run them on this model.")] = None,
    deadline: Annotated[str | None, typer.Option(help="From now: 90s, 30m, 24h, 7d. By default the lane's.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the retry is complete.")] = False,
    results: Annotated[
        Path | None, typer.Option("--out", help="Write the merged results here; waits for them.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Run what failed in a batch again, as a new batch.

    Prints the new batch. Its results are merged with those of the first.

    Examples:
      infermq batch retry BATCH
      infermq batch retry BATCH --code engine_fault --wait
      infermq batch retry BATCH --file fixed.jsonl --out merged.jsonl
    """
    if model is not None:
        utf8(model, "the model's name")
    choice = RetryChoice(batch=batch, states=tuple(state or FAILED_STATES), kinds=tuple(code or ()))
    with reporting_errors():
        check_files(results, None)
        lines = [] if file is None else _lines(file)
        deadline_ms = window_ms(deadline)

        async def run(client: Client) -> tuple[Instruction, Batch]:
            await check_loss(client, [] if results is None else [results], batch, force=force)
            await _check_lines(client, choice, lines)
            given = await client.retry(
                batch,
                states=choice.states,
                kinds=choice.kinds,
                model=model,
                deadline_in_ms=deadline_ms,
                bodies=[_fixed(line) for line in lines],
            )
            return await _followed(client, given, wait=wait, results=results)

        given, state_of = with_client(url, data, run)
    if as_json:
        print_json({"instruction": given, "batch": state_of})
    else:
        _print(given, state_of, waited=wait or results is not None, results=results)
    waited = wait or results is not None
    if given.failure is not None or (waited and state_of.without_success()):
        raise typer.Exit(Exit.FAILED)


async def _followed(
    client: Client, given: Instruction, *, wait: bool, results: Path | None
) -> tuple[Instruction, Batch]:
    """Wait for what is to be waited for. Returns how far the retry is, and its batch."""
    if wait or results:
        say_that_it_goes_on(given)
    made = await until_made(client, given, wait=wait or results is not None)
    if not wait and results is None:
        return made, await client.batch(given.id)
    wanted = Wanted(batch=(await client.batch(given.id)).root or given.id, out=whole(results))
    with saying_how_to_go_on(wanted):
        state = await watch(client, given.id)
        for failure in await first_failures(client, state):
            err.print(printable(failure_line(failure)), markup=False)
        if results is not None:
            with result_files(wanted) as files:
                await write_results(client, files, wait=True)
    return made, state


def say_that_it_goes_on(given: Instruction) -> None:
    """Say, before waiting begins, how to look at it later."""
    err.print(f"batch {given.id}: it goes on if you stop waiting, see infermq batch show {given.id}")


async def until_made(client: Client, given: Instruction, *, wait: bool) -> Instruction:
    """Wait until an instruction has made all its jobs; unless told to `wait`, for a moment only."""
    try:
        async with asyncio.timeout(None if wait else _SOON_S):
            while True:
                with contextlib.suppress(Unavailable):  # another broker carries on
                    if (state := await client.instruction(given.id)).ended_ms is not None:
                        return state
                await asyncio.sleep(0.1)
    except TimeoutError:
        return await client.instruction(given.id)


def _lines(file: Path) -> list[Line]:
    """Read the lines with other bodies. Raises: typer.Exit."""
    with file.open("rb") as stream:
        items = list(read_lines(stream, model="", batch=new_id()))
    if faults := [item for item in items if isinstance(item, Fault)]:
        _refuse([str(fault) for fault in faults])
    return [item for item in items if isinstance(item, Line)]


async def _check_lines(client: Client, choice: RetryChoice, lines: list[Line]) -> None:
    """Check that each line is of a job that the retry takes. Raises: typer.Exit."""
    numbers = {str(line.job.custom_id): line.number for line in lines}
    if wrong := await client.not_retried(choice, list(numbers)):
        _refuse(
            [
                f"line {numbers[name]}: {name[:80]!r}: no job of the batch with this custom_id failed so: "
                "it succeeded, is open, or is none of the batch"
                for name in wrong
            ]
        )


def _refuse(faults: list[str]) -> None:
    for fault in faults[:_SHOWN]:
        err.print(plain(fault))
    if len(faults) > _SHOWN:
        err.print(f"… and {len(faults) - _SHOWN} more")
    fail(f"nothing was retried; bad lines: {len(faults)}", Exit.USAGE)


def _fixed(line: Line) -> FixedBody:
    return FixedBody(str(line.job.custom_id), line.job.body.decode(), line.model or None, line.job.endpoint)


def _print(given: Instruction, state: Batch, *, waited: bool, results: Path | None) -> None:
    if given.failure is not None:
        err.print(f"[bold red]ended early:[/] {plain(given.failure)}")
    if not given.counts and given.ended_ms is not None:
        print_text("there is nothing to retry: no job failed so, or each has succeeded or is open in another retry")
        return
    out.print(f"batch [bold]{state.id}[/]: {counted(given)}")
    root = state.root or state.id
    if not waited:
        out.print(
            f"watch it: infermq batch show {state.id}\n"
            f"results:  infermq batch results {root} --out FILE, merged with those of the first batch"
        )
        return
    out.print(f"{came_to(state)}; {money(state.cost_nano_usd)}")
    if results is not None:
        out.print(f"merged results: {plain(str(results))}")

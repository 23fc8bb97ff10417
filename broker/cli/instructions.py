"""`infermq instruction list | show`: orders over many jobs, and how far they are."""

from typing import Annotated
from uuid import UUID

import typer

from broker.cli.commands import Commands
from broker.cli.filters import Before, Limit
from broker.cli.terminal import (
    AsJson,
    Data,
    Url,
    duration,
    instant,
    print_fields,
    print_json,
    print_table,
    reporting_errors,
    with_client,
)
from schemas.instructions import Instruction

app = Commands(help="Look at instructions: orders over many jobs, which go on by themselves.")


@app.command("list")
def list_instructions(
    *,
    limit: Limit = 20,
    before: Before = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List the instructions, the newest first.

    Prints a row for each, with how far it is.

    Examples:
      infermq instruction list
    """
    with reporting_errors():
        found = with_client(url, data, lambda client: client.instructions(limit=limit, before=before))
    if as_json:
        print_json({"instructions": found})
        return
    columns = ("instruction", "kind", "given", "key", "status", "so far")
    rows = ((one.id, one.kind, instant(one.made_ms), one.key, _status(one), counted(one)) for one in found)
    print_table(columns, rows)


@app.command()
def show(
    instruction: Annotated[UUID, typer.Argument(help="The instruction.")],
    *,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Show how far an instruction is.

    Examples:
      infermq instruction show INSTRUCTION
    """
    with reporting_errors():
        state = with_client(url, data, lambda client: client.instruction(instruction))
    if as_json:
        print_json(state)
        return
    took = None if state.ended_ms is None else f"{instant(state.ended_ms)}, after {took_of(state)}"
    print_fields(
        [
            ("instruction", state.id),
            ("kind", state.kind),
            ("status", _status(state)),
            ("given", f"{instant(state.made_ms)}, by key {state.key}"),
            ("ended", took),
            ("failure", state.failure),
            ("what", bytes(state.what).decode()),
            *state.counts.items(),
        ]
    )


def took_of(state: Instruction) -> str:
    return duration(None if state.ended_ms is None else state.ended_ms - state.made_ms)


def _status(state: Instruction) -> str:
    if state.ended_ms is None:
        return "in progress"
    return "done" if state.failure is None else "ended early"


def counted(state: Instruction) -> str:
    """Say in a line what was done with how many jobs."""
    return ", ".join(f"{number} {name}" for name, number in state.counts.items()) or "-"

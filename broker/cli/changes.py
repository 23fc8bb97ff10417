"""`infermq job change` and `infermq batch change`."""

import asyncio
from typing import Annotated
from uuid import UUID

import typer

from broker.cli.filters import window_ms
from broker.cli.instructions import counted
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    Url,
    err,
    fail,
    instant,
    print_json,
    print_table,
    reporting_errors,
    with_client,
)
from broker.client import Client
from schemas.changes import Change, JobTerms
from schemas.instructions import Instruction
from schemas.job import MOST_PRIORITY, Lane

NewLane = Annotated[Lane | None, typer.Option("--lane", help="The new lane.")]
NewDeadline = Annotated[str | None, typer.Option("--deadline", help="The new deadline, from now: 90s, 30m, 24h, 7d.")]
NewPriority = Annotated[
    int | None,
    typer.Option("--priority", min=-MOST_PRIORITY, max=MOST_PRIORITY, help="Before your other jobs; higher first."),
]
_LOOK_S = 0.3


def change_job(
    job: Annotated[UUID, typer.Argument(help="The job.")],
    *,
    lane: NewLane = None,
    deadline: NewDeadline = None,
    priority: NewPriority = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Change lane, deadline or priority of a job while it waits.

    Prints how it was before and is after.

    Examples:
      infermq job change JOB --lane standard
      infermq job change JOB --deadline 2h --priority 10
    """
    change = _change(lane, deadline, priority)
    with reporting_errors():
        changed = with_client(url, data, lambda client: client.change_job(job, change))
    if as_json:
        print_json(changed)
        return
    before, after = _terms(changed.before), _terms(changed.after)
    print_table(("", "before", "after"), ((name, before[name], after[name]) for name in before))


def change_batch(
    batch: Annotated[UUID, typer.Argument(help="The batch.")],
    *,
    lane: NewLane = None,
    deadline: NewDeadline = None,
    priority: NewPriority = None,
    wait: Annotated[bool, typer.Option(help="Wait until all that waited are changed.")] = True,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Change lane, deadline or priority of all jobs of a batch that wait, and of those that come later.

    Says how many were changed.

    Examples:
      infermq batch change BATCH --priority 10
      infermq batch change BATCH --deadline 24h
    """
    change = _change(lane, deadline, priority)

    async def ask(client: Client) -> Instruction:
        given = await client.change_batch(batch, change)
        while wait and given.ended_ms is None:
            await asyncio.sleep(_LOOK_S)
            given = await client.instruction(given.id)
        return given

    with reporting_errors():
        given = with_client(url, data, ask)
    if as_json:
        print_json(given)
    elif given.ended_ms is None:
        err.print(f"watch it: infermq instruction show {given.id}")
    else:
        err.print(f"{counted(given)}" if given.failure is None else f"ended early: {given.failure}", markup=False)
    if given.failure is not None:
        raise typer.Exit(Exit.FAILED)


def _change(lane: Lane | None, deadline: str | None, priority: int | None) -> Change:
    """Raises: typer.Exit."""
    if lane is None and deadline is None and priority is None:
        fail("say what to change: --lane, --deadline or --priority", Exit.USAGE)
    return Change(lane=lane, deadline_in_ms=window_ms(deadline), priority=priority)


def _terms(terms: JobTerms) -> dict[str, object]:
    return {"lane": terms.lane, "deadline": instant(terms.deadline_ms), "priority": terms.priority}

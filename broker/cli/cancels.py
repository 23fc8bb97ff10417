"""`infermq job cancel`, `infermq batch cancel`."""

import asyncio
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer
from msgspec.structs import replace

from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    NatsUrl,
    print_fields,
    print_json,
    print_table,
    reporting_errors,
    with_client,
)
from broker.client import Client
from schemas.api import Batch, CancelAnswer, JobCancelled, State


def cancel_jobs(
    jobs: Annotated[list[UUID], typer.Argument(help="The jobs.", metavar="JOB...")],
    *,
    wait: Annotated[bool, typer.Option(help="Wait until those that run have ended.")] = True,
    within_s: Annotated[float, typer.Option(min=0, help="Wait at most so long.")] = 15.0,
    as_json: AsJson = False,
    nats_url: NatsUrl = None,
    data: Data = None,
) -> None:
    """Cancel jobs. What a running one has answered so far is kept, and what it cost.

    Ends with 0 if each is cancelled, or will be; with 1 if one ended in another way first, or is unknown.
    """

    async def ask(client: Client) -> list[JobCancelled]:
        answers = await cancelled(client, jobs)
        return await ended(client, answers, within_s=within_s) if wait else answers

    with reporting_errors():
        answers = with_client(nats_url, data, ask)
    if as_json:
        print_json({"jobs": answers})
    else:
        print_table(("job", "state", ""), ((one.id, one.state or "-", _said(one)) for one in answers))
    if any(one.answer is CancelAnswer.UNKNOWN or one.state in _OTHERWISE for one in answers):
        raise typer.Exit(Exit.FAILED)


_OTHERWISE = frozenset({State.SUCCEEDED, State.FAILED, State.EXPIRED, State.DEAD})
"""The states of jobs that ended in another way than by a cancel."""
_AT_ONCE = 1000
"""How many jobs one call cancels."""


async def cancelled(client: Client, jobs: Sequence[UUID]) -> list[JobCancelled]:
    """Cancel jobs, and return what it came to, in their order."""
    return [
        answer
        for start in range(0, len(jobs), _AT_ONCE)
        for answer in await client.cancel_jobs(*jobs[start : start + _AT_ONCE])
    ]


async def ended(client: Client, answers: Sequence[JobCancelled], *, within_s: float) -> list[JobCancelled]:
    """Wait until the running jobs among these have ended, for a while. Return the answers with the states then."""
    end = asyncio.get_running_loop().time() + within_s
    known = list(answers)
    while any(one.answer is CancelAnswer.CANCELLING and one.state is State.RUNNING for one in known):
        if asyncio.get_running_loop().time() >= end:
            break
        await asyncio.sleep(0.1)
        known = [
            replace(one, state=(await client.job(one.id)).state)
            if one.answer is CancelAnswer.CANCELLING and one.state is State.RUNNING
            else one
            for one in known
        ]
    return known


def _said(one: JobCancelled) -> str:
    match one.answer, one.state:
        case CancelAnswer.CANCELLED, _:
            return "it waited, and has ended"
        case CancelAnswer.CANCELLING, State.RUNNING:
            return "its worker is told to stop"
        case CancelAnswer.CANCELLING, State.CANCELLED:
            return "it ran, and has ended"
        case CancelAnswer.CANCELLING, _:
            return "it ended before its worker was told"
        case CancelAnswer.ON_ARRIVAL, _:
            return "on its way into the ledger: cancelled when it comes there"
        case CancelAnswer.ENDED, _:
            return "it had ended before"
        case _:
            return "there is no such job"


def cancel_batch(
    batch: Annotated[UUID, typer.Argument(help="The batch.")],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all its jobs have ended.")] = False,
    as_json: AsJson = False,
    nats_url: NatsUrl = None,
    data: Data = None,
) -> None:
    """Cancel a batch: nothing of it starts any more. What has ended stays; what runs is told to stop.

    Ends with 0 if it is cancelled, with 1 if it was complete before.
    """

    async def ask(client: Client) -> Batch:
        state = await client.cancel_batch(batch)
        while wait and state.completed_ms is None:
            await asyncio.sleep(_LOOK_S)
            state = await client.batch(batch)
        return state

    with reporting_errors():
        state = with_client(nats_url, data, ask)
    if as_json:
        print_json(state)
    else:
        _print_batch(state)
    if state.cancel_ms is None:
        raise typer.Exit(Exit.FAILED)


_LOOK_S = 0.3


def _print_batch(state: Batch) -> None:
    counts = state.counts
    left = counts.admitted - counts.settled()
    ended = (f"{number} {name}" for name in _ENDS if (number := getattr(counts, name)))
    print_fields(
        [
            ("batch", state.id),
            ("status", state.status if state.cancel_ms else "completed, before it could be cancelled"),
            ("ended", ", ".join(ended) or None),
            ("to end", f"{left}: none of them starts any more" if left else None),
        ]
    )


_ENDS = ("succeeded", "failed", "expired", "cancelled", "dead")

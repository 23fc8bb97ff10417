"""`infermq job cancel`, `infermq batch cancel`, `infermq cancel`."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from msgspec.structs import replace

from broker.cli.filters import Model, OfBatch, OfLane, Since, Tenant, checked_instant, instant_of
from broker.cli.instructions import counted
from broker.cli.progress import ends_of
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    Url,
    err,
    fail,
    print_fields,
    print_json,
    print_table,
    reporting_errors,
    with_client,
)
from broker.client import Client
from schemas.api import Batch, CancelAnswer, JobCancelled, State
from schemas.cancel import CancelChoice, CancelCount
from schemas.instructions import Instruction


def cancel_jobs(
    jobs: Annotated[list[UUID], typer.Argument(help="The jobs.", metavar="JOB...")],
    *,
    wait: Annotated[bool, typer.Option(help="Wait until those that run have ended.")] = True,
    within_s: Annotated[float, typer.Option(min=0, help="Wait at most so long.")] = 15.0,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Cancel jobs. What a running one has answered so far is kept, and what it cost.

    Prints what it came to for each. Ends with 0 if each is cancelled, or will be; with 1 if one ended in another
    way first, or is unknown.

    Examples:
      infermq job cancel JOB
    """

    async def ask(client: Client) -> list[JobCancelled]:
        answers = await cancelled(client, jobs)
        return await ended(client, answers, within_s=within_s) if wait else answers

    with reporting_errors():
        answers = with_client(url, data, ask)
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
    url: Url = None,
    data: Data = None,
) -> None:
    """Cancel a batch: nothing of it starts any more.

    What has ended stays; what runs is told to stop. Prints how far it is. Ends with 0 if it is cancelled, with 1
    if it was complete before.

    Examples:
      infermq batch cancel BATCH
      infermq batch cancel BATCH --wait
    """

    async def ask(client: Client) -> Batch:
        state = await client.cancel_batch(batch)
        while wait and state.completed_ms is None:
            await asyncio.sleep(_LOOK_S)
            state = await client.batch(batch)
        return state

    with reporting_errors():
        state = with_client(url, data, ask)
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
    to_come = 0 if state.completed_ms else max(0, (state.jobs or 0) - counts.admitted)
    print_fields(
        [
            ("batch", state.id),
            ("status", state.status if state.cancel_ms else "completed, before it could be cancelled"),
            ("ended", ends_of(counts) or None),
            ("to end", f"{left}: none of them starts any more" if left else None),
            (
                "to come",
                f"{to_come}: accepted, and not in the ledger yet; each ends when it comes" if to_come else None,
            ),
            ("never came", f"{state.never_came()}: accepted, and lost" if state.never_came() else None),
        ]
    )


def cancel(
    *,
    model: Model = None,
    lane: OfLane = None,
    batch: OfBatch = None,
    states: Annotated[
        list[State] | None, typer.Option("--state", help="Only queued or running ones; by default both.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(callback=checked_instant, help="Only jobs submitted so long ago or earlier: 90s, 30m, 2h, 7d."),
    ] = None,
    since: Since = None,
    tenant: Tenant = None,
    everything: Annotated[bool, typer.Option("--all", help="All that waits or runs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many jobs it would be.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all are ended or told to stop.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Cancel all jobs that match. None of them starts any more.

    Says how many they are, and asks before it cancels them. Those that wait are ended in pages, what runs is
    stopped.

    Examples:
      infermq cancel --model small-chat --older-than 2h --dry-run
      infermq cancel --batch BATCH --yes
    """
    choice = CancelChoice(
        tenant=tenant,
        states=tuple(states or ()),
        model=model,
        lane=lane,
        batch=batch,
        since_ms=instant_of(since),
        until_ms=instant_of(older_than),
    )
    if choice == CancelChoice(tenant=tenant) and not everything:
        fail("say which jobs, such as --model NAME or --older-than 2h, or --all", Exit.USAGE)
    if not dry_run and not yes and as_json:
        fail("with --json, say --yes, or --dry-run", Exit.USAGE)
    if not yes or dry_run:
        with reporting_errors():
            count = with_client(url, data, lambda client: client.count_cancelled(choice))
        _print_count(count, as_json=as_json)
    if not dry_run and (yes or _confirmed()):
        _give(choice, wait=wait, as_json=as_json, url=url, data=data)


def _give(choice: CancelChoice, *, wait: bool, as_json: bool, url: str | None, data: Path | None) -> None:
    """Give the order, and wait for it unless another tenant's instructions cannot be looked at."""

    async def ask(client: Client) -> Instruction:
        state = await client.cancel_many(choice)
        while wait and state.ended_ms is None and choice.tenant is None:
            await asyncio.sleep(_LOOK_S)
            state = await client.instruction(state.id)
        return state

    with reporting_errors():
        given = with_client(url, data, ask)
    if as_json:
        print_json(given)
    else:
        print_fields([("instruction", given.id), ("so far", counted(given) or None), ("failure", given.failure)])
        err.print("nothing of it starts any more; infermq instruction show says how far it is")


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        fail("say --yes: nobody can be asked here", Exit.USAGE)
    return typer.confirm("Cancel them?")


def _print_count(count: CancelCount, *, as_json: bool) -> None:
    if as_json:
        print_json(count)
    else:
        more = " at least" if count.more else ""
        err.print(f"{count.queued} jobs wait and {count.running} run{more} that match")

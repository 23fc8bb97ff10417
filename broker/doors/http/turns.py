"""Answers a request as a job, which waits for its turn among all others."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final
from uuid import UUID

from broker.core.admit import DEFAULT_DEADLINE_MS
from broker.core.principal import Principal
from broker.core.relay import Erred
from broker.doors.http.caller import HttpCaller
from broker.doors.http.dialect import Ask
from broker.doors.http.jobs import end_of
from broker.doors.http.reading import Receive
from broker.errors import Unavailable
from broker.service import Services
from broker.service.refusal import Refusal
from schemas.api import JobCancel, Problem

log = logging.getLogger(__name__)
GRACE_S: Final = 30.0
"""How long after its deadline the end of a job may be recorded, before the request ends without it."""
CANCEL_S: Final = 10.0


async def answer_in_turn(
    services: Services,
    principal: Principal,
    ask: Ask,
    receive: Receive,
    caller_for: Callable[[UUID], HttpCaller],
    *,
    traceparent: str | None,
) -> int:
    """Return the status. If the client leaves, or this call is cancelled, so is the job.

    Raises: Refusal, Unavailable, ConnectionError.
    """
    if ask.streamed:
        message = f"the lane {ask.lane} does not stream: leave `stream` out, or the lane"
        raise Refusal(Problem("stream_not_allowed", message, "body.stream"))
    jobs = services.single_jobs
    job = await jobs.submit(principal, ask.model, ask.lane, ask.job, traceparent=traceparent)
    within_s = (ask.job.deadline_in_ms or DEFAULT_DEADLINE_MS[ask.lane]) / 1000 + GRACE_S
    ended = asyncio.ensure_future(jobs.end_of(principal, job))
    gone = asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait((ended, gone), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not ended.done():
            raise ConnectionError("the client left before its job had ended")
        late = Erred(Problem("timed_out", f"the end of the job was not recorded within {within_s:g} s"))
        caller = caller_for(job)
        await caller.end(end_of(ended.result()) if ended.done() else late)
        return caller.status
    finally:
        gone.cancel()
        if not ended.done():
            ended.cancel()
            await _cancel(services, principal, job)


async def _cancel(services: Services, principal: Principal, job: UUID) -> None:
    """Cancel a job for whose answer nobody waits. If that fails, it runs for nobody until its deadline."""
    try:
        async with asyncio.timeout(CANCEL_S):
            await services.cancels.cancel_jobs(principal, JobCancel((job,)))
    except (Unavailable, TimeoutError) as error:
        log.warning("job of a client that left not cancelled job=%s error=%s", job, error)


async def until_gone(receive: Receive) -> None:
    """Wait until the client has left, or its answer is complete."""
    while (await receive())["type"] != "http.disconnect":
        pass

"""Answers a request as a job, which waits for its turn among all others."""

import asyncio
from collections.abc import Callable
from uuid import UUID

from broker.core.principal import Principal
from broker.doors.http.caller import HttpCaller
from broker.doors.http.dialect import Ask
from broker.doors.http.jobs import end_of
from broker.doors.http.reading import Receive
from broker.service import Services
from broker.service.refusal import Refusal
from schemas.api import JobCancel, Problem


async def answer_in_turn(
    services: Services,
    principal: Principal,
    ask: Ask,
    receive: Receive,
    caller_for: Callable[[UUID], HttpCaller],
    *,
    traceparent: str | None,
) -> int:
    """Return the status. A client that leaves cancels its job. Raises: Refusal, Unavailable, ConnectionError."""
    if ask.streamed:
        message = f"the lane {ask.lane} does not stream: leave `stream` out, or the lane"
        raise Refusal(Problem("stream_not_allowed", message, "body.stream"))
    jobs = services.single_jobs
    job = await jobs.submit(principal, ask.model, ask.lane, ask.job, traceparent=traceparent)
    ended = asyncio.ensure_future(jobs.end_of(principal, job))
    gone = asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await services.cancels.cancel_jobs(principal, JobCancel((job,)))
            raise ConnectionError("the client left before its job had ended")
        caller = caller_for(job)
        await caller.end(end_of(ended.result()))
        return caller.status
    finally:
        ended.cancel()
        gone.cancel()


async def until_gone(receive: Receive) -> None:
    """Wait until the client has left, or its answer is complete."""
    while (await receive())["type"] != "http.disconnect":
        pass

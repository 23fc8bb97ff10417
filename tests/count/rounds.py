"""What a round of each path costs.

In a round everything comes together as it does each time: JOBS jobs in one message of SUBMIT are one commit of intake,
one of dispatch, one message of OUTCOME and one commit of settle; a request is alone. The next round begins when nothing
of this one is left. So statements and messages are the same in each round, but for the beats, ticks and heartbeats that
happen to fall into it. Each figure is therefore the lower decile of the rounds, and Python calls are the sum of each
function's lower decile: nine rounds in ten cost that much or more.

Fourteen counts of two commits, on two cores beside three to fifteen other busy processes, gave the same statements and
messages each time, bytes within 0.2 % (ids and times differ in length) and calls within 0.7 %. Work that is done in fewer
than nine rounds of ten is not seen, nor is what happens while there is nothing to do.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from nats.aio.msg import Msg

from broker.client import Submission
from schemas import subjects
from schemas.job import Job
from tests.builders import CHAT
from tests.count.kept import Figures
from tests.count.system import JOBS, WORDS, Spent, System, a_counted_system

BULK_ROUNDS = 40
REQUESTS = 80
_QUESTION_BYTES = 560
_notices = msgspec.json.Decoder(list[msgspec.Raw])


class Cost(msgspec.Struct, frozen=True):
    """What one job or one request costs on a path."""

    figures: Figures
    calls: Mapping[str, float]
    """Python calls by function of the broker and the worker."""


async def count(checkout: Path, *, with_keys: bool = False) -> dict[str, Cost]:
    """Count each path, with the broker and the worker of this checkout."""
    async with a_counted_system(checkout, with_keys=with_keys) as system:
        return {"bulk": await _bulk(system), "interactive": await _interactive(system)}


async def _bulk(system: System) -> Cost:
    client = system.client
    batch = (await client.create_batch()).id
    announced: asyncio.Queue[int] = asyncio.Queue()

    async def heard(message: Msg) -> None:
        announced.put_nowait(len(_notices.decode(message.data)))

    async def ask(number: int) -> None:
        lines = range(number * JOBS + 1, (number + 1) * JOBS + 1)
        await client.submit_many([Submission("m", _job(line)) for line in lines], batch_id=batch)
        missing = JOBS
        while missing > 0:
            missing -= await announced.get()

    await client.nats.subscribe(subjects.result(subjects.DEFAULT, batch), cb=heard)
    return cost_of(await _rounds(system, BULK_ROUNDS, ask), of=JOBS)


def _job(line: int) -> Job:
    return Job(endpoint=CHAT, body=_body("x" * _QUESTION_BYTES, WORDS), line=line, custom_id=f"job-{line:06}")


def _body(question: str, words: int) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": question}], "max_tokens": words}).encode()


async def _interactive(system: System) -> Cost:
    async def ask(number: int) -> None:
        await system.client.infer("m", _body(f"number {number:06}", 1))

    return cost_of(await _rounds(system, REQUESTS, ask), of=1)


async def _rounds(system: System, rounds: int, ask: Callable[[int], Awaitable[None]]) -> list[Spent]:
    await system.spent()
    spent = []
    for number in range(rounds):
        await ask(number)
        spent.append(await system.spent())
    return spent


def cost_of(rounds: Sequence[Spent], *, of: int) -> Cost:
    """`of`: the jobs or requests of a round."""
    broker, worker = _low_calls([one.broker for one in rounds]), _low_calls([one.worker for one in rounds])
    figures = Figures(
        statements=_low([one.traffic.statements for one in rounds]) / of,
        messages=_low([one.traffic.messages for one in rounds]) / of,
        bytes=_low([one.traffic.bytes for one in rounds]) / of,
        broker_calls=sum(broker.values()) / of,
        worker_calls=sum(worker.values()) / of,
    )
    named = {"broker": broker, "worker": worker}
    return Cost(
        figures, {f"{role} {name}": n / of for role, calls in named.items() for name, n in calls.items() if n}
    )


def _low_calls(rounds: Sequence[Mapping[str, int]]) -> dict[str, int]:
    functions = {function for calls in rounds for function in calls}
    return {function: _low([calls.get(function, 0) for calls in rounds]) for function in functions}


def _low(values: Sequence[int]) -> int:
    """The lower decile."""
    return sorted(values)[len(values) // 10]

"""A worker's clock may show any time: only brokers say what is late, by their own."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from schemas.api import State
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.units import Ms
from tests.builders import now
from tests.real.test_broker import Running, a_broker, a_worker
from workers.ports import Clock

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]
HOUR_S, THREE_MINUTES_S = 3600, 180
WRONG_S = [HOUR_S, -HOUR_S, THREE_MINUTES_S, -THREE_MINUTES_S]
JOBS, REQUESTS = 24, 8
SANE_MS = 20_000
"""More than any of these jobs takes on a loaded machine, and far less than a clock is wrong."""


def wrong_by(seconds: int) -> Clock:
    return lambda: Ms(now() + 1000 * seconds)


@pytest.fixture
async def broker(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[Running]:
    async with a_broker(nats_url, ledger_url, nc) as running:
        yield running


async def submitted(broker: Running) -> list[UUID]:
    """In each lane, with the lane's deadline: two minutes, an hour, a day."""
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    lanes = [list(Lane)[n % 3] for n in range(JOBS)]
    return [await broker.client.submit("m", body, lane=lane) for lane in lanes]


@pytest.mark.parametrize("seconds", WRONG_S)
async def test_no_job_expires_by_a_workers_clock(broker: Running, seconds: int) -> None:
    async with a_worker(broker.nc, clock=wrong_by(seconds)):
        await broker.has_a_worker()
        began = now()
        ended = [await broker.ended(job) for job in await submitted(broker)]

    executions = [run for job in ended for run in job.executions]
    assert {job.state for job in ended} == {State.SUCCEEDED}
    assert all(0 <= run.queue_ms < SANE_MS and 0 <= run.run_ms < SANE_MS for run in executions)
    assert all(0 <= (run.ttft_ms or 0) < SANE_MS for run in executions)
    assert all(began - 1000 <= run.started_ms <= now() for run in executions)


@pytest.mark.parametrize("seconds", WRONG_S)
async def test_no_request_expires_by_a_workers_clock(broker: Running, seconds: int) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    async with a_worker(broker.nc, clock=wrong_by(seconds)):
        await broker.has_a_worker()
        began = now()

        answers = [await broker.client.infer("m", body, timeout_s=20) for _ in range(REQUESTS)]

        assert len(answers) == REQUESTS
        ended = [await broker.ended(answer.job) for answer in answers if answer.job is not None]

    assert [job.state for job in ended] == [State.SUCCEEDED] * REQUESTS
    assert all(began - 1000 <= run.started_ms <= now() for job in ended for run in job.executions)

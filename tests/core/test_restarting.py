import asyncio

import msgspec
import pytest

from broker.errors import BadData, DayNotKept, Unavailable
from broker.roles.restarting import Roles
from schemas.jetstream import NatsError


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("Postgres"),
        NatsError("away"),
        OSError("away"),
        BadData("a NUL"),
        DayNotKept("no partition"),
        msgspec.ValidationError("no number"),
    ],
)
async def test_a_role_that_fails_begins_again(error: Exception) -> None:
    runs = 0
    began_again = asyncio.Event()

    async def role() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise error
        began_again.set()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        serving = group.create_task(Roles().keep("role", role))
        await began_again.wait()
        serving.cancel()

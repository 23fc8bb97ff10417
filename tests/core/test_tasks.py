"""Tasks beside a role."""

import asyncio

import pytest

from broker.roles.tasks import Tasks


async def test_a_task_that_fails_is_raised_by_its_role() -> None:
    tasks = Tasks()

    async def fail() -> None:
        raise ValueError("a bug")

    task = tasks.spawn(fail())
    await asyncio.wait([task])

    with pytest.raises(ValueError, match="a bug"):
        tasks.check()


async def test_tasks_may_finish_and_are_cancelled_when_they_take_too_long() -> None:
    tasks, is_open, never = Tasks(), asyncio.Event(), asyncio.Event()
    is_open.set()

    async def wait(gate: asyncio.Event) -> None:
        await gate.wait()

    quick, slow = tasks.spawn(wait(is_open)), tasks.spawn(wait(never))
    await tasks.finish(0.05)
    await asyncio.wait([slow])

    assert (quick.cancelled(), slow.cancelled()) == (False, True)
    tasks.check()

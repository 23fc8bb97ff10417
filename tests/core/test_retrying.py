import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BadData, Conflict, Unavailable
from broker.retrying import bisected, until_available


class Away:
    """Away for some calls, then there."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    async def __call__(self) -> str:
        self.calls -= 1
        if self.calls >= 0:
            raise Unavailable("Postgres")
        return "there"


async def test_what_is_away_is_asked_again_until_it_is_there() -> None:
    assert await until_available(Away(2)) == "there"


@pytest.mark.parametrize("error", [BadData("NUL"), Conflict("first"), ValueError("a bug")])
async def test_only_absence_is_waited_out(error: Exception) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        await until_available(fail)


async def test_waiting_ends_with_its_task() -> None:
    waiting = asyncio.create_task(until_available(Away(10**9)))
    await asyncio.sleep(0)

    waiting.cancel()

    await asyncio.wait({waiting}, timeout=10)
    assert waiting.cancelled()


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_of_a_group_all_is_done_but_the_culprits_in_order(are_bad: list[bool]) -> None:
    done: list[int] = []

    async def act(items: Sequence[int]) -> Sequence[int]:
        if bad := [item for item in items if are_bad[item]]:
            raise BadData(f"item {bad[0]}")
        done.extend(items)
        return items

    answers, culprits = asyncio.run(bisected(range(len(are_bad)), act))

    good = [item for item, is_bad in enumerate(are_bad) if not is_bad]
    assert done == [item for part in answers for item in part] == good
    found = [(item, str(error)) for item, error in culprits]
    assert found == [(item, f"item {item}") for item, is_bad in enumerate(are_bad) if is_bad]


async def test_a_group_waits_for_what_is_away() -> None:
    away = Away(1)

    async def act(items: Sequence[int]) -> str:
        return f"{await away()}: {items}"

    assert await bisected([1, 2], act) == (["there: [1, 2]"], [])

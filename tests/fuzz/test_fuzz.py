"""A short round of broken messages; `make fuzz` sends more."""

import pytest

from tests.fuzz.attack import attack
from tests.fuzz.targets import kinds

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


async def test_broken_messages_end_nothing(nats_url: str, ledger_url: str) -> None:
    tally = await attack(nats_url, ledger_url, seed=1, number=1000)

    assert set(tally.sent) == set(kinds())
    assert not tally.surprises

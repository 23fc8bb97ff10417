"""Suspects in the ledger: how they wait for a run apart, run, are cleared and convicted."""

import asyncpg
import pytest

from broker.core.suspects import Turn
from broker.ports import Ledger
from schemas.api import State
from schemas.ruling import Expire, Suspicion
from schemas.units import Ms
from tests.builders import a_worker, an_id, now
from tests.contract.ledger.test_suspects import lead, settle, shown, suspected

pytestmark = pytest.mark.real


async def test_a_suspect_whose_deadline_passes_is_found_and_expires(ledger: Ledger, ledger_url: str) -> None:
    suspicion = Suspicion(an_id())
    attempt = await suspected(ledger, suspicion, deadline_ms=now() + 500)
    late = Ms(now() + 1000)

    assert (
        await ledger.suspects.dispatch(
            Turn(a_worker(), "d", suspicion.group, (attempt.job,)), term=await lead(ledger), now=late
        )
        == []
    )
    assert [place.job for _, place in await ledger.backlog.move_due(late, limit=9)] == [attempt.job]
    await settle(ledger, Expire(attempt.job))

    connection = await asyncpg.connect(ledger_url)
    try:
        left = await connection.fetchval(
            "select (select count(*) from infermq.waiting) + (select count(*) from infermq.delayed)"
        )
    finally:
        await connection.close()
    assert left == 0
    assert (await shown(ledger, attempt)).state is State.EXPIRED

"""Batches out of stored files: what is checked, what becomes a job, and what a kill in the middle leaves."""

import asyncpg
import pytest

from broker.core.openai_batch import status_of
from broker.ports import Ledger
from tests.contract.ledger.test_file_batches import _catalog, a_line, given, state, stored  # noqa: F401 - a fixture
from tests.contract.ledger.test_retries import carry_out

pytestmark = pytest.mark.real


async def test_a_batch_whose_file_is_damaged_fails_and_says_so(ledger: Ledger, ledger_url: str) -> None:
    file = await stored(ledger, a_line(1))
    batch = await given(ledger, file.id)
    connection = await asyncpg.connect(ledger_url)
    await connection.execute("update infermq.blobs set data = 'x' where file = $1", file.id)
    await connection.close()

    await carry_out(ledger)

    found = await state(ledger, batch)
    assert status_of(found) == "failed"
    [bad] = await ledger.file_batches.bad_lines(batch, after=-1, limit=5)
    assert "is damaged" in bad.message
    assert await carry_out(ledger) == []

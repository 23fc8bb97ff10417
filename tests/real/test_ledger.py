import pytest

from broker.ledger import PgLedger
from tests.builders import an_entry

pytestmark = pytest.mark.real


async def test_a_job_is_admitted_once_however_often_it_comes(ledger: PgLedger) -> None:
    entry = an_entry()

    first = await ledger.admit([entry, an_entry()])
    again = await ledger.admit([entry, entry])

    assert len(first.waiting) == 2
    assert not again.waiting
    assert not again.conflicts

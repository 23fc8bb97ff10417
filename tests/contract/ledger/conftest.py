"""The ledger of each kind. What holds of one must hold of the other; where they differ, the one in memory is wrong."""

from collections.abc import AsyncIterator

import pytest

from broker.ledger import open_ledger
from broker.ports import Ledger
from tests.builders import now
from tests.conftest import a_database
from tests.memory import a_memory_ledger


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
def ledger_server(request: pytest.FixtureRequest) -> str | None:
    """The address of a migrated database. None: the ledger is kept in memory."""
    if request.param == "memory":
        return None
    _, url = request.getfixturevalue("servers")
    return str(url)


@pytest.fixture
async def ledger(ledger_server: str | None) -> AsyncIterator[Ledger]:
    """A ledger of the test's own. What it holds in the end must agree with itself."""
    if ledger_server is None:
        async with a_memory_ledger() as in_memory:
            yield in_memory
    else:
        async with a_database(ledger_server) as url, open_ledger(url, clock=now, connections=6) as opened:
            yield opened

"""The ledger of each kind. What holds of one must hold of the other; where they differ, the one in memory is wrong."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from broker.ledger import open_ledger
from broker.ledger.areas import STEPS
from broker.ledger.connection import Database
from broker.ledger.instructions import Step
from broker.ports import Ledger
from schemas.instructions import InstructionKind
from tests.builders import now
from tests.conftest import a_database
from tests.memory import a_memory_database, a_memory_ledger


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
def ledger_server(request: pytest.FixtureRequest) -> str | None:
    """The address of a migrated database. None: the ledger is kept in memory."""
    if request.param == "memory":
        return None
    _, url = request.getfixturevalue("servers")
    return str(url)


@pytest.fixture
async def ledger(ledger_server: str | None) -> AsyncIterator[Ledger]:
    async with a_ledger(ledger_server) as opened:
        yield opened


@asynccontextmanager
async def a_ledger(server: str | None, *, steps: Mapping[InstructionKind, Step] = STEPS) -> AsyncIterator[Ledger]:
    """A ledger of the test's own. What it holds in the end must agree with itself."""
    if server is None:
        async with a_memory_ledger(steps=steps) as in_memory:
            yield in_memory
    else:
        async with a_database(server) as url, open_ledger(url, clock=now, connections=6, steps=steps) as opened:
            yield opened


@pytest.fixture
async def database(ledger_server: str | None) -> AsyncIterator[Database]:
    """What an area of a ledger runs on."""
    if ledger_server is None:
        yield a_memory_database("of a test")
    else:
        async with a_database(ledger_server) as url, Database.open(url, connections=4) as opened:
            yield opened

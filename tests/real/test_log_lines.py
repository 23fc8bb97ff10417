"""What an operator reads in a broker's log when NATS or Postgres is lost and back: a line for each, however often
it is tried again."""

import contextlib
import logging
from pathlib import Path

import pytest

from broker.errors import NoConnection
from broker.ledger.connection import Connection, Database
from broker.local.servers import nats_server
from tests.proxy import a_postgres_proxy
from tests.real.test_starting_degraded import a_start, free_port, says
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]


def lines(caplog: pytest.LogCaptureFixture, word: str) -> list[tuple[int, str]]:
    """The level and the text of each line, at what is logged by default, that names a server."""
    shown = [record for record in caplog.records if record.levelno >= logging.INFO]
    return [(one.levelno, one.getMessage()) for one in shown if word in one.getMessage().lower()]


async def tried_again(caplog: pytest.LogCaptureFixture, start: str) -> None:
    """Wait until it is tried again, more often than it may be told."""

    async def is_so() -> bool:
        return sum(record.getMessage().startswith(start) for record in caplog.records) > 3

    await until(is_so, f"more lines say {start}")


async def back(caplog: pytest.LogCaptureFixture, word: str) -> None:
    async def is_said() -> bool:
        return any("reconnected" in text for _, text in lines(caplog, word))

    await until(is_said, f"{word} is said to be back")


async def test_postgres_that_is_lost_and_back_is_two_lines(
    nats_url: str, ledger_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with a_postgres_proxy(ledger_url) as proxy, a_start(nats_url, proxy.url) as (url, ready):
        await ready
        await says(f"{url}/readyz/api", 200)

        proxy.is_open = False
        proxy.cut()
        await tried_again(caplog, "waiting what=Postgres")
        proxy.is_open = True
        await back(caplog, "postgres")
        await says(f"{url}/readyz/api", 200)

    lost, found = [one for one in lines(caplog, "postgres") if "connected" in one[1]]
    assert (lost[0], found[0]) == (logging.ERROR, logging.WARNING)
    assert lost[1].startswith("postgres disconnected error=Postgres is unavailable: ")
    assert float(found[1].removeprefix("postgres reconnected away_s=")) > 0
    others = [text for _, text in lines(caplog, "postgres is unavailable") if "disconnected" not in text]
    assert len(others) <= 1  # that a catalog was not compared


async def cut_off(database: Database, *, by: Connection) -> None:
    """Lose a connection while it is used."""
    async with database.connection() as lost:
        await by.execute("select pg_terminate_backend($1)", await lost.fetchval("select pg_backend_pid()"))
        await lost.fetchval("select 1")


async def test_what_began_before_a_loss_does_not_say_that_postgres_is_back(
    ledger_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Database.open(ledger_url, connections=2) as database:
        async with database.connection() as before:
            with pytest.raises(NoConnection):
                await cut_off(database, by=before)
        assert [text for _, text in lines(caplog, "postgres reconnected")] == []

        async with database.connection() as after:
            await after.fetchval("select 1")
        assert len(lines(caplog, "postgres reconnected")) == 1


async def test_nats_that_is_lost_and_back_is_two_lines(
    tmp_path: Path, ledger_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = free_port()
    where = f"nats://127.0.0.1:{port}"
    async with contextlib.AsyncExitStack() as stack:
        async with nats_server(tmp_path / "nats", port=port):
            url, ready = await stack.enter_async_context(a_start(where, ledger_url))
            await ready
            await says(f"{url}/readyz", 200)
        await tried_again(caplog, "nats error=")
        async with nats_server(tmp_path / "nats", port=port):
            await back(caplog, "nats")
            await says(f"{url}/readyz", 200)
            await stack.aclose()

    lost, found = [one for one in lines(caplog, "nats ") if "connected" in one[1]]
    assert (lost[0], found[0]) == (logging.ERROR, logging.WARNING)
    assert lost[1].startswith(f"nats disconnected url={where} error=")
    assert found[1].startswith(f"nats reconnected url={where} away_s=")
    assert len(lines(caplog, "nats error=")) <= 1


async def test_a_broker_that_waits_for_nats_says_so_once(
    tmp_path: Path, ledger_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = free_port()
    async with a_start(f"nats://127.0.0.1:{port}", ledger_url) as (_, ready):
        await tried_again(caplog, "waiting for NATS")
        async with nats_server(tmp_path / "nats", port=port):
            await ready

    [(level, text)] = lines(caplog, "waiting for nats")
    assert level == logging.WARNING
    assert f"127.0.0.1:{port}" in text

"""What the server really says when it cannot: its errors become ours, and a broker waits and goes on."""

import os
import resource
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest

from broker.errors import BadData, Unavailable
from broker.ledger import migrate
from broker.ledger.connection import Database
from broker.local.servers import postgres_server
from schemas.api import State
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from tests.real.test_broker import a_broker, a_worker
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
SORT = "select count(*) from (select n from generate_series(1, 300000) n order by md5(n::text)) sorted"


@pytest.mark.parametrize(
    ("code", "statement"),
    [
        ("53400", f"set temp_file_limit = '64kB'; set work_mem = '64kB'; {SORT}"),
        ("57014", "set statement_timeout = 50; select pg_sleep(60)"),
        ("57P01", "select pg_terminate_backend(pg_backend_pid())"),
        ("25006", "set transaction_read_only = on; create table t ()"),
        ("42501", "create role nobody_yet; set role nobody_yet; select * from infermq.jobs"),
        ("42P01", "select * from infermq.nothing"),
        ("3F000", "create table nowhere.t ()"),
        ("58030", "do $$ begin raise exception 'could not read block 7' using errcode = '58030'; end $$"),
        ("53100", "do $$ begin raise exception 'no space left on device' using errcode = '53100'; end $$"),
        ("XX001", "do $$ begin raise exception 'invalid page in block 7' using errcode = 'XX001'; end $$"),
    ],
)
async def test_what_the_server_cannot_do_now_is_unavailable_with_its_code(
    ledger_url: str, code: str, statement: str
) -> None:
    async with Database.open(ledger_url, connections=1) as database:
        with pytest.raises(Unavailable, match=rf"\({code}\)|terminating"):
            async with database.connection() as connection:
                await connection.execute(statement)


async def test_a_lock_that_another_holds_is_unavailable(ledger_url: str) -> None:
    other = await asyncpg.connect(ledger_url)
    async with Database.open(ledger_url, connections=1) as database, other.transaction():
        await other.execute("lock table infermq.catalog")
        with pytest.raises(Unavailable, match="55P03"):
            async with database.connection() as connection:
                await connection.execute("set lock_timeout = 50; select * from infermq.catalog")
    await other.close()


async def test_more_connections_than_the_server_takes_are_unavailable(ledger_url: str) -> None:
    admin = await asyncpg.connect(urlunsplit(urlsplit(ledger_url)._replace(path="/postgres")))
    await admin.execute("create role poor login")
    await admin.execute("alter role poor connection limit 0")
    try:
        async with Database.open(ledger_url.replace("postgres@", "poor@"), connections=1) as database:
            with pytest.raises(Unavailable, match="53300"):
                async with database.connection():
                    pass
    finally:
        await admin.execute("drop role poor")
        await admin.close()


async def test_a_value_that_cannot_be_stored_is_bad_data(ledger_url: str) -> None:
    async with Database.open(ledger_url, connections=1) as database:
        with pytest.raises(BadData):
            async with database.connection() as connection:
                await connection.execute("select 9223372036854775807 + 1")


def limited(url: str, bytes_: int) -> None:
    """Let no process of this server write a file beyond a size, as a full disk does."""
    folder = url.rpartition("host=")[2]
    pid = int((Path(folder) / ".s.PGSQL.5432.lock").read_text().splitlines()[0])
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))


async def test_a_full_disk_is_waited_out_and_every_job_ends(
    nats_url: str, nc: Nats, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server may write no file beyond 17 MB for a while: its log's are of 16 MB, so it lives."""
    async with postgres_server(tmp_path, durable=False) as url:
        await migrate(url)
        async with a_broker(nats_url, url, nc) as running, a_worker(nc):
            await running.has_a_worker()
            limited(url, 17 * 1024 * 1024)
            jobs = [
                await running.client.submit("m", {**HELLO, "user": os.urandom(90_000).hex()}, lane=Lane.BULK)
                for _ in range(120)
            ]

            async def is_full() -> bool:
                return "could not" in caplog.text and "File too large" in caplog.text

            await until(is_full, "the disk is full", within_s=40)
            limited(url, resource.RLIM_INFINITY)

            ended = [await running.ended(job) for job in jobs]
            assert {job.state for job in ended} == {State.SUCCEEDED}

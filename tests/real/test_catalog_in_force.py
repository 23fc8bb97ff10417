"""The ledger says which catalog is in force, whatever NATS holds."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import msgspec
import pytest

from broker.bus.catalogs import Catalogs
from broker.cli.doctor import Grade, Known, examine
from broker.core.revisions import for_deployment
from broker.errors import Conflict
from broker.ledger import open_ledger
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.roles.catalog_refresh import CatalogRefresh
from schemas import subjects
from schemas.catalog import Catalog, Deployment, Revision, parse
from schemas.codec import jsoned
from schemas.jetstream import ApiRefused, direct_last, last_message
from schemas.jetstream.client import NatsClient as Nats
from schemas.units import Ms
from tests.builders import a_catalog, now
from tests.declared import declare_streams
from tests.real.test_broker import SCRIPT, a_broker, get
from tests.system import CATALOG, until
from workers.catalog import ActiveCatalog, active_catalog
from workers.ports import EngineConfigError

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
SUBJECT = f"$KV.{subjects.CATALOG_BUCKET}.{subjects.ACTIVE}"
TOML = CATALOG.format(slots=4, options=SCRIPT)
NEVER_S = 3600.0


async def held(nc: Nats) -> Revision:
    return msgspec.json.decode(await last_message(nc, f"KV_{subjects.CATALOG_BUCKET}", SUBJECT), type=Revision)


async def write(nc: Nats, number: int, catalog: Catalog | None = None) -> None:
    """Forge one."""
    await nc.jetstream().publish(
        SUBJECT, jsoned(Revision(number, Ms(0), a_catalog() if catalog is None else catalog))
    )


@asynccontextmanager
async def refreshing(
    nc: Nats, ledger: Ledger, every_s: float = NEVER_S
) -> AsyncIterator[tuple[Catalogs, BrokerMetrics]]:
    metrics, catalogs = BrokerMetrics(), Catalogs(nc)
    await declare_streams(nc)
    await catalogs.listen()
    refresh = CatalogRefresh(ledger=ledger.catalogs, catalogs=catalogs, metrics=metrics, every_s=every_s)
    await refresh.refresh()
    task = asyncio.create_task(refresh.serve())
    try:
        yield catalogs, metrics
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def is_in_force(catalogs: Catalogs, number: int) -> None:
    async def it_is() -> bool:
        return catalogs.active.number == number

    await until(it_is, f"revision {number} is in force")


async def is_held(nc: Nats, revision: Revision) -> None:
    async def it_is() -> bool:
        try:
            return await held(nc) == revision
        except ApiRefused:  # it holds none yet
            return False

    await until(it_is, f"NATS holds revision {revision.number}")


async def test_a_forged_catalog_with_a_higher_number_is_never_in_force_and_put_right(
    nc: Nats, ledger: Ledger
) -> None:
    async with refreshing(nc, ledger) as (catalogs, metrics):
        revision = await ledger.catalogs.apply(TOML, "t", now())
        await catalogs.publish(revision)
        await is_in_force(catalogs, revision.number)
        catalogs.changed.clear()

        await write(nc, 1_000_000)

        await is_held(nc, revision)
        assert catalogs.active == revision
        assert not catalogs.changed.is_set()
        assert metrics.registry.get_sample_value("infermq_catalogs_put_right_total") == 1


async def test_a_ledger_restored_to_an_older_catalog_wins(nc: Nats, ledger: Ledger, ledger_url: str) -> None:
    async with refreshing(nc, ledger, every_s=0.1) as (catalogs, _):
        first = await ledger.catalogs.apply(TOML, "t", now())
        second = await ledger.catalogs.apply(TOML, "t", now())
        await is_in_force(catalogs, second.number)
        await is_held(nc, second)

        connection = await asyncpg.connect(ledger_url)
        await connection.execute("delete from infermq.catalog where number = $1", second.number)
        await connection.close()

        await is_in_force(catalogs, first.number)
        await is_held(nc, first)


async def test_a_copy_that_somebody_deleted_is_written_again(nc: Nats, ledger: Ledger) -> None:
    async with refreshing(nc, ledger, every_s=0.1) as (catalogs, _):
        revision = await ledger.catalogs.apply(TOML, "t", now())
        await is_in_force(catalogs, revision.number)

        await nc.jetstream().purge_stream(f"KV_{subjects.CATALOG_BUCKET}")

        async def is_back() -> bool:
            return (await nc.jetstream().stream_info(f"KV_{subjects.CATALOG_BUCKET}")).state.messages == 3

        await until(is_back, "NATS holds it again")
        assert await held(nc) == revision


async def test_a_copy_that_another_broker_has_just_written_is_not_overwritten(nc: Nats) -> None:
    await declare_streams(nc)
    catalogs = Catalogs(nc)
    await write(nc, 4)
    _, sequence = await catalogs.copy()
    await write(nc, 5)

    with pytest.raises(Conflict):
        await catalogs.publish(Revision(3, Ms(0), a_catalog()), instead_of=sequence)

    assert (await held(nc)).number == 5


async def test_while_the_ledger_is_away_the_copy_is_followed_until_it_is_back(nc: Nats, ledger: Ledger) -> None:
    async with (
        open_ledger("postgresql://postgres@/infermq?host=/nowhere", clock=now) as nowhere,
        refreshing(nc, nowhere) as (
            catalogs,
            _,
        ),
    ):
        await write(nc, 4)
        await is_in_force(catalogs, 4)
        await write(nc, 9)
        await is_in_force(catalogs, 9)
        assert "Postgres" in (catalogs.note or "")

    async with refreshing(nc, ledger) as (catalogs, _):
        assert catalogs.active.number == 9
        revision = await ledger.catalogs.apply(TOML, "t", now())
        await catalogs.publish(revision)
        await is_in_force(catalogs, revision.number)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"{}", b'{"number": -1}'])
async def test_what_is_no_catalog_is_counted_and_put_right(nc: Nats, ledger: Ledger, data: bytes) -> None:
    async with refreshing(nc, ledger) as (catalogs, _):
        revision = await ledger.catalogs.apply(TOML, "t", now())
        await catalogs.publish(revision)
        await is_in_force(catalogs, revision.number)

        await nc.publish(SUBJECT, data)

        async def is_right() -> bool:
            return await last_message(nc, f"KV_{subjects.CATALOG_BUCKET}", SUBJECT) == jsoned(revision)

        await until(is_right, "NATS holds the ledger's again")
        assert catalogs.active == revision


async def test_a_forged_catalog_changes_nothing_for_a_whole_broker(
    nats_url: str, ledger_url: str, nc: Nats, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_broker(nats_url, ledger_url, nc) as running:
        right = await held(nc)
        await write(nc, 1_000_000, Catalog())
        await is_held(nc, right)

        assert json.loads(await get(f"{running.url}/readyz"))["revision"] == right.number
        assert (await running.client.status()).revision == right.number
        assert (await running.client.status()).catalog_note is None
    assert f"NATS held revision 1000000 instead of the ledger's revision {right.number}" in caplog.text


async def test_the_doctor_says_when_nats_holds_another_catalog_than_the_ledger(
    nats_url: str, ledger_url: str, nc: Nats, ledger: Ledger
) -> None:
    await declare_streams(nc)
    await ledger.catalogs.apply(TOML, "t", now())
    await write(nc, 9)

    findings = await examine(Known(nats_url=nats_url, postgres_url=ledger_url, data=None))

    [found] = [finding for finding in findings if finding.name == "catalog"]
    assert found.grade is Grade.BAD
    assert "NATS held revision 9" in found.seen


async def test_the_doctor_says_when_workers_do_not_read_what_is_in_force(
    nats_url: str, ledger_url: str, nc: Nats, ledger: Ledger
) -> None:
    await declare_streams(nc)
    await Catalogs(nc).publish(await ledger.catalogs.apply(TOML, "t", now()))
    await nc.jetstream().purge_stream(f"KV_{subjects.CATALOG_BUCKET}", subject=subjects.catalog_entry("d"))

    findings = await examine(Known(nats_url=nats_url, postgres_url=ledger_url, data=None))

    [found] = [finding for finding in findings if finding.name == "catalog"]
    assert found.grade is Grade.BAD
    assert "workers do not read" in found.seen


TWO = parse(
    """
[models.m]
route = [{ deployment = "d" }, { deployment = "e", weight = 0 }]
[models.n]
route = [{ deployment = "e" }]
[deployments.d]
engine = "simulated"
[deployments.e]
engine = "openai"
base_url = "https://secret.example/v1"
"""
)


async def entry(nc: Nats, deployment: str) -> bytes | None:
    return await direct_last(nc, f"KV_{subjects.CATALOG_BUCKET}", subjects.catalog_entry(deployment))


async def test_workers_read_of_their_own_deployment_only(nc: Nats) -> None:
    await declare_streams(nc)
    await Catalogs(nc).publish(Revision(7, Ms(0), TWO))

    read = await entry(nc, "d")

    assert read is not None
    assert b"secret.example" not in read
    own = msgspec.json.decode(read, type=Revision)
    assert (own.number, list(own.catalog.deployments), list(own.catalog.models)) == (7, ["d"], ["m"])
    assert [one.deployment for one in own.catalog.models["m"].route] == ["d"]


async def test_a_deployment_that_is_dropped_leaves_no_entry_and_its_worker_goes_on(nc: Nats) -> None:
    await declare_streams(nc)
    catalogs = Catalogs(nc)
    await catalogs.publish(Revision(7, Ms(0), TWO))
    active = await active_catalog(nc, "e")

    await catalogs.publish(Revision(8, Ms(0), a_catalog()))

    assert await entry(nc, "e") == b""
    await active.read(nc)
    assert active.deployment.base_url == "https://secret.example/v1"
    with pytest.raises(EngineConfigError, match="revision 8 of the catalog has no deployment 'e'"):
        await active_catalog(nc, "e")


@pytest.mark.parametrize("harm", ["forged", "deleted", "left over", "number"])
async def test_what_workers_read_is_put_right(
    nc: Nats, ledger: Ledger, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    async with refreshing(nc, ledger, every_s=0.1) as (catalogs, _):
        revision = await ledger.catalogs.apply(TOML, "t", now())
        await catalogs.publish(revision)
        await is_in_force(catalogs, revision.number)
        right = await entry(nc, "d")

        match harm:
            case "forged":
                await nc.jetstream().publish(
                    subjects.catalog_entry("d"), jsoned(Revision(revision.number, Ms(0), a_catalog()))
                )
            case "deleted":
                await nc.jetstream().purge_stream(
                    f"KV_{subjects.CATALOG_BUCKET}", subject=subjects.catalog_entry("d")
                )
            case "left over":
                await nc.jetstream().publish(subjects.catalog_entry("gone"), right or b"")
            case _:
                await nc.jetstream().publish(subjects.CATALOG_NUMBER, b"9")

        async def is_right() -> bool:
            return "workers did not read what is in force" in caplog.text and await catalogs.is_told(revision)

        await until(is_right, "workers read what is in force")
        assert (await entry(nc, "d"), await entry(nc, "gone") or None) == (right, None)
        assert await held(nc) == revision


async def test_a_catalog_of_more_deployments_than_fit_into_a_batch_is_written(nc: Nats) -> None:
    await declare_streams(nc)
    catalogs, model = Catalogs(nc), a_catalog().models["m"]
    deployments = {f"d{n}": Deployment(engine="simulated") for n in range(1200)}
    many = Revision(7, Ms(0), Catalog(models={"m": model}, deployments={**a_catalog().deployments, **deployments}))

    await catalogs.publish(many)

    assert await catalogs.is_told(many)
    assert await held(nc) == many


async def test_entries_that_are_not_there_are_written(nc: Nats, ledger: Ledger) -> None:
    async with refreshing(nc, ledger, every_s=0.1) as (catalogs, _):
        revision = await ledger.catalogs.apply(TOML, "t", now())
        await nc.jetstream().publish(SUBJECT, jsoned(revision))  # as a broker does that knows of no entries
        await is_in_force(catalogs, revision.number)

        async def is_there() -> bool:
            return await entry(nc, "d") == jsoned(for_deployment(revision, "d"))

        await until(is_there, "workers can read theirs")


async def test_a_revision_and_its_entries_are_written_at_once_or_not_at_all(nc: Nats) -> None:
    await declare_streams(nc)
    catalogs = Catalogs(nc)
    await catalogs.publish(Revision(5, Ms(0), a_catalog()))

    with pytest.raises(Conflict):
        await catalogs.publish(Revision(6, Ms(0), TWO), instead_of=1_000)

    assert (await held(nc)).number == 5
    assert await entry(nc, "e") is None
    assert await catalogs.is_told(Revision(5, Ms(0), a_catalog()))


async def test_an_announcement_that_was_lost_is_found_by_a_worker(nc: Nats) -> None:
    await declare_streams(nc)
    await Catalogs(nc).publish(Revision(4, Ms(0), a_catalog(attempt_timeout_s=4.0)))
    active = await active_catalog(nc, "d")
    deaf = ActiveCatalog(Revision(3, Ms(0), a_catalog()), "d")
    following = asyncio.create_task(deaf.follow(nc, every_s=0.05))

    async def has_it() -> bool:
        return deaf.deployment.attempt_timeout_s == active.deployment.attempt_timeout_s == 4.0

    await until(has_it, "it has read the bucket")
    following.cancel()
